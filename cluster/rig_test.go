package cluster

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
)

// rig is a cluster in fake time, on the memory broker, with a tap at each node.
type rig struct {
	t    *testing.T
	bus  *memory.Bus
	told bool // nodes note down the changes that they are told of

	mu    sync.Mutex
	nodes []*member // guarded by mu
}

// member is one node of a rig.
type member struct {
	*Node
	tap    *tap
	name   string
	cancel context.CancelFunc
	ended  chan struct{}

	mu       sync.Mutex
	draining bool
	changes  [][]Member
}

// tap is a node's broker, which counts, and fails on command.
type tap struct {
	broker.Broker
	bound broker.Bound

	mu     sync.Mutex
	frozen chan struct{} // guarded by mu; closed by thaw; nil: it is not
	drop   func(m broker.Message) bool
	dead   bool

	sent, received, bytes atomic.Int64
}

func (p *tap) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	p.mu.Lock()
	frozen, dead := p.frozen, p.dead
	p.mu.Unlock()
	if frozen != nil {
		select {
		case <-frozen:
		case <-ctx.Done():
		}
	}
	if dead || ctx.Err() != nil {
		return unknown(len(msgs)), broker.ErrUnavailable
	}
	receipts, err := p.Broker.Publish(ctx, msgs...)
	p.sent.Add(int64(len(msgs)))
	for i := range receipts {
		switch {
		case p.bound == broker.AtLeast && receipts[i].Nodes > 0:
			receipts[i] = broker.Receipt{Nodes: 1, Bound: broker.AtLeast}
		case p.bound == broker.Unknown:
			receipts[i] = broker.Receipt{Bound: broker.Unknown}
		}
	}
	return receipts, err
}

func (p *tap) Run(ctx context.Context, h broker.Handler) error {
	deliver := h.Deliver
	h.Deliver = func(m broker.Message) {
		p.mu.Lock()
		deaf := p.frozen != nil || p.dead || p.drop != nil && p.drop(m)
		p.mu.Unlock()
		if deaf {
			return
		}
		p.received.Add(1)
		p.bytes.Add(int64(len(m.Data)))
		deliver(m)
	}
	return p.Broker.Run(ctx, h)
}

// freeze stops what the node says and hears, as SIGSTOP does; thaw lets what it was saying go on.
func (p *tap) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = make(chan struct{})
}

func (p *tap) thaw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.frozen)
	p.frozen = nil
}

// dropping has messages that the node should hear lost.
func (p *tap) dropping(f func(m broker.Message) bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop = f
}

func newRig(t *testing.T) *rig {
	return &rig{t: t, bus: memory.NewBus()}
}

var head = []byte{1, 2, 3}

// start starts a node; answer may be nil.
func (r *rig) start(answer func(ctx context.Context, q *Request) error, bound broker.Bound) *member {
	r.t.Helper()
	r.mu.Lock()
	name := fmt.Sprintf("n%03d", len(r.nodes))
	r.mu.Unlock()
	m := &member{name: name, ended: make(chan struct{}), tap: &tap{Broker: r.bus.Broker(), bound: bound}}
	o := Options{
		Prefix: "p", Tag: "tag-" + name, Head: head, Answer: answer,
		Self: func() Member {
			m.mu.Lock()
			defer m.mu.Unlock()
			return Member{Name: name, Version: "v1", Since: time.Now(), Connections: 7, Draining: m.draining}
		},
	}
	if r.told {
		o.OnChange = func(list []Member) {
			m.mu.Lock()
			defer m.mu.Unlock()
			m.changes = append(m.changes, list)
		}
	}
	r.run(m, o)
	return m
}

// guest starts a node that only asks.
func (r *rig) guest(bound broker.Bound) *member {
	r.t.Helper()
	m := &member{name: "guest", ended: make(chan struct{}), tap: &tap{Broker: r.bus.Broker(), bound: bound}}
	r.run(m, Options{Prefix: "p", Tag: "tag-guest", Head: head})
	return m
}

func (r *rig) run(m *member, o Options) {
	r.t.Helper()
	m.Node = New(m.tap, o)
	ctx, cancel := context.WithCancel(r.t.Context())
	m.cancel = cancel
	up := make(chan struct{})
	go func() { // stop waits for it
		defer close(m.ended)
		if err := m.Serve(ctx, func() { close(up) }); err != nil && !m.tap.killed() {
			r.t.Errorf("Serve of %s: %v", m.name, err)
		}
	}()
	<-up
	synctest.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.nodes = append(r.nodes, m)
}

// subscribe has nodes hear a subject of their own beside those that Serve subscribes. Nothing else is being
// subscribed then.
func (r *rig) subscribe(subject string, nodes ...*member) {
	r.t.Helper()
	for _, m := range nodes {
		if errs := m.tap.Subscribe(r.t.Context(), subject); errs != nil {
			r.t.Fatal(errs)
		}
	}
}

// killed reports whether the node has been killed: nobody would hear what its Serve returns.
func (p *tap) killed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.dead
}

// kill ends a node as SIGKILL does.
func (m *member) kill() {
	m.tap.mu.Lock()
	m.tap.dead = true
	m.tap.mu.Unlock()
	m.tap.Broker.(interface{ Close() error }).Close()
	m.cancel()
	<-m.ended
}

func (m *member) drain() {
	m.mu.Lock()
	m.draining = true
	m.mu.Unlock()
	m.Announce()
}

func (r *rig) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, m := range r.nodes {
		m.cancel()
		<-m.ended
		m.tap.Broker.Close()
	}
}

// names are those of a list.
func names(list []Member) (names []string) {
	for _, m := range list {
		names = append(names, m.Name)
	}
	return names
}

// wantMembers checks the list of each of the given nodes.
func (r *rig) wantMembers(want []string, of ...*member) {
	r.t.Helper()
	for _, m := range of {
		list, err := m.Members()
		if got := fmt.Sprint(names(list)); got != fmt.Sprint(want) || err != nil {
			r.t.Errorf("%s: got %v (%v), want %v", m.name, got, err, want)
		}
	}
}

func unknown(n int) []broker.Receipt {
	receipts := make([]broker.Receipt, n)
	for i := range receipts {
		receipts[i].Bound = broker.Unknown
	}
	return receipts
}
