package transport

import (
	"slices"

	"tether/engine"
)

// Waiting is a client that reads more slowly than it is written to.
type Waiting struct {
	Connection string // its public name: see [engine.PublicID]
	Bytes      int    // that wait for it
}

// Longest are the n sessions with the longest queues, the longest first, of those with 4 KiB or more. Those of
// about the same length may be left out for each other.
func (h *Handler) Longest(n int) []Waiting {
	var all []Waiting
	for _, s := range h.ranks.last(n) {
		id := s.ID()
		s.mu.Lock()
		bytes := s.holdsLocked()
		s.mu.Unlock()
		if bytes >= smallBytes {
			all = append(all, Waiting{engine.PublicID(id), bytes})
		}
	}
	slices.SortFunc(all, func(a, b Waiting) int { return b.Bytes - a.Bytes })
	return all
}

// last are n sessions of the highest classes.
func (rs *ranks) last(n int) (all []*session) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for i := len(rs.classes) - 1; i > 0; i-- {
		for r := rs.classes[i].first; r != nil && len(all) < n; r = r.next {
			all = append(all, r.s)
		}
	}
	return all
}
