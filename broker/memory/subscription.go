package memory

import (
	"context"
	"sync"

	"tether/broker"
)

const (
	maxWaiting = 1024 // messages that wait for one peer and subject before publishers do
	maxRounds  = 4    // of the queue that a publisher delivers for others, before Run goes on with it
)

// subscription is one peer's interest in one subject. At most one goroutine delivers for it at a
// time: the one that found it idle. Those who come meanwhile queue their message, and it is the
// delivering goroutine that empties the queue.
type subscription struct {
	peer    *peer
	subject string

	mu       sync.Mutex
	ended    bool             // guarded by mu; nothing more is taken or delivered
	busy     bool             // guarded by mu; some goroutine delivers
	queue    []broker.Message // guarded by mu; only while busy
	spare    []broker.Message // guarded by mu; an empty slice to swap with queue
	room     chan struct{}    // guarded by mu; closed when there is room again; nil: nobody waits
	finished chan struct{}    // guarded by mu; closed when no longer busy; nil: nobody waits
}

// begin makes the subscription live and reports whether it was not.
func (s *subscription) begin() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	was := s.ended
	s.ended = false
	return was
}

// end stops the subscription, except for a delivery that has begun.
func (s *subscription) end() (busy, was bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	was = !s.ended
	s.ended = true
	clear(s.queue)
	s.queue = s.queue[:0]
	s.wakeLocked()
	return s.busy, was
}

func (s *subscription) spent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended && !s.busy
}

// idle returns a channel that is closed when nobody delivers any more. The subscription has ended.
func (s *subscription) idle() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.finished == nil {
		s.finished = make(chan struct{})
		if !s.busy {
			close(s.finished)
		}
	}
	return s.finished
}

func (s *subscription) wakeLocked() {
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
}

// offer delivers m, or leaves it to the goroutine that is delivering. It reports false when the
// subscription has ended.
func (s *subscription) offer(ctx context.Context, closed <-chan struct{}, m *broker.Message) (bool, error) {
	s.mu.Lock()
	for {
		switch {
		case s.ended:
			s.mu.Unlock()
			return false, nil
		case !s.busy:
			s.busy = true
			s.mu.Unlock()
			s.peer.handler.Deliver(*m)
			s.drain()
			return true, nil
		case len(s.queue) < maxWaiting:
			s.queue = append(s.queue, *m)
			s.mu.Unlock()
			return true, nil
		}
		if s.room == nil {
			s.room = make(chan struct{})
		}
		room := s.room
		s.mu.Unlock()
		select {
		case <-room:
		case <-closed:
			return false, broker.ErrClosed
		case <-ctx.Done():
			return false, ctx.Err()
		}
		s.mu.Lock()
	}
}

// drain is called by the goroutine that made the subscription busy: it delivers what has gathered
// until there is nothing left, or hands over to Run so that a publisher does not work for others for
// ever.
func (s *subscription) drain() {
	for round := 0; ; round++ {
		s.mu.Lock()
		if s.ended || len(s.queue) == 0 {
			s.restLocked()
			return
		}
		if round >= maxRounds && round%maxRounds == 0 {
			s.mu.Unlock()
			if s.peer.handOver(s) {
				return
			}
			continue
		}
		batch := s.queue
		s.queue, s.spare = s.spare, nil
		s.wakeLocked()
		s.mu.Unlock()

		for i := range batch {
			s.deliver(batch[i])
		}
		clear(batch)
		s.mu.Lock()
		s.spare = batch[:0]
		s.mu.Unlock()
	}
}

// deliver delivers one message of the queue unless the subscription has ended since it was queued.
func (s *subscription) deliver(m broker.Message) {
	s.mu.Lock()
	ended := s.ended
	s.mu.Unlock()
	if !ended {
		s.peer.handler.Deliver(m)
	}
}

// restLocked ends the delivering, and unlocks.
func (s *subscription) restLocked() {
	s.busy = false
	ended := s.ended
	if ended {
		s.queue, s.spare = nil, nil
	}
	if s.finished != nil {
		close(s.finished)
	}
	s.mu.Unlock()
	if ended {
		s.peer.forget(s)
	}
}
