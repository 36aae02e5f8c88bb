package metrics

import (
	"context"
	"sync"
	"sync/atomic"

	"tether/engine"
	"tether/hub"
	"tether/presence"
)

// maxEvents is how many events get a label of their own; the others are counted together.
const maxEvents = 200

// handled is an event of clients that a handler of On is for.
type handled struct{ namespace, event string }

// events counts events of clients by name. It is a [hub.Tracer] that follows nothing.
type events struct {
	mu     sync.Mutex
	counts sync.Map      // handled to *atomic.Uint64; grows with mu held
	n      int           // guarded by mu
	others atomic.Uint64 // events beyond maxEvents
}

// Name implements [hub.Tracer].
func (*events) Name() string { return "metrics" }

// Sampled implements [hub.Tracer].
func (*events) Sampled(context.Context, string, hub.Target, string) bool { return false }

// Emit implements [hub.Tracer].
func (*events) Emit(context.Context, string, []hub.Target, string) ([]byte, func([]hub.Receipt, error)) {
	return nil, nil
}

// Arrived implements [hub.Tracer].
func (*events) Arrived([]byte, string, string) engine.Watcher { return nil }

// Handle implements [hub.Tracer].
func (e *events) Handle(ctx context.Context, s *hub.Socket, m *hub.Message, declared bool) (context.Context, func(error)) {
	if declared {
		e.count(handled{s.Namespace().Name(), m.Event()})
	}
	return ctx, nil
}

func (e *events) count(h handled) {
	if n, ok := e.counts.Load(h); ok {
		n.(*atomic.Uint64).Add(1)
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if n, ok := e.counts.Load(h); ok {
		n.(*atomic.Uint64).Add(1)
		return
	}
	if e.n == maxEvents {
		e.others.Add(1)
		return
	}
	n := new(atomic.Uint64)
	n.Add(1)
	e.n++
	e.counts.Store(h, n)
}

// show shows all counts.
func (e *events) show(show show) {
	e.counts.Range(func(h, n any) bool {
		show(float64(n.(*atomic.Uint64).Load()), h.(handled).namespace, h.(handled).event)
		return true
	})
	if n := e.others.Load(); n > 0 {
		show(float64(n), "other", "other")
	}
}

// Events counts the events of clients by name: of those only that a handler of On is for, and of the first 200 of them.
// It is for [hub.Options].Tracers. Without it there is no tether_events_received_total.
func (c *Collector) Events() hub.Tracer { return &c.events }

// changes counts what this node tells of users.
type changes struct{ online, offline atomic.Uint64 }

func (n *changes) told(e presence.Event) {
	if e.Online {
		n.online.Add(1)
	} else {
		n.offline.Add(1)
	}
}
