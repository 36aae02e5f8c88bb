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
	// headStart is how long a server has to be connected to before others are tried, too.
	headStart = 250 * time.Millisecond

	// spareLife is how long a connection that was made ahead is kept: a server closes one that does not say
	// who it is.
	spareLife = time.Second

	maxAhead     = 3  // servers that are tried beside the one that nats.go asks for
	maxAddresses = 64 // to remember
)

// dialer connects to servers for nats.go, which tries one after the other and waits two seconds for each that
// does not answer. So when one does not answer soon others are tried at the same time; if one of them answers
// first its connection is kept until nats.go asks for it, and nats.go is told to go on.
type dialer struct {
	connect   func(ctx context.Context, network, address string) (net.Conn, error) // immutable
	ctx       context.Context                                                      // of the first connection; it does not end any more after connected
	connected func()

	mu     sync.Mutex
	known  map[string]bool     // guarded by mu; addresses, and whether the last attempt has succeeded
	spares map[string]net.Conn // guarded by mu
}

func newDialer(ctx context.Context, addresses []string) *dialer {
	d := &dialer{
		connect: new(net.Dialer).DialContext,
		known:   make(map[string]bool),
		spares:  make(map[string]net.Conn),
	}
	first, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	d.ctx, d.connected = first, func() { stop() }
	for _, a := range addresses {
		d.known[a] = true
	}
	return d
}

// dialed is the end of one attempt.
type dialed struct {
	address string
	conn    net.Conn
	err     error
}

var errOthersAnswer = errors.New("another server answers sooner")

// dial is for [ConnectOptions].
func (d *dialer) dial(network, address string) (net.Conn, error) {
	conn, good, others := d.begin(address)
	if conn != nil {
		return d.greeted(conn, address), nil
	}
	if !good && d.hasSpare() {
		return nil, fmt.Errorf("dial %s: %w", address, errOthersAnswer)
	}
	ctx, cancel := context.WithTimeout(d.ctx, dialTimeout)
	var attempts sync.WaitGroup
	results := make(chan dialed, 1+len(others))
	attempt := func(address string) {
		attempts.Go(func() {
			c, err := d.connect(ctx, network, address)
			results <- dialed{address, c, err}
		})
	}
	attempt(address)
	pause := time.NewTimer(headStart)
	defer pause.Stop()
	if !good {
		pause.Reset(0)
	}
	var first dialed
	for first.address != address && first.conn == nil {
		select {
		case <-pause.C:
			if d.hasSpare() {
				cancel()
				continue
			}
			for _, other := range others {
				attempt(other)
			}
		case first = <-results:
			d.note(first)
		}
	}
	cancel() // what is connected stays so
	attempts.Wait()
	close(results)
	for r := range results {
		if r.conn != nil {
			r.conn.Close() // it came too late
		}
	}
	if first.address == address {
		if first.err != nil && d.hasSpare() {
			first.err = errOthersAnswer
		}
		return d.greeted(first.conn, address), first.err
	}
	d.note(dialed{address: address, err: errOthersAnswer})
	d.keep(first)
	return nil, fmt.Errorf("dial %s: %w", address, errOthersAnswer)
}

// begin returns the connection that was made ahead to an address; or whether the address is worth a head start,
// and which others may be tried.
func (d *dialer) begin(address string) (spare net.Conn, good bool, others []string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if spare = d.spares[address]; spare != nil {
		delete(d.spares, address)
		return spare, true, nil
	}
	good, known := d.known[address]
	for a, isGood := range d.known {
		if isGood && a != address && d.spares[a] == nil && len(others) < maxAhead {
			others = append(others, a)
		}
	}
	if !known && len(d.known) < maxAddresses {
		d.known[address] = true
	}
	return nil, good || !known, others
}

func (d *dialer) note(r dialed) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, known := d.known[r.address]; known {
		d.known[r.address] = r.err == nil
	}
}

func (d *dialer) hasSpare() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.spares) > 0
}

// keep keeps a connection for a while.
func (d *dialer) keep(r dialed) {
	d.mu.Lock()
	old := d.spares[r.address]
	d.spares[r.address] = r.conn
	d.mu.Unlock()
	if old != nil {
		old.Close()
	}
	time.AfterFunc(spareLife, func() {
		d.mu.Lock()
		unused := d.spares[r.address] == r.conn
		if unused {
			delete(d.spares, r.address)
		}
		d.mu.Unlock()
		if unused {
			r.conn.Close()
		}
	})
}

// greeted returns the connection with what has to be seen to until the server has greeted.
func (d *dialer) greeted(c net.Conn, address string) net.Conn {
	if c == nil {
		return nil
	}
	return &greeting{Conn: c, address: address, stop: context.AfterFunc(d.ctx, func() { c.Close() })}
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
