package hub

import (
	"maps"
	"slices"
	"sync/atomic"

	"tether/engine"
)

// sightings are events that a client has got, or gets, by way of another node. Each delivery looks at them.
type sightings struct {
	all atomic.Pointer[map[engine.Origin]bool] // which is not changed; nil after a while
}

func (x *sightings) has(o engine.Origin) bool {
	all := x.all.Load()
	return all != nil && o != (engine.Origin{}) && (*all)[o]
}

// overtake reports whether a later event of the same publisher is among them, perhaps of the same room.
func (x *sightings) overtake(o engine.Origin) bool {
	if all := x.all.Load(); all != nil {
		for s := range *all {
			if s.From == o.From && s.Number > o.Number {
				return true
			}
		}
	}
	return false
}

// set replaces them; nil: there are none.
func (x *sightings) set(all map[engine.Origin]bool) {
	if all == nil {
		x.all.Store(nil)
		return
	}
	x.all.Store(&all)
}

func (x *sightings) list() []engine.Origin {
	if all := x.all.Load(); all != nil {
		return slices.Collect(maps.Keys(*all))
	}
	return nil
}
