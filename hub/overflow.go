package hub

import (
	"context"
	"slices"
)

// Overflow says what becomes of an event for a client whose queue is full. It is the event's own: no
// other event, whatever its policy, can have one dropped that was not emitted to be. Answers, and
// packets of the protocol itself, are never dropped.
type Overflow uint8

const (
	// AsConfigured leaves it to the transport's options.
	AsConfigured Overflow = iota

	// CloseSlow ends the connection with ReasonServerClose, so that the client, which comes back, knows
	// that it has missed something.
	CloseSlow

	// DropNewest drops the event.
	DropNewest

	// DropOldest drops events that wait and have this policy too, the oldest first, until the event fits;
	// the event itself if that is not enough. Events of other policies, answers, and packets of the
	// protocol have such events dropped to make room for them, before anything worse happens.
	DropOldest

	overflowEnd
)

// MaxKey is the length of a key of [Emitter.Latest] in bytes.
const MaxKey = 256

// Terms are what a [Packet] asks of the queue that it waits in.
type Terms struct {
	// Key makes packets replace each other: of those with the same one, only the newest waits. It waits
	// where it came, at the end, so that what arrives has the order in which it was sent, with some of
	// it left out. Empty: none.
	Key string

	Overflow Overflow // when the queue is full
	Volatile bool     // the packet is dropped when it cannot be written now
	Control  bool     // an answer, or a packet of the protocol itself: it is never dropped
}

// check reports whether an emitter may ask for it.
func (t *Terms) check() error {
	if t.Overflow >= overflowEnd || len(t.Key) > MaxKey {
		return ErrTerms
	}
	return nil
}

// Wait returns once less than half of the queue of the client's connection is in use, which is at once
// for a client that keeps up. A handler that has much to say to one client calls it before each event, or
// now and then, instead of being cut off: an event of half of transport.Options.QueueBytes has room then,
// if nobody else emits to the client meanwhile. The error is the context's, ErrDisconnected, or, in a
// connect hook, ErrConnecting: what a hook emits leaves when it has returned, and half of what may be
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
	entry := s.entry
	switch {
	case s.gate.state.Load() == stateGone:
		s.mu.Unlock()
		return nil, ErrDisconnected
	case entry == nil:
		s.mu.Unlock()
		behind, err := s.conn.Behind()
		if err != nil {
			err = ErrDisconnected
		}
		return behind, err
	}
	defer s.mu.Unlock()
	if s.gate.state.Load() == stateConnecting && ctx.Value(hookKey{}) == any(s) {
		limits := &s.client.hub.options.Limits
		if 2*len(entry.held.list) >= limits.Held || 2*entry.held.bytes >= limits.HeldBytes {
			return nil, ErrConnecting
		}
		return nil, nil
	}
	if entry.over == nil {
		entry.over = make(chan struct{})
	}
	return entry.over, nil
}

// Sender emits events to one socket of this node on terms that [Socket.Emit] does not have. It is a
// value: its methods return changed copies.
type Sender struct {
	socket *Socket
	terms  Terms
}

// Overflow returns a sender of events that have a policy of their own for a queue that is full.
func (s *Socket) Overflow(o Overflow) Sender { return Sender{socket: s}.Overflow(o) }

// Latest returns a sender of events that replace each other: see [Emitter.Latest].
func (s *Socket) Latest(key string) Sender { return Sender{socket: s}.Latest(key) }

// Overflow is [Socket.Overflow], beside what the sender has.
func (x Sender) Overflow(o Overflow) Sender {
	x.terms.Overflow = o
	return x
}

// Latest is [Socket.Latest], beside what the sender has.
func (x Sender) Latest(key string) Sender {
	x.terms.Key = key
	return x
}

// Emit is [Socket.Emit] on the sender's terms. The error may also be ErrTerms, and is ErrSlowConsumer
// for an event that was dropped.
func (x Sender) Emit(event string, args ...any) error {
	if err := x.terms.check(); err != nil {
		return err
	}
	if x.terms.Key != "" {
		x.terms.Key = scopedKey(x.socket.ns.name, x.terms.Key)
	}
	return x.socket.emit(event, args, x.terms)
}

// scopedKey keeps the keys of the namespaces of one connection apart: no namespace has a comma in it.
func scopedKey(namespace, key string) string { return namespace + "," + key }

// packets are what waits for a socket that is connecting: few, so that looking at all of them is cheap.
type packets struct {
	list  []*Packet
	bytes int
}

// push adds p if it and what is there are at most limit packets of maxBytes; it reports whether.
func (q *packets) push(p *Packet, limit, maxBytes int) bool {
	for !q.fits(p, limit, maxBytes) {
		i := slices.IndexFunc(q.list, func(old *Packet) bool { return old.overflow == DropOldest })
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

func (q *packets) fits(p *Packet, limit, maxBytes int) bool {
	n, bytes := len(q.list)+1, q.bytes+p.Size()
	if i := q.replaced(p); i >= 0 {
		n, bytes = n-1, bytes-q.list[i].Size()
	}
	return n <= limit && bytes <= maxBytes
}

// replaced is the index of the packet that p replaces, -1 if there is none.
func (q *packets) replaced(p *Packet) int {
	key := p.Key()
	if key == "" {
		return -1
	}
	return slices.IndexFunc(q.list, func(old *Packet) bool { return old.Key() == key })
}

func (q *packets) remove(i int) {
	q.bytes -= q.list[i].Size()
	q.list = slices.Delete(q.list, i, i+1)
}
