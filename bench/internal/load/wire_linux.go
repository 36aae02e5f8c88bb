package load

import (
	"encoding/binary"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"tether/bench/internal/clock"
	"tether/bench/internal/rawsys"
)

// dismiss closes a connection at the end of all.
func (l *Loop) dismiss(c *conn) {
	if c.fd < 0 {
		return
	}
	if l.o.Polite && c.state == up && !c.slow {
		l.goodbye(c)
	} else {
		// A reset leaves no TIME_WAIT behind, so that the next repetition finds its ports.
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Close(c.fd)
	c.fd = -1
}

func (l *Loop) goodbye(c *conn) {
	l.send(c, opText, []byte("41"))
	if c.fd >= 0 {
		l.send(c, opClose, []byte{0x03, 0xe8}) // 1000
	}
}

func (l *Loop) connected(c *conn) {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || code != 0 {
		l.lost(c, syscall.Errno(code).Error())
		return
	}
	c.state = upgrading
	l.wbuf = fmt.Appendf(l.wbuf[:0], "GET %s?EIO=4&transport=websocket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", l.o.path, l.o.host, wsKey)
	l.write(c, l.wbuf)
	if c.fd >= 0 {
		l.listen(c)
	}
}

// listen asks for the events that c can use now.
func (l *Loop) listen(c *conn) {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)}
	if c.slow && c.state == up {
		ev.Events = unix.EPOLLRDHUP
	}
	if len(c.out) > 0 {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
		l.lost(c, err.Error())
	}
}

func (l *Loop) send(c *conn, op byte, payload []byte) {
	l.wbuf = appendFrame(l.wbuf[:0], op, payload, l.rng.Uint32())
	l.write(c, l.wbuf)
}

func (l *Loop) write(c *conn, b []byte) {
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		return
	}
	n, e := rawsys.Write(c.fd, b)
	if e != 0 && e != unix.EAGAIN {
		l.lost(c, reasonOf(e))
		return
	}
	if e == unix.EAGAIN {
		n = 0
	}
	if n < len(b) {
		c.out = append(c.out, b[n:]...)
		l.listen(c)
	}
}

func (l *Loop) flush(c *conn) {
	b := c.out
	if len(b) == 0 {
		return
	}
	c.out = nil
	l.write(c, b)
	if c.fd >= 0 && len(c.out) == 0 {
		l.listen(c)
	}
}

func (l *Loop) readable(c *conn) {
	n, e := rawsys.Read(c.fd, l.buf)
	if e == unix.EAGAIN || e == unix.EINTR {
		return
	}
	if e != 0 || n == 0 {
		l.lost(c, reasonOf(e))
		return
	}
	l.now = clock.Now()
	l.stats.Bytes += uint64(n)
	data := l.buf[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, data...)
		data = c.in
	}
	rest, why := l.consume(c, data)
	if why != "" {
		l.lost(c, why)
	}
	if c.fd < 0 || len(rest) == 0 {
		c.in = nil
		return
	}
	c.in = append(c.in[:0], rest...)
}

// consume takes whole frames from data and returns what is left. why is not empty when the
// connection cannot go on.
func (l *Loop) consume(c *conn, data []byte) (rest []byte, why string) {
	if c.state == upgrading {
		n, why := status(data)
		if n == 0 {
			return data, why
		}
		c.state = opening
		data = data[n:]
	}
	for len(data) > 0 && c.fd >= 0 {
		f, n, err := parseFrame(data)
		if err != nil {
			return nil, err.Error()
		}
		if n == 0 {
			return data, ""
		}
		data = data[n:]
		if why := l.frame(c, f); why != "" {
			return nil, why
		}
	}
	return data, ""
}

func (l *Loop) frame(c *conn, f frame) (why string) {
	switch f.op {
	case opClose:
		code := 1005
		if len(f.payload) >= 2 {
			code = int(binary.BigEndian.Uint16(f.payload))
		}
		return fmt.Sprintf("websocket close %d", code)
	case opPing:
		l.send(c, opPong, f.payload)
		return ""
	case opPong:
		return ""
	case opText:
		if f.fin {
			return l.text(c, f.payload)
		}
	}
	switch { // a binary message is only counted, so a fragmented one need not be kept as such
	case !f.fin || f.op == opContinuation:
		c.msg = append(c.msg, f.payload...)
		if len(c.msg) > maxPayload {
			return errTooLarge.Error()
		}
		if f.fin {
			msg := c.msg
			c.msg = nil
			return l.text(c, msg)
		}
	}
	return ""
}

// lost ends a connection that failed, or that the other side closed.
func (l *Loop) lost(c *conn, why string) {
	was := c.state
	if was == away || was == gone {
		return
	}
	l.closeFD(c)
	l.failures[why]++
	c.state = gone
	if c.churn {
		c.state = away
		l.plan(c, l.o.Away, comeBack)
	}
	if was == up {
		l.stats.Up--
		l.stats.Closed++
		return
	}
	l.stats.Failed++
	l.handshakeEnded()
}

func (l *Loop) closeFD(c *conn) {
	if c.fd >= 0 {
		l.byFD[c.fd] = nil
		unix.Close(c.fd)
	}
	c.fd, c.in, c.out, c.msg = -1, nil, nil, nil
}
