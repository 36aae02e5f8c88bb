package hub

import (
	"math"
	"sync"
)

// roster holds things at numbered places: no map, eight bytes for each. The zero value is empty.
type roster[T any] struct {
	mu    sync.RWMutex
	items []*T     // guarded by mu; nil: the place is free
	free  []uint32 // guarded by mu
}

const noPlace = math.MaxUint32

// reserve takes a place, which is empty until put.
func (r *roster[T]) reserve() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if last := len(r.free) - 1; last >= 0 {
		place := r.free[last]
		r.free = r.free[:last]
		return place
	}
	r.items = append(r.items, nil)
	return uint32(len(r.items) - 1)
}

func (r *roster[T]) put(place uint32, item *T) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items[place] = item
}

// remove frees a place.
func (r *roster[T]) remove(place uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.items[place] = nil
	r.free = append(r.free, place)
	if len(r.free) == len(r.items) { // give a burst's memory back
		r.items, r.free = nil, nil
	}
}

// at returns what is at place, or nil.
func (r *roster[T]) at(place uint32) *T {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if int(place) >= len(r.items) {
		return nil
	}
	return r.items[place]
}

func (r *roster[T]) len() int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return len(r.items) - len(r.free)
}

// all returns what is there now.
func (r *roster[T]) all() []*T {
	r.mu.RLock()
	defer r.mu.RUnlock()
	list := make([]*T, 0, len(r.items)-len(r.free))
	for _, item := range r.items {
		if item != nil {
			list = append(list, item)
		}
	}
	return list
}
