package hub

import (
	"maps"
	"slices"
	"sync"

	"tether/engine"
)

// sightings are events that a client has got, or gets, by way of another node.
type sightings struct {
	mu  sync.Mutex
	all map[engine.Origin]bool // guarded by mu; nil after a while
}

func (x *sightings) has(o engine.Origin) bool {
	if o == (engine.Origin{}) {
		return false
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.all[o]
}

// overtake reports whether a later event of the same publisher is among them, perhaps of the same room.
func (x *sightings) overtake(o engine.Origin) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	for s := range x.all {
		if s.From == o.From && s.Number > o.Number {
			return true
		}
	}
	return false
}

func (x *sightings) set(all map[engine.Origin]bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.all = all
}

func (x *sightings) list() []engine.Origin {
	x.mu.Lock()
	defer x.mu.Unlock()
	return slices.Collect(maps.Keys(x.all))
}
