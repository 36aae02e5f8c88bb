package transport

import (
	"log/slog"
	"sync/atomic"
	"time"

	"tether/engine"
)

// slowLogInterval is how often the log tells of slow consumers at most.
const slowLogInterval = 10 * time.Second

// slowConsumers counts what becomes of packets for clients that read too slowly.
type slowConsumers struct {
	dropped, replaced, closed atomic.Uint64

	told                    atomic.Int64 // when the log was written, in nanoseconds of Handler.now; 0: never
	toldDropped, toldClosed atomic.Uint64
}

// admitLocked makes room for p, of size bytes, behind what waits, or reports that there is none.
func (s *session) admitLocked(p *engine.Packet, size int) (bool, teardown) {
	h, q := s.h, &s.queue
	limit := h.o.QueueBytes
	gain, all := q.yielding(h)
	old := q.find(p.Key())
	if old != nil && !h.yields(old) {
		gain += h.weight(old)
		all = all || old == q.first && q.more == nil
	}
	if all || q.size+size-gain <= limit {
		if old != nil {
			q.cut(old, h)
			h.slow.replaced.Add(1)
		}
		for !q.empty() && q.size+size > limit {
			q.yield(h)
			h.tellDropped()
		}
		return true, teardown{}
	}
	switch {
	case p.Control() && q.size+size <= limit+limit/4:
		return true, teardown{}
	case p.Control() || h.policy(p) == engine.CloseSlow:
		return false, s.tooSlowLocked()
	}
	h.tellDropped()
	return false, teardown{}
}

// behindLocked reports whether half of the queue or more is in use. A packet that is larger than the
// queue is all of it, while it waits.
func (s *session) behindLocked() bool {
	q := &s.queue
	return 2*q.size >= s.h.o.QueueBytes || q.first != nil && q.first.Size() > s.h.o.QueueBytes
}

// Behind implements [engine.Conn].
func (s *session) Behind() (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.state != stateOpen:
		return nil, engine.ErrDisconnected
	case !s.behindLocked():
		return nil, nil
	}
	x := s.extraLocked()
	if x.room == nil {
		x.room = make(chan struct{})
	}
	return x.room, nil
}

// roomLocked tells those that wait for room in the queue that there is some, or that there will be none any
// more.
func (s *session) roomLocked() {
	if x := s.extra; x != nil && x.room != nil && (s.state != stateOpen || !s.behindLocked()) {
		close(x.room)
		x.room = nil
	}
}

// tooSlowLocked ends the session of a client that does not read what is sent to it.
func (s *session) tooSlowLocked() teardown {
	s.h.slow.closed.Add(1)
	s.h.tellSlow()
	return s.endLocked(engine.ReasonServerClose)
}

func (s *session) tooSlow() {
	s.mu.Lock()
	if s.state == stateEnded {
		s.mu.Unlock()
		return
	}
	end := s.tooSlowLocked()
	s.mu.Unlock()
	end.do()
}

// relieve is tooSlow for the budget, unless the client has taken something since its session was of class,
// or there is room again.
func (s *session) relieve(class uint8) {
	s.mu.Lock()
	if s.state == stateEnded || s.extra.rank.class < class || s.h.queued.Load() <= int64(s.h.o.TotalQueueBytes) {
		s.mu.Unlock()
		return
	}
	end := s.tooSlowLocked()
	s.mu.Unlock()
	end.do()
}

func (h *Handler) tellDropped() {
	h.slow.dropped.Add(1)
	h.tellSlow()
}

// tellSlow writes to the log, now and then, how many clients were closed, and packets dropped, since
// the last time.
func (h *Handler) tellSlow() {
	now, told := h.now(), h.slow.told.Load()
	if told != 0 && now-told < int64(slowLogInterval) || !h.slow.told.CompareAndSwap(told, now) {
		return
	}
	h.conns.Go(func() { // a sender does not wait for a log
		closed, dropped := h.slow.closed.Load(), h.slow.dropped.Load()
		h.o.Logger.Warn("transport: queues of clients were full: they read too slowly, or were sent more at once than QueueBytes",
			slog.Int("queue_bytes", h.o.QueueBytes),
			slog.Uint64("closed", closed-h.slow.toldClosed.Swap(closed)),
			slog.Uint64("dropped", dropped-h.slow.toldDropped.Swap(dropped)))
	})
}

// Stats are figures of a [Handler]. Those under "now" go up and down, the others count since it was made.
type Stats struct {
	// Now.
	Sessions int
	Queued   int64 // bytes that wait for clients: Options.TotalQueueBytes
	Inbound  int   // bytes of messages that are not complete: Options.InboundBytes

	// Clients that read too slowly.
	Dropped  uint64 // packets that were dropped because a queue was full
	Replaced uint64 // packets that were replaced by a newer one with the same key
	Slow     uint64 // sessions that ended because of it, or because all queues together were full
}

// Stats reads all figures. They are not of one moment.
func (h *Handler) Stats() Stats {
	inbound, _ := h.incomplete.Held()
	return Stats{
		Sessions: h.Len(),
		Queued:   h.queued.Load(),
		Inbound:  inbound,
		Dropped:  h.slow.dropped.Load(),
		Replaced: h.slow.replaced.Load(),
		Slow:     h.slow.closed.Load(),
	}
}
