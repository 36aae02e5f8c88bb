package transport

import (
	"math/bits"
	"sync"

	"tether/engine"
)

// smallBytes is what one session may hold without being counted in a budget: most never hold more.
const smallBytes = 4 << 10

// large reports whether p is counted in the budget even where a small one is not.
func large(p *engine.Packet) bool { return p.Size() >= smallBytes }

// ranks are the sessions that hold more than smallBytes, by how much they hold: each class is twice the
// one before, and in a class those come first that have been in it for longest.
type ranks struct {
	mu      sync.Mutex
	classes [32]ring // guarded by mu
}

type ring struct {
	first, last *rank
	n           int
}

// rank is a session's place. Its fields are guarded by ranks.mu, and class by the session's lock too.
type rank struct {
	s          *session
	class      uint8 // 0: none
	prev, next *rank
}

func (rs *ranks) move(r *rank, class uint8) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if r.class != 0 {
		rs.unlinkLocked(r)
	}
	if r.class = class; class == 0 {
		return
	}
	c := &rs.classes[class]
	c.n++
	if r.prev = c.last; r.prev == nil {
		c.first = r
	} else {
		r.prev.next = r
	}
	c.last = r
}

func (rs *ranks) unlinkLocked(r *rank) {
	c := &rs.classes[r.class]
	c.n--
	if r.prev == nil {
		c.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		c.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

// largest is the session that holds most, and its class; nil if none is worth mentioning.
func (rs *ranks) largest() (*session, uint8) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for i := len(rs.classes) - 1; i > 0; i-- {
		if r := rs.classes[i].first; r != nil {
			return r.s, uint8(i)
		}
	}
	return nil, 0
}

// summary is how many sessions have a rank, and the fewest bytes that the first of them holds.
func (rs *ranks) summary() (n int, longest int64) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for i := 1; i < len(rs.classes); i++ {
		if c := &rs.classes[i]; c.n > 0 {
			n += c.n
			longest = smallBytes << (i - 1)
		}
	}
	return n, longest
}

// stall is what a session holds that is being written and was not taken at once.
type stall struct {
	packet *engine.Packet // whose bytes they are; nil if they are a copy
	bytes  int            // of a copy
}

// holdsLocked is how many bytes wait for the client.
func (s *session) holdsLocked() int {
	n := s.queue.size
	if p := s.queue.first; p != nil && p.Size() > s.h.o.QueueBytes {
		n += p.Size()
	}
	if x := s.extra; x != nil {
		n += x.stall.bytes
		if x.stall.packet != nil {
			n += x.stall.packet.Size()
		}
	}
	return n
}

// rankLocked brings the session's rank up to date.
func (s *session) rankLocked() {
	class := uint8(min(bits.Len(uint(s.holdsLocked())/smallBytes), 31))
	if s.state == stateEnded {
		class = 0
	}
	x := s.extra
	if x == nil || x.rank == nil {
		if class == 0 {
			return
		}
		x = s.extraLocked()
		x.rank = &rank{s: s}
	}
	if x.rank.class != class {
		s.h.ranks.move(x.rank, class)
	}
}

// lessLocked is called when packets have left the queue.
func (s *session) lessLocked() {
	if s.extra == nil {
		return
	}
	s.roomLocked()
	if r := s.extra.rank; r != nil && r.class != 0 {
		s.rankLocked()
	}
}

// unwritten notes what is left of a round, and waits for the client. Little is not noted.
func (s *session) unwritten(rest []byte, r round) {
	if len(rest) < smallBytes {
		return
	}
	s.mu.Lock()
	if s.state != stateEnded {
		s.writtenLocked()
		x := s.extraLocked()
		if x.stall.packet = r.packet; r.packet != nil {
			r.packet.Hold(&s.h.queued)
		} else {
			x.stall.bytes = len(rest)
			s.h.queued.Add(int64(len(rest)))
		}
		s.rankLocked()
	}
	s.mu.Unlock()
	s.h.relieve()
}

// writtenLocked undoes unwritten.
func (s *session) writtenLocked() {
	x := s.extra
	if x == nil || x.stall == (stall{}) {
		return
	}
	was := x.stall
	x.stall = stall{}
	s.rankLocked() // first: what is not counted has no rank
	if was.packet != nil {
		was.packet.Release(&s.h.queued)
	}
	s.h.queued.Add(-int64(was.bytes))
}

// relieve ends sessions, those that hold most first, until all together are within the budget. The
// caller holds no session's lock.
func (h *Handler) relieve() {
	if h.o.TotalQueueBytes < 0 {
		return
	}
	for h.queued.Load() > int64(h.o.TotalQueueBytes) {
		s, class := h.ranks.largest()
		if s == nil {
			return
		}
		s.relieve(class)
	}
}
