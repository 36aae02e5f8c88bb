package hub

import (
	"context"

	"tether/engine"
	"tether/internal/socketio"
)

// acks are the answers that are awaited from one socket. The fields are guarded by the socket's mu.
type acks struct {
	next    uint64
	waiting map[uint64]awaited // nil while there are none
}

// awaited is what waits for an answer: one of the two.
type awaited struct {
	answer chan *Message // has room for it; closed when there will be none
	poll   *poll
}

// EmitAck sends an event and waits for the client's answer. The error is the context's,
// ErrDisconnected, ErrTooMany, or one of Emit. It may be called from a handler:
// answers do not wait for handlers. A handler should give ctx a deadline even so, since a client that
// has more than Limits.Events events waiting behind it is not read from any more.
func (s *Socket) EmitAck(ctx context.Context, event string, args ...any) (*Message, error) {
	if ctx.Value(hookKey{}) == any(s) && !s.Connected() {
		return nil, errConnecting
	}
	if err := s.client.hub.publisher.check(event); err != nil {
		return nil, err
	}
	id, answer, err := s.await()
	if err != nil {
		return nil, err
	}
	defer s.unawait(id)
	s.saveRisk(ctx)
	head := socketio.Packet{Type: socketio.Event, ID: id, HasID: true}
	if err := s.send(head, event, args, engine.Terms{}); err != nil {
		return nil, err
	}
	select {
	case m, ok := <-answer:
		if !ok {
			return nil, ErrDisconnected
		}
		if m.unhandled() {
			return nil, ErrNoHandler
		}
		return m, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (s *Socket) await() (id uint64, answer chan *Message, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	answer = make(chan *Message, 1)
	if s.extra != nil && s.extra.acks != nil {
		id = s.extra.acks.next
	}
	if err := s.awaitLocked(id, awaited{answer: answer}); err != nil {
		return 0, nil, err
	}
	s.extra.acks.next++
	return id, answer, nil
}

// awaitAs is await with an ID that the caller has chosen.
func (s *Socket) awaitAs(id uint64, by awaited) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.awaitLocked(id, by)
}

func (s *Socket) awaitLocked(id uint64, by awaited) error {
	if s.gate.State() >= stateParked {
		return ErrDisconnected
	}
	x := s.extraLocked()
	if x.acks == nil {
		x.acks = new(acks)
	}
	if len(x.acks.waiting) >= s.client.hub.options.Limits.Acks {
		return errTooManyAcks
	}
	if x.acks.waiting == nil {
		x.acks.waiting = make(map[uint64]awaited)
	}
	x.acks.waiting[id] = by
	return nil
}

func (s *Socket) unawait(id uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.takeAwaitedLocked(id)
}

// takeAwaitedLocked returns what waits for the answer, and forgets it. A map does not shrink.
func (s *Socket) takeAwaitedLocked(id uint64) (by awaited) {
	if s.extra == nil || s.extra.acks == nil {
		return by
	}
	a := s.extra.acks
	by = a.waiting[id]
	if delete(a.waiting, id); len(a.waiting) == 0 {
		a.waiting = nil
	}
	return by
}

// acknowledged hands an answer to the one that waits for it. An answer that nobody waits for, or no
// longer, is ignored.
func (s *Socket) acknowledged(m *Message) {
	s.mu.Lock()
	by := s.takeAwaitedLocked(m.ackID)
	if v := s.sessionLocked(); v != nil {
		v.log.Prove(func(e *engine.Entry) bool { return ackIDOf(e.Text()) == int64(m.ackID) })
	}
	s.mu.Unlock()
	switch {
	case by.answer != nil:
		s.client.hub.counters.acks.Add(1)
		by.answer <- m // it has room
	case by.poll != nil:
		s.client.hub.counters.acks.Add(1)
		by.poll.settle(s, ackValue, m)
	}
}

// end tells all that wait that s will not answer. It is called once the socket does not have a any more.
// a may be nil.
func (a *acks) end(s *Socket) {
	if a == nil {
		return
	}
	for _, by := range a.waiting {
		if by.poll != nil {
			by.poll.settle(s, ackGone, nil)
		} else {
			close(by.answer)
		}
	}
}
