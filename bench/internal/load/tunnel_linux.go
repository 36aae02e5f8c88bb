package load

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// tunnel begins a connection over TLS. What it returns is one end of a socket pair: goroutines carry the
// bytes between the other end and the server, so that the loop is the same with TLS and without.
func (l *Loop) tunnel(c *conn, from netip.AddrPort) (int, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	file := os.NewFile(uintptr(pair[1]), "tunnel")
	inner, err := net.FileConn(file) // has a descriptor of its own
	file.Close()
	if err != nil {
		unix.Close(pair[0])
		return -1, err
	}
	epoch := c.epoch
	l.tunnels.Go(func() { // ends with either connection; Run waits for it
		defer inner.Close()
		outer, err := l.dialTLS(from)
		if err != nil {
			l.Do(func() {
				if c.epoch == epoch {
					l.lost(c, err.Error())
				}
			})
			return
		}
		defer outer.Close()
		carry(inner, outer)
	})
	return pair[0], nil
}

func (l *Loop) dialTLS(from netip.AddrPort) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.dialing, l.o.Timeout)
	defer cancel()
	d := tls.Dialer{
		NetDialer: &net.Dialer{Control: func(_, _ string, raw syscall.RawConn) (err error) {
			if !from.IsValid() {
				return nil
			}
			if e := raw.Control(func(fd uintptr) { err = bind(int(fd), from) }); e != nil {
				return e
			}
			return err
		}},
		Config: l.o.tls,
	}
	c, err := d.DialContext(ctx, "tcp", l.o.address.String())
	if err != nil {
		return nil, fmt.Errorf("TLS: %w", err)
	}
	return c, nil
}

// carry carries bytes both ways until one side has ended.
func carry(inner, outer net.Conn) {
	var back sync.WaitGroup
	back.Go(func() {
		_, _ = io.Copy(inner, outer) // why it ended is seen by the loop, as the end of the connection
		inner.Close()
	})
	_, _ = io.Copy(outer, inner)
	outer.Close()
	back.Wait()
}
