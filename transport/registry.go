package transport

import (
	"encoding/binary"

	"tether/internal/probe"
)

// registry finds sessions by their IDs: a hash table with linear probing, of one word for a session
// and no key beside it. IDs are random, and this side's, so they are their own hash. The zero value is
// empty.
type registry struct {
	slots []*session // a power of two of them, and one of them nil; or none
	n     int
}

const minSlots = 16

func (r *registry) len() int { return r.n }

// home is where the search for d begins.
func (r *registry) home(d id) int {
	return int(binary.LittleEndian.Uint64(d[:]) & uint64(len(r.slots)-1))
}

// find returns the session with the ID d, or nil.
func (r *registry) find(d id) *session {
	if r.n == 0 {
		return nil
	}
	return r.slots[r.place(d)]
}

// place is where the session with the ID d is, or would be.
func (r *registry) place(d id) int {
	i := r.home(d)
	for r.slots[i] != nil && r.slots[i].id != d {
		i = (i + 1) & (len(r.slots) - 1)
	}
	return i
}

func (r *registry) add(s *session) {
	if r.n+1 > len(r.slots)/4*3 {
		r.resize(max(minSlots, 2*len(r.slots)))
	}
	r.slots[r.place(s.id)] = s
	r.n++
}

// remove removes s if it is there.
func (r *registry) remove(s *session) {
	if r.n == 0 {
		return
	}
	gap := r.place(s.id)
	if r.slots[gap] == nil {
		return
	}
	free := probe.CloseGap(gap, len(r.slots)-1, func(i int) (int, bool) {
		s := r.slots[i]
		if s == nil {
			return 0, false
		}
		return r.home(s.id), true
	}, func(to, from int) { r.slots[to] = r.slots[from] })
	r.slots[free] = nil
	if r.n--; r.n == 0 {
		r.slots = nil
	} else if r.n < len(r.slots)/8 && len(r.slots) > minSlots {
		r.resize(len(r.slots) / 2)
	}
}

func (r *registry) resize(size int) {
	old := r.slots
	r.slots = make([]*session, size)
	for _, s := range old {
		if s != nil {
			r.slots[r.place(s.id)] = s
		}
	}
}

// all returns what is there.
func (r *registry) all() []*session {
	all := make([]*session, 0, r.n)
	for _, s := range r.slots {
		if s != nil {
			all = append(all, s)
		}
	}
	return all
}
