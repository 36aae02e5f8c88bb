package hub

import (
	"context"

	"tether/engine"
	"tether/internal/socketio"
)

// acks are the answers that are awaited from one socket. The fields are guarded by the socket's mu.
type acks struct {
	next    uint64
	waiting map[uint64]chan *Message // each has room for its answer
}

// EmitAck sends an event and waits for the client's answer. The error is the context's,
// ErrDisconnected, ErrTooManyAcks, ErrConnecting, or one of Emit. It may be called from a handler:
// answers do not wait for handlers. A handler should give ctx a deadline even so, since a client that
// has more than Limits.Events events waiting behind it is not read from any more.
func (s *Socket) EmitAck(ctx context.Context, event string, args ...any) (*Message, error) {
	if ctx.Value(hookKey{}) == any(s) && !s.Connected() {
		return nil, ErrConnecting
	}
	if err := s.client.hub.publisher.check(event); err != nil {
		return nil, err
	}
	id, answer, err := s.await()
	if err != nil {
		return nil, err
	}
	defer s.unawait(id)
	head := socketio.Packet{Type: socketio.Event, ID: id, HasID: true}
	if err := s.send(head, event, args, engine.Terms{}); err != nil {
		return nil, err
	}
	select {
	case m, ok := <-answer:
		if !ok {
			return nil, ErrDisconnected
		}
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Socket) await() (id uint64, answer chan *Message, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.State() == stateGone {
		return 0, nil, ErrDisconnected
	}
	x := s.extraLocked()
	if x.acks == nil {
		x.acks = &acks{waiting: make(map[uint64]chan *Message)}
	}
	if len(x.acks.waiting) >= s.client.hub.options.Limits.Acks {
		return 0, nil, ErrTooManyAcks
	}
	id = x.acks.next
	x.acks.next++
	answer = make(chan *Message, 1)
	x.acks.waiting[id] = answer
	return id, answer, nil
}

func (s *Socket) unawait(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra != nil && s.extra.acks != nil {
		delete(s.extra.acks.waiting, id)
	}
}

// acknowledged hands an answer to the one that waits for it. An answer that nobody waits for, or no
// longer, is ignored.
func (s *Socket) acknowledged(m *Message) {
	s.mu.Lock()
	var answer chan *Message
	if s.extra != nil && s.extra.acks != nil {
		answer = s.extra.acks.waiting[m.ackID]
		delete(s.extra.acks.waiting, m.ackID)
	}
	s.mu.Unlock()
	if answer != nil {
		s.client.hub.counters.acks.Add(1)
		answer <- m // it has room
	}
}

// end tells everybody who waits that there will be no answer. It is called once the socket does not
// have a any more; a may be nil.
func (a *acks) end() {
	if a == nil {
		return
	}
	for _, answer := range a.waiting {
		close(answer)
	}
}
