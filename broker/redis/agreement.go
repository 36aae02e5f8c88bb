package redis

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// agreement is how far the counts of a Cluster's partitions can be trusted. All times are those of clock.
type agreement struct {
	clock    func() time.Duration // immutable
	disputed atomic.Bool          // some partition is

	mu    sync.Mutex
	parts [partitions]struct { // guarded by mu
		agreed  time.Duration // when the last survey began in which all agreed on the owner; 0: never
		before  time.Duration // likewise, before the owner changed
		changed time.Duration // when the owner changed
		dispute time.Duration // since when two masters say that they are the owner; 0: they do not
		until   time.Duration // until when counts are doubted
	}
}

// certain reports whether a count that has just been read is the whole truth: the owner was the only one
// less than yieldTime ago, so that nobody has left it since, and it has been the owner for long enough.
func (t *agreement) certain(part uint8) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, now := &t.parts[part], t.clock()
	return p.agreed > 0 && now < p.agreed+yieldTime && now >= p.until
}

// doubt doubts the counts of a partition until all have settled.
func (t *agreement) doubt(p int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parts[p].until = t.clock() + settleTime
}

// change records that a partition has a new owner, or none.
func (t *agreement) change(p int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	part, now := &t.parts[p], t.clock()
	part.until = now + settleTime
	if part.changed == 0 || now-part.changed > farBack {
		part.before = part.agreed
	}
	part.changed = now
}

// agree records that all agreed on the owner of a partition, in a survey that began at a time.
func (t *agreement) agree(p int, begin time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.parts[p].agreed = max(begin, 1)
}

// dispute records an opinion, and returns for how long masters have disputed a partition.
func (t *agreement) dispute(p int, o opinion) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	at, now := &t.parts[p].dispute, t.clock()
	switch {
	case len(o.claims) < 2 && (len(o.claims) == 0 || o.claims[0] == o.owner):
		*at = 0
		return 0
	case *at == 0:
		*at = now
	}
	return max(now-*at, 1)
}

// yieldTime is how long a server that others say has been replaced is still used.
const yieldTime = 2 * time.Second

// farBack is the most by which a gap begins before anything is known to have changed.
const farBack = 10 * time.Second

// left is since when messages of a partition may have been published at a new owner.
func (t *agreement) left(p int) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	part, now := &t.parts[p], t.clock()
	since := part.agreed
	if part.changed > 0 && now-part.changed < farBack {
		since = part.before
	}
	return max(since, now-farBack)
}

// opinion is what the servers say of one partition.
type opinion struct {
	owner  *server   // by the latest slotMap; nil: nobody
	claims []*server // those that say that it is theirs
	ok     bool      // the owner says so, too, and is content
}

// opinionOf gathers what is said of partition p. serverAt returns the server of an address.
func opinionOf(p int, m *slotMap, said map[*server]*slotMap, serverAt func(addr string) *server) (o opinion) {
	if addr := m.owner[p]; addr != "" {
		o.owner = serverAt(addr)
	}
	for s, c := range said {
		if c.owner[p] == s.addr {
			o.claims = append(o.claims, s)
		}
	}
	if o.owner != nil && len(o.claims) == 1 && said[o.owner] != nil && o.claims[0] != o.owner {
		o.owner = o.claims[0] // the slotMap is older than what the two say themselves
	}
	if o.owner != nil && said[o.owner] != nil && said[o.owner].owner[p] != o.owner.addr {
		next := said[o.owner].owner[p] // likewise, and its successor has not been asked
		if o.owner = nil; next != "" {
			o.owner = serverAt(next)
		}
	}
	o.ok = len(o.claims) == 1 && o.claims[0] == o.owner && said[o.owner].ok
	return o
}

// agreed reports whether nobody contradicts that s is the owner.
func (o opinion) agreed(s *server) bool { return o.ok && o.owner == s }

// decide returns whom to take for the owner: while there is patience the one that was, if it insists, as
// others that have not heard of the change still use it; for a partition without one, nobody while two insist.
func (o opinion) decide(was *server, patient bool) *server {
	if patient && was != o.owner {
		if was != nil && slices.Contains(o.claims, was) {
			return was
		}
		if was == nil && len(o.claims) > 1 {
			return nil
		}
	}
	return o.owner
}
