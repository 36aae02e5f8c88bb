package nats

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

const (
	// headStart is how long a server has to be connected to while others may answer sooner. It is longer each
	// time that none did.
	headStart = 250 * time.Millisecond

	maxAddresses = 64 // to remember
)

var errOthersAnswer = errors.New("others answer sooner")

// dialer connects to servers for nats.go, which asks for one after the other. One that did not answer the last time
// is passed over once if another did, and none has all the time unless it is the only one.
type dialer struct {
	connect   func(ctx context.Context, network, address string) (net.Conn, error) // immutable
	ctx       context.Context                                                      // of the first connection; it does not end any more after connected
	connected func()

	mu      sync.Mutex
	answers map[string]bool // guarded by mu; whether the last attempt has succeeded, or none was made, by address
	failed  int             // guarded by mu; attempts in a row
	hurried bool            // guarded by mu; one of them could have had more time
}

func newDialer(ctx context.Context, addresses []string) *dialer {
	d := &dialer{connect: new(net.Dialer).DialContext, answers: make(map[string]bool)}
	first, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	d.ctx, d.connected = first, func() { stop() }
	for _, a := range addresses {
		d.answers[a] = true
	}
	return d
}

// dial is for [ConnectOptions].
func (d *dialer) dial(network, address string) (net.Conn, error) {
	limit := d.limit(address)
	if limit == 0 {
		return nil, fmt.Errorf("dial %s: %w", address, errOthersAnswer)
	}
	ctx, cancel := context.WithTimeout(d.ctx, limit)
	defer cancel()
	c, err := d.connect(ctx, network, address)
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.answers[address]; known || len(d.answers) < maxAddresses {
		d.answers[address] = err == nil
	}
	if err != nil {
		d.failed++
		d.hurried = d.hurried || limit < dialTimeout && ctx.Err() != nil
		return nil, err
	}
	d.failed, d.hurried = 0, false
	return d.greeted(c, address), nil
}

// greeted returns the connection with what has to be seen to until the server has greeted.
func (d *dialer) greeted(c net.Conn, address string) net.Conn {
	return &greeting{Conn: c, address: address, stop: context.AfterFunc(d.ctx, func() { c.Close() })}
}

// limit returns how long an attempt may take; 0: none is to be made this time.
func (d *dialer) limit(address string) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	answers, known := d.answers[address]
	others, other := 0, false
	for a, is := range d.answers {
		if a != address {
			others, other = others+1, other || is
		}
	}
	switch {
	case others == 0:
		return dialTimeout
	case known && !answers && other:
		d.answers[address] = true // next time it is tried again: the other may be of no use
		return 0
	}
	return min(headStart<<min(d.failed/(others+1), 3), dialTimeout)
}

// again reports whether an attempt may succeed that has more time.
func (d *dialer) again() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	again := d.hurried && d.ctx.Err() == nil
	d.hurried = false
	return again
}

// greeting is a connection to what should be a NATS server. It is closed with the context of its dialer.
type greeting struct {
	net.Conn
	address string
	stop    func() bool
	greeted bool // owned by the reader
}

func (g *greeting) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if g.greeted {
		return n, err
	}
	var timeout net.Error
	switch info := []byte("INFO "); {
	case n > 0 && !bytes.HasPrefix(p[:n], info[:min(n, len(info))]):
		return 0, fmt.Errorf("%s does not greet as a NATS server does: is it the port of something else?", g.address)
	case n > 0:
		g.greeted = true
	case errors.As(err, &timeout) && timeout.Timeout():
		return 0, fmt.Errorf("%s says nothing, and a NATS server speaks first: is it the port of something else, of Redis perhaps?", g.address)
	}
	return n, err
}

func (g *greeting) Close() error {
	g.stop()
	return g.Conn.Close()
}
