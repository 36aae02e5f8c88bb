package hub

import (
	"context"
	"slices"

	"tether/engine"
)

// maxKey is the length of a key of [Emitter.Latest] in bytes.
const maxKey = 256

// checkTerms reports whether an emitter may ask for t.
func checkTerms(t *engine.Terms) error {
	if !t.Overflow.Valid() || len(t.Key) > maxKey {
		return errTerms
	}
	return nil
}

// Wait returns once less than half of the queue of the client's connection is in use, which is at once
// for a client that keeps up. A handler that has much to say to one client calls it before each event, or
// now and then, instead of being cut off: an event of half of transport.Options.QueueBytes has room then,
// if nobody else emits to the client meanwhile. The error is the context's, ErrDisconnected, or, in a
// connect hook, an error: what a hook emits leaves when it has returned, and half of what may be
// held until then, Limits.Held and HeldBytes, is in use.
func (s *Socket) Wait(ctx context.Context) error {
	for {
		behind, err := s.behind(ctx)
		if behind == nil {
			return err
		}
		select {
		case <-behind:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// behind returns what is to be waited for before the socket is looked at again, if anything.
func (s *Socket) behind(ctx context.Context) (<-chan struct{}, error) {
	s.mu.Lock()
	admission := s.admission
	switch {
	case s.gate.State() >= stateParked:
		s.mu.Unlock()
		return nil, ErrDisconnected
	case admission == nil:
		s.mu.Unlock()
		behind, err := s.conn.Behind()
		if err != nil {
			err = ErrDisconnected
		}
		return behind, err
	}
	defer s.mu.Unlock()
	if s.gate.State() == stateConnecting && ctx.Value(hookKey{}) == any(s) {
		limits := &s.client.hub.options.Limits
		if 2*len(admission.held.list) >= limits.Held || 2*admission.held.bytes >= limits.HeldBytes {
			return nil, errConnecting
		}
		return nil, nil
	}
	if admission.over == nil {
		admission.over = make(chan struct{})
	}
	return admission.over, nil
}

// Sender emits events to one socket of this node on terms that [Socket.Emit] does not have, as an [Emitter]
// does to many. It is immutable and may be used concurrently; its methods return changed copies.
type Sender struct {
	socket *Socket
	terms  engine.Terms
}

// Volatile returns a sender of events that are worth nothing later: see [Emitter.Volatile].
func (s *Socket) Volatile() *Sender { return &Sender{s, engine.Terms{Volatile: true}} }

// Overflow returns a sender of events that have a policy of their own for a queue that is full.
func (s *Socket) Overflow(o Overflow) *Sender { return &Sender{s, engine.Terms{Overflow: o}} }

// Latest returns a sender of events that replace each other: see [Emitter.Latest].
func (s *Socket) Latest(key string) *Sender { return &Sender{s, engine.Terms{Key: key}} }

// Volatile is [Socket.Volatile], beside what the sender has.
func (x *Sender) Volatile() *Sender {
	c := *x
	c.terms.Volatile = true
	return &c
}

// Overflow is [Socket.Overflow], beside what the sender has.
func (x *Sender) Overflow(o Overflow) *Sender {
	c := *x
	c.terms.Overflow = o
	return &c
}

// Latest is [Socket.Latest], beside what the sender has.
func (x *Sender) Latest(key string) *Sender {
	c := *x
	c.terms.Key = key
	return &c
}

// Emit is [Socket.Emit] on the sender's terms. The error is ErrSlowConsumer
// for an event that was dropped.
func (x *Sender) Emit(event string, args ...any) error {
	t := x.terms
	if err := checkTerms(&t); err != nil {
		return err
	}
	if t.Key != "" {
		t.Key = scopedKey(x.socket.ns.name, t.Key)
	}
	return x.socket.emit(event, args, t)
}

// scopedKey keeps the keys of the namespaces of one connection apart: no namespace has a comma in it.
func scopedKey(namespace, key string) string { return namespace + "," + key }

// packets are what waits for a socket that is connecting: few, so that looking at all of them is cheap.
type packets struct {
	list  []*engine.Packet
	bytes int
}

// push adds p if it and what is there are at most limit packets of maxBytes; it reports whether.
func (q *packets) push(p *engine.Packet, limit, maxBytes int) bool {
	for !q.fits(p, limit, maxBytes) {
		i := slices.IndexFunc(q.list, func(old *engine.Packet) bool { return old.Overflow() == DropOldest })
		if i < 0 {
			return false
		}
		q.remove(i)
	}
	if i := q.replaced(p); i >= 0 {
		q.remove(i)
	}
	q.list = append(q.list, p)
	q.bytes += p.Size()
	return true
}

func (q *packets) fits(p *engine.Packet, limit, maxBytes int) bool {
	n, bytes := len(q.list)+1, q.bytes+p.Size()
	if i := q.replaced(p); i >= 0 {
		n, bytes = n-1, bytes-q.list[i].Size()
	}
	return n <= limit && bytes <= maxBytes
}

// replaced is the index of the packet that p replaces, -1 if there is none.
func (q *packets) replaced(p *engine.Packet) int {
	key := p.Key()
	if key == "" {
		return -1
	}
	return slices.IndexFunc(q.list, func(old *engine.Packet) bool { return old.Key() == key })
}

func (q *packets) remove(i int) {
	q.bytes -= q.list[i].Size()
	q.list = slices.Delete(q.list, i, i+1)
}
