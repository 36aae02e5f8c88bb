package memory

import (
	"context"

	"tether/broker"
)

const (
	maxWaiting = 1024 // messages that wait for one peer and subject before publishers do
	maxRounds  = 4    // of the queue that a publisher delivers for others, before Run goes on with it
)

// subscription is one peer's interest in one subject. At most one goroutine delivers for it at a
// time: the one that found it idle. Goroutines that come meanwhile queue their message, and it is the
// delivering goroutine that empties the queue. What can change is guarded by the shard's mu. There may
// be a million, so an idle one is small.
type subscription struct {
	subject string        // immutable
	peer    *peer         // immutable
	next    *subscription // another peer's interest in the subject
	lane    *lane         // nil unless somebody waits
	ended   bool          // nothing more is taken; in the table only while busy
	dropped bool          // it has ended, and nothing more is delivered
	busy    bool          // some goroutine delivers
}

// lane is what a busy subscription has when there is more than the one that delivers.
type lane struct {
	queue    []broker.Message
	spare    []broker.Message // an empty slice to swap with queue
	room     chan struct{}    // closed when there is room again; nil: nobody waits
	finished chan struct{}    // closed when the subscription is no longer busy; nil: nobody waits
}

func (l *lane) wake() {
	if l.room != nil {
		close(l.room)
		l.room = nil
	}
}

func (s *subscription) laneLocked() *lane {
	if s.lane == nil {
		s.lane = new(lane)
	}
	return s.lane
}

// idleLocked returns a channel that is closed when nobody delivers any more. The subscription is busy.
func (s *subscription) idleLocked() <-chan struct{} {
	l := s.laneLocked()
	if l.finished == nil {
		l.finished = make(chan struct{})
	}
	return l.finished
}

// offerLocked delivers m, or leaves it to the goroutine that is delivering. It reports false when the
// subscription has ended. A message that has to wait is owned. It unlocks the shard.
func (sh *shard) offerLocked(ctx context.Context, closed <-chan struct{}, s *subscription, m *broker.Message) (bool, error) {
	for {
		if s.ended {
			sh.mu.Unlock()
			return false, nil
		}
		if !s.busy {
			s.busy = true
			sh.mu.Unlock()
			s.peer.handler.Deliver(*m)
			sh.drain(s)
			return true, nil
		}
		l := s.laneLocked()
		if len(l.queue) < maxWaiting {
			l.queue = append(l.queue, m.Own())
			sh.mu.Unlock()
			return true, nil
		}
		if err := sh.awaitRoomLocked(ctx, closed, s); err != nil {
			return false, err
		}
		sh.mu.Lock()
	}
}

// offerAllLocked leaves m to all subscriptions of its subject at once, so that messages have one order for all, and
// delivers where nobody is delivering. It unlocks the shard.
func (sh *shard) offerAllLocked(ctx context.Context, closed <-chan struct{}, hash uint64, m *broker.Message) (int, error) {
	own := m.Own()
	for {
		var full *subscription
		for s := sh.subjects.find(hash, m.Subject); s != nil && full == nil; s = s.next {
			if !s.ended && s.lane != nil && len(s.lane.queue) >= maxWaiting {
				full = s
			}
		}
		if full == nil {
			break
		}
		if err := sh.awaitRoomLocked(ctx, closed, full); err != nil {
			return 0, err
		}
		sh.mu.Lock()
	}
	nodes := 0
	var few [4]*subscription
	idle := few[:0]
	for s := sh.subjects.find(hash, m.Subject); s != nil; s = s.next {
		if s.ended {
			continue
		}
		nodes++
		l := s.laneLocked()
		l.queue = append(l.queue, own)
		if !s.busy {
			s.busy = true
			idle = append(idle, s)
		}
	}
	sh.mu.Unlock()
	for _, s := range idle {
		sh.drain(s)
	}
	return nodes, nil
}

// awaitRoomLocked waits for room in the queue of s. It unlocks the shard.
func (sh *shard) awaitRoomLocked(ctx context.Context, closed <-chan struct{}, s *subscription) error {
	l := s.laneLocked()
	if l.room == nil {
		l.room = make(chan struct{})
	}
	room := l.room
	sh.mu.Unlock()
	select {
	case <-room:
		return nil
	case <-closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// drain is called by the goroutine that made the subscription busy: it delivers what has gathered
// until there is nothing left, or hands over to Run so that a publisher does not work for others for
// ever.
func (sh *shard) drain(s *subscription) {
	for round := 0; ; round++ {
		sh.mu.Lock()
		if s.dropped || s.lane == nil || len(s.lane.queue) == 0 {
			sh.restLocked(s)
			sh.mu.Unlock()
			return
		}
		if round >= maxRounds && round%maxRounds == 0 {
			sh.mu.Unlock()
			if s.peer.handOver(leftover{sh, s}) {
				return
			}
			continue
		}
		l := s.lane
		batch := l.queue
		l.queue, l.spare = l.spare, nil
		l.wake()
		sh.mu.Unlock()

		for i := range batch {
			sh.deliver(s, batch[i])
		}
		clear(batch)
		sh.mu.Lock()
		l.spare = batch[:0]
		sh.mu.Unlock()
	}
}

// deliver delivers one message of the queue unless it has been dropped since.
func (sh *shard) deliver(s *subscription, m broker.Message) {
	sh.mu.Lock()
	dropped := s.dropped
	sh.mu.Unlock()
	if !dropped {
		s.peer.handler.Deliver(m)
	}
}

// restLocked ends the delivering.
func (sh *shard) restLocked(s *subscription) {
	s.busy = false
	if s.lane != nil {
		if s.lane.finished != nil {
			close(s.lane.finished)
		}
		s.lane.wake()
		s.lane = nil
	}
	if s.ended {
		sh.unlinkLocked(s)
	}
}
