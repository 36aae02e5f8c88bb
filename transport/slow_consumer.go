package transport

import (
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"tether/engine"
)

// slowLogInterval is how often the log tells of slow consumers at most.
const slowLogInterval = 10 * time.Second

// slowConsumers counts what becomes of packets for clients that read too slowly.
type slowConsumers struct {
	newest, oldest, replaced, volatile atomic.Uint64 // packets
	full, still, total                 atomic.Uint64 // sessions: their queue was full, they took nothing, all queues were

	told                    atomic.Int64 // when the log was written, in nanoseconds of Handler.now; 0: never
	toldDropped, toldClosed atomic.Uint64
}

func (s *slowConsumers) dropped() uint64 { return s.newest.Load() + s.oldest.Load() }
func (s *slowConsumers) closed() uint64  { return s.full.Load() + s.still.Load() + s.total.Load() }

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
			s.becameLocked(old, engine.Replaced)
			h.slow.replaced.Add(1)
		}
		for !q.empty() && q.size+size > limit {
			s.becameLocked(q.yield(h), engine.DroppedOldest)
			h.slow.oldest.Add(1)
			h.tellSlow(s, &h.slow.full)
		}
		return true, teardown{}
	}
	switch {
	case p.Control() && q.size+size <= limit+limit/4:
		return true, teardown{}
	case p.Control() || h.policy(p) == engine.CloseSlow:
		p.Became(s, engine.TooSlow)
		return false, s.tooSlowLocked(&h.slow.full)
	}
	p.Became(s, engine.DroppedNewest)
	h.slow.newest.Add(1)
	h.tellSlow(s, &h.slow.full)
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

// tooSlowLocked ends the session of a client that does not read what is sent to it, and counts it.
func (s *session) tooSlowLocked(as *atomic.Uint64) teardown {
	as.Add(1)
	s.h.tellSlow(s, as)
	return s.endLocked(engine.ReasonServerClose)
}

func (s *session) tooSlow() {
	s.mu.Lock()
	if s.state == stateEnded {
		s.mu.Unlock()
		return
	}
	end := s.tooSlowLocked(&s.h.slow.still)
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
	end := s.tooSlowLocked(&s.h.slow.total)
	s.mu.Unlock()
	end.do()
}

// tellSlow writes to the log, now and then, how many clients were closed, and packets dropped, since
// the last time, and names the one that it happens to now, its user, and why. The caller may hold the lock of s.
func (h *Handler) tellSlow(s *session, as *atomic.Uint64) {
	now, told := h.now(), h.slow.told.Load()
	if told != 0 && now-told < int64(slowLogInterval) || !h.slow.told.CompareAndSwap(told, now) {
		return
	}
	why := fmt.Sprintf("its queue was full: QueueBytes is %d", h.o.QueueBytes)
	switch as {
	case &h.slow.still:
		why = fmt.Sprintf("it took nothing for the time of WriteTimeout, %v", h.o.WriteTimeout)
	case &h.slow.total:
		why = fmt.Sprintf("the queues of all clients were full: TotalQueueBytes is %d", h.o.TotalQueueBytes)
	}
	h.conns.Go(func() { // a sender does not wait for a log
		closed, dropped := h.slow.closed(), h.slow.dropped()
		s.mu.Lock()
		receiver := s.receiver
		s.mu.Unlock()
		var user slog.Attr // empty: it is left out
		if v, ok := receiver.(slog.LogValuer); ok {
			user = slog.Any("user", v)
		}
		h.o.Logger.Warn("transport: clients read too slowly, or were sent more at once than a queue takes",
			slog.String("connection", engine.PublicID(s.ID())),
			user,
			slog.String("why", why),
			slog.Uint64("closed", closed-h.slow.toldClosed.Swap(closed)),
			slog.Uint64("dropped", dropped-h.slow.toldDropped.Swap(dropped)))
	})
}

// Stats are figures of a [Handler]. Those under "now" go up and down, the others count since it was made.
type Stats struct {
	// Now.
	Sessions   int
	Queued     int64 // bytes that wait for clients: Options.TotalQueueBytes
	Unfinished int   // bytes of messages that are not complete: Options.UnfinishedBytes
	Behind     int   // sessions for which 4 KiB or more wait
	Longest    int64 // bytes that wait for the session with the most, rounded down to a power of two; 0 below 4 KiB

	// Clients that read too slowly.
	Dropped       uint64 // packets that were dropped because a queue was full
	DroppedNewest uint64 // of Dropped, those that came last
	DroppedOldest uint64 // of Dropped, those that waited and were dropped for a newer one
	Replaced      uint64 // packets that were replaced by a newer one with the same key
	Volatile      uint64 // volatile packets that were not sent, because the client was not ready
	Slow          uint64 // sessions that ended because of it, or because all queues together were full
	SlowQueue     uint64 // of Slow, those whose own queue was full
	SlowWrites    uint64 // of Slow, those that took nothing for Options.WriteTimeout
	SlowTotal     uint64 // of Slow, those that ended because of Options.TotalQueueBytes

	Opened   uint64 // sessions
	BytesOut uint64 // of WebSocket frames and of answers to polling, as they are written: heartbeats too, compressed
	BytesIn  uint64 // of WebSocket messages and of bodies, as they have come
}

// Stats reads all figures. They are not of one moment.
func (h *Handler) Stats() Stats {
	unfinished, _ := h.incomplete.Held()
	behind, longest := h.ranks.summary()
	return Stats{
		Sessions:   h.Len(),
		Queued:     h.queued.Load(),
		Unfinished: unfinished,
		Behind:     behind,
		Longest:    longest,

		Dropped:       h.slow.dropped(),
		DroppedNewest: h.slow.newest.Load(),
		DroppedOldest: h.slow.oldest.Load(),
		Replaced:      h.slow.replaced.Load(),
		Volatile:      h.slow.volatile.Load(),
		Slow:          h.slow.closed(),
		SlowQueue:     h.slow.full.Load(),
		SlowWrites:    h.slow.still.Load(),
		SlowTotal:     h.slow.total.Load(),

		Opened:   h.opened.Load(),
		BytesOut: h.burst.bytes.Load(),
		BytesIn:  h.received.Load(),
	}
}
