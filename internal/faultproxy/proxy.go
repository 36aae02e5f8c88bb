// Package faultproxy is a TCP proxy for tests that fails on command: it falls silent, slows down,
// cuts, or refuses, while both ends believe what the network lets them believe.
package faultproxy

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Direction is one way, or both, through the proxy.
type Direction uint8

const (
	ToServer Direction = 1 << iota
	ToClient
	Both = ToServer | ToClient
)

// Proxy forwards TCP connections to a target. Its methods may be called from any goroutine. Faults
// add up, until Heal.
type Proxy struct {
	listener net.Listener // immutable
	wg       sync.WaitGroup

	mu      sync.Mutex
	target  string             // guarded by mu
	idle    time.Duration      // guarded by mu; after which a link that is silent is cut; 0: it is not
	closed  bool               // guarded by mu
	links   map[*link]struct{} // guarded by mu
	faults  [2]faults          // guarded by mu; by lane
	refuse  bool               // guarded by mu
	changed chan struct{}      // guarded by mu; closed and replaced at every change of faults
}

// faults are what is wrong with one direction.
type faults struct {
	held      bool
	swallowed bool
	delay     time.Duration
	epoch     int   // counts CutAfter, so that every lane starts to count anew
	budget    int64 // valid when epoch > 0 and limited
	limited   bool
}

// New returns a proxy to target, a host:port, that listens on a loopback port of its own and ends with
// the test.
func New(t testing.TB, target string) *Proxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("faultproxy: %v", err)
	}
	p := &Proxy{
		listener: l,
		target:   target,
		links:    make(map[*link]struct{}),
		changed:  make(chan struct{}),
	}
	p.wg.Add(1)
	go p.accept() // owned by close, which waits for wg
	t.Cleanup(p.close)
	return p
}

// Addr is the host:port to connect to instead of the target.
func (p *Proxy) Addr() string { return p.listener.Addr().String() }

// Links is the number of connections that pass through the proxy now.
func (p *Proxy) Links() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.links)
}

// Hold stops forwarding in direction d, silently, as a partition does: nothing is lost, and Heal
// delivers what waited. The proxy goes on reading until it holds about 2 MiB a connection. A
// connection opened meanwhile is accepted, and as silent.
func (p *Proxy) Hold(d Direction) { p.change(d, func(f *faults) { f.held = true }) }

// Swallow throws away everything in direction d, the end of the connection included. A connection
// that has lost bytes so stays silent in that direction after Heal, until somebody closes it.
func (p *Proxy) Swallow(d Direction) { p.change(d, func(f *faults) { f.swallowed = true }) }

// Delay forwards everything in direction d later by delay, in order. Zero ends it.
func (p *Proxy) Delay(d Direction, delay time.Duration) {
	p.change(d, func(f *faults) { f.delay = delay })
}

// CutAfter cuts every connection, present and future, when n more bytes of it have been forwarded
// in direction d.
func (p *Proxy) CutAfter(d Direction, n int64) {
	p.change(d, func(f *faults) { f.epoch++; f.budget, f.limited = n, true })
}

// Refuse closes every connection that is opened from now on, at once. Those that are open stay.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = true
}

// Lead leads connections that are opened from now on to another target. Those that are open stay.
func (p *Proxy) Lead(target string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.target = target
}

// Idle cuts connections that are opened from now on when nothing has come from the client for so long.
func (p *Proxy) Idle(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.idle = d
}

// Cut resets every connection that is open now.
func (p *Proxy) Cut() {
	p.mu.Lock()
	links := make([]*link, 0, len(p.links))
	for l := range p.links {
		links = append(links, l)
	}
	p.mu.Unlock()
	for _, l := range links {
		l.cut()
	}
}

// Heal ends every fault. Connections that were cut stay cut.
func (p *Proxy) Heal() {
	p.change(Both, func(f *faults) { *f = faults{epoch: f.epoch + 1} })
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuse = false
}

func (p *Proxy) change(d Direction, f func(*faults)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.faults {
		if d&(1<<i) != 0 {
			f(&p.faults[i])
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
}

// look returns the faults of a direction and a channel that is closed when they change.
func (p *Proxy) look(lane int) (faults, <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.faults[lane], p.changed
}

func (p *Proxy) accept() {
	defer p.wg.Done()
	for {
		c, err := p.listener.Accept()
		if err != nil {
			return // closed
		}
		p.mu.Lock()
		refuse := p.refuse
		p.mu.Unlock()
		if refuse {
			reset(c)
			continue
		}
		p.wg.Add(1)
		go p.forward(c) // owned by close, which waits for wg
	}
}

// forward carries one connection until both its directions have ended.
func (p *Proxy) forward(client net.Conn) {
	defer p.wg.Done()
	p.mu.Lock()
	target, idle := p.target, p.idle
	p.mu.Unlock()
	server, err := net.DialTimeout("tcp", target, 5*time.Second)
	if err != nil {
		reset(client)
		return
	}
	l := &link{proxy: p, client: client, server: server, idle: idle, gone: make(chan struct{})}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		l.cut()
		return
	}
	p.links[l] = struct{}{}
	p.mu.Unlock()

	l.run()

	p.mu.Lock()
	delete(p.links, l)
	p.mu.Unlock()
}

func (p *Proxy) close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.listener.Close()
	p.Cut()
	p.wg.Wait()
}
