package memory

import "tether/internal/probe"

// table finds the first subscription of each subject: a hash table with linear probing, because most
// lookups are of subjects that nobody has looked up for a while, and so cost as much as the cache lines
// that they touch.
type table struct {
	slots []slot // a power of two of them, or none; a quarter is free
	used  int
}

type slot struct {
	hash  uint64
	first *subscription // nil: free
}

const minSlots = 4

// find returns nil if there is none.
func (t *table) find(hash uint64, subject string) *subscription {
	for i := hash; len(t.slots) > 0; i++ {
		s := &t.slots[i&uint64(len(t.slots)-1)]
		if s.first == nil || s.hash == hash && s.first.subject == subject {
			return s.first
		}
	}
	return nil
}

// add adds the first subscription of a subject.
func (t *table) add(hash uint64, first *subscription) {
	if 4*(t.used+1) > 3*len(t.slots) {
		old := t.slots
		t.slots = make([]slot, max(2*len(old), minSlots))
		for _, s := range old {
			if s.first != nil {
				t.put(s)
			}
		}
	}
	t.put(slot{hash, first})
	t.used++
}

func (t *table) put(s slot) {
	mask := uint64(len(t.slots) - 1)
	i := s.hash & mask
	for t.slots[i].first != nil {
		i = (i + 1) & mask
	}
	t.slots[i] = s
}

// set replaces the first subscription of a subject, which is there; nil removes the subject.
func (t *table) set(hash uint64, old, first *subscription) {
	mask := uint64(len(t.slots) - 1)
	i := hash & mask
	for t.slots[i].first != old {
		i = (i + 1) & mask
	}
	if first != nil {
		t.slots[i].first = first
		return
	}
	if t.used--; t.used == 0 { // give a burst's memory back
		t.slots = nil
		return
	}
	free := probe.CloseGap(int(i), int(mask), func(i int) (int, bool) {
		return int(t.slots[i].hash & mask), t.slots[i].first != nil
	}, func(to, from int) { t.slots[to] = t.slots[from] })
	t.slots[free] = slot{}
}
