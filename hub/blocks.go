package hub

import (
	"math/bits"
	"slices"
	"sync/atomic"
)

// memberBlocks holds the members of a room beyond the first, in blocks that stay where they are: each has
// twice the places of the one before, up to maxBlock. It does not shrink while the room has a member.
type memberBlocks struct {
	blocks atomic.Pointer[[]block] // replaced when a block is added

	size uint32   // guarded by the shard's mu; places handed out so far
	free []uint32 // guarded by the shard's mu; places given back
}

type block []atomic.Pointer[Socket]

const (
	firstBlock = 4
	maxBlock   = 1024

	growing = 9                             // blocks until one has maxBlock places
	grown   = firstBlock * (1<<growing - 1) // places in them
)

// lackLocked is the size of the block that the next member needs, 0 if it needs none.
func (r *room) lackLocked() int {
	if r.first.Load() == nil {
		return 0
	}
	c := r.rest.Load()
	if c == nil {
		return firstBlock
	}
	if b, i := blockOf(c.size); i == 0 && len(c.free) == 0 {
		return min(firstBlock<<min(b, growing), maxBlock)
	}
	return 0
}

// addLocked gives s a place. A block that is needed is places.
func (r *room) addLocked(s *Socket, places block) (place uint32) {
	r.n++
	if r.first.Load() == nil {
		r.first.Store(s)
		return 0
	}
	c := r.rest.Load()
	if c == nil {
		c = new(memberBlocks)
		c.blocks.Store(new([]block))
		r.rest.Store(c)
	}
	return c.addLocked(s, places) + 1
}

// removeLocked frees a place. Beside its n members r has some that are withdrawn.
func (r *room) removeLocked(place uint32, withdrawn int) {
	if place == 0 {
		r.first.Store(nil)
		return
	}
	r.rest.Load().removeLocked(place - 1)
	if r.n == 0 && withdrawn == 0 {
		r.rest.Store(nil)
	}
}

func (c *memberBlocks) addLocked(s *Socket, places block) uint32 {
	var place uint32
	if last := len(c.free) - 1; last >= 0 {
		place, c.free = c.free[last], c.free[:last]
	} else {
		place = c.size
		c.size++
	}
	b, i := blockOf(place)
	blocks := *c.blocks.Load()
	if b == len(blocks) {
		blocks = append(slices.Clip(blocks), places)
		c.blocks.Store(&blocks)
	}
	blocks[b][i].Store(s)
	return place
}

func (c *memberBlocks) removeLocked(place uint32) {
	b, i := blockOf(place)
	(*c.blocks.Load())[b][i].Store(nil)
	c.free = append(c.free, place)
}

// blockOf says where a place is.
func blockOf(place uint32) (b int, i uint32) {
	if place >= grown {
		place -= grown
		return growing + int(place/maxBlock), place % maxBlock
	}
	b = bits.Len32(place/firstBlock+1) - 1
	return b, place - firstBlock*(1<<b-1)
}

// only is the room's member if no other has come since it was last empty, else nil.
func (r *room) only() *Socket {
	if r == nil || r.rest.Load() != nil {
		return nil
	}
	return r.first.Load()
}

// each yields the members. It takes no lock; a socket that joins or leaves meanwhile may or may not
// be seen. A nil room has none.
func (r *room) each(yield func(*Socket) bool) {
	if r == nil {
		return
	}
	if s := r.first.Load(); s != nil && !yield(s) {
		return
	}
	c := r.rest.Load()
	if c == nil {
		return
	}
	for _, b := range *c.blocks.Load() {
		for i := range b {
			if s := b[i].Load(); s != nil && !yield(s) {
				return
			}
		}
	}
}
