package hub

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/cluster"
	"tether/engine"
)

// What a node sends to one of its own sockets goes through the broker too with [Recovery.Log], so that it has a place
// among all others and is in the log. The call returns when it has come back, so that it is on its way before whatever the
// caller does next.

// directTime is how long an event may take to come back.
const directTime = 5 * time.Second

// arrivals are events that have been published for sockets of this node and are waited for.
type arrivals struct {
	n atomic.Int32

	mu      sync.Mutex
	waiting map[uint64]chan error // guarded by mu; by number of the event
}

func (a *arrivals) expect(number uint64) <-chan error {
	c := make(chan error, 1)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.waiting == nil {
		a.waiting = make(map[uint64]chan error)
	}
	a.waiting[number] = c
	a.n.Add(1)
	return c
}

// settle ends the wait for an event, if there is one.
func (a *arrivals) settle(number uint64, err error) {
	if a.n.Load() == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if c := a.waiting[number]; c != nil {
		delete(a.waiting, number)
		a.n.Add(-1)
		c <- err
	}
}

// settled says that a message has been routed: nothing is left to wait for. Passed says that it was for somebody, so another
// node gets it if no socket has here.
func (h *Hub) settled(m broker.Message, passed bool) {
	if m.Place == 0 || h.arrivals.n.Load() == 0 {
		return
	}
	if e, err := parseEnvelope(m.Data); err == nil && e.from == h.publisher.origin {
		if err = ErrDisconnected; passed {
			err = nil
		}
		h.arrivals.settle(e.number, err)
	}
}

// sendPlaced sends an event through the broker.
func (s *Socket) sendPlaced(event string, args []any, t engine.Terms) error {
	if s.gate.State() == stateGone {
		return ErrDisconnected
	}
	h := s.client.hub
	ctx, cancel := context.WithTimeout(context.Background(), directTime)
	defer cancel()
	if err := h.awaitLive(ctx); err != nil {
		return err
	}
	enc := newEncoder()
	defer enc.free()
	if err := enc.event(event, args); err != nil {
		return err
	}
	e := &Emitter{publisher: h.publisher, namespace: s.ns.name, terms: t}
	b := batch{emitter: e, encoder: enc, flags: flagOrigin, number: h.publisher.number.Add(2)}
	if t.Volatile {
		b.flags |= flagVolatile
	}
	if t.Overflow != engine.AsConfigured || t.Key != "" {
		b.flags |= flagTerms
	}
	room := s.ns.subject + s.ID()
	m := broker.Message{Subject: room}
	if s.named { // its ID is that of another node
		m.Data = b.envelope("", nil)
	} else {
		m.Subject = cluster.NodeSubject(h.options.Prefix, h.tag)
		m.Data = b.envelope(room, nil)
	}
	arrived := h.arrivals.expect(b.number)
	defer h.arrivals.settle(b.number, nil)
	reach, err := h.broker.Publish(ctx, e.placed(m, room))
	if err != nil {
		return err
	}
	if reach[0].Nobody() {
		return ErrDisconnected
	}
	select {
	case err := <-arrived:
		return err
	case <-ctx.Done():
		return broker.ErrUnavailable
	}
}
