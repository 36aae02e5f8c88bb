package redis

import (
	"strconv"
	"sync"
	"time"

	"tether/broker"
)

// A count is the whole truth when all who want a message are subscribed where it was published. What is
// done so that one can know: a server that has been replaced is used on by everybody for as long as it
// does not say so itself, or for yieldTime, so that publishers and subscribers part from it together; a
// publisher's knowledge of who serves what is never older than that, or its counts are not exact; and
// after a change it gives the others settleTime to follow.
const (
	// yieldTime is how long a server that others say has been replaced is still used.
	yieldTime = 2 * time.Second

	// settleTime is how long after a change others may still be about to subscribe where they should be:
	// the length of a lease. Who takes longer is taken for gone, as one whose lease has run out.
	settleTime = leaseTime
)

// reach makes a receipt of what the server at c counted.
func (s *server) reach(c *conn, subject string, count int64) broker.Reach {
	switch {
	case s.sure(c, subject):
		return broker.Reach{Nodes: int(count)}
	case count > 0:
		return broker.Reach{Nodes: int(count), Bound: broker.AtLeast}
	}
	return broker.Reach{Bound: broker.Unknown}
}

// sure reports whether a count that has just been read is the whole truth.
func (s *server) sure(c *conn, subject string) bool {
	switch {
	case s.recovering():
		return false
	case s.certain != nil:
		return s.certain(s.wire.partition(subject))
	case s.find != nil:
		at := s.spot.get()
		return at.addr == c.addr && time.Since(at.seen) < partTime
	}
	return true
}

// fail notes that a connection has failed.
func (s *server) fail() {
	now := time.Now()
	s.failed.Store(&now)
	s.failures.Add(1)
}

// recovering reports whether a connection failed a moment ago. Then the server may have been away, and
// others may not have subscribed again yet.
func (s *server) recovering() bool {
	t := s.failed.Load()
	return t != nil && time.Since(*t) < settleTime
}

// spot is where the Sentinels say that the master is.
type spot struct {
	mu   sync.Mutex
	at   sighting  // guarded by mu
	last time.Time // guarded by mu; when they were last asked by due
}

// sighting is what most Sentinels have agreed on.
type sighting struct {
	addr  string    // "": nothing yet
	seen  time.Time // when they were asked
	moved time.Time // when they were asked for the first time since it is there
}

func (s *spot) get() sighting {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.at
}

// set records a sighting and reports whether the master has moved.
func (s *spot) set(at sighting) (moved bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.seen.Before(s.at.seen) {
		return false
	}
	moved = s.at.addr != "" && s.at.addr != at.addr
	at.moved = s.at.moved
	if at.addr != s.at.addr {
		at.moved = at.seen
	}
	s.at = at
	return moved
}

// due reports, to one caller only, that it is time to ask again.
func (s *spot) due() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.last) < lookTime {
		return false
	}
	s.last = time.Now()
	return true
}

const (
	// lookTime is between two looks at where the master is.
	lookTime = 500 * time.Millisecond

	// partTime is for Sentinels what yieldTime is for a Cluster.
	partTime = 2 * lookTime
)

// runs tells a server that has been started again by the numbers that it gives to connections, which grow
// while it runs. It does not find every restart, but some that nothing else tells of: when none of our
// connections was open, or none has been used since.
type runs struct {
	mu     sync.Mutex
	newest map[string]uint64 // guarded by mu; the highest number, by address
}

// before returns the highest number at addr so far.
func (r *runs) before(addr string) uint64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.newest[addr]
}

// began notes the number of a connection, and reports whether the server is known to have been started
// again since it had given the number before.
func (r *runs) began(addr, id string, before uint64) bool {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.newest == nil {
		r.newest = make(map[string]uint64)
	}
	if n > r.newest[addr] || n < before {
		r.newest[addr] = n
	}
	return n < before
}
