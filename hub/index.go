package hub

import (
	"hash/maphash"
	"math/bits"
	"slices"
	"sync"
	"sync/atomic"
)

// index finds the sockets of a room by the room's broker subject. It is sharded; writers lock one
// shard, readers take no lock and never wait.
//
// A member keeps its place for as long as it stays, and a place is one atomic pointer, so a reader
// that walks a room while others come and go sees every member that was there all along, once.
type index struct {
	seed   maphash.Seed
	shards [shardCount]shard
}

const (
	shardBits  = 8
	shardCount = 1 << shardBits
)

type shard struct {
	table atomic.Pointer[table] // replaced when it is full; read without the lock

	mu    sync.Mutex
	live  int // guarded by mu; rooms in the table
	taken int // guarded by mu; slots of the table that are not nil: rooms and tombstones

	_ [32]byte // keeps neighbouring shards off one cache line
}

// table is a hash table with linear probing. Its length is a power of two and it always has a nil
// slot, which ends a probe.
type table []atomic.Pointer[room]

const minTable = 8

var tombstone = new(room) // in the slot of a room that is gone; its subject equals no other

// room is a set of sockets. It exists while it has members or a subscription.
type room struct {
	subject string // immutable; what the broker calls the room, and its key in the index
	hash    uint64 // immutable

	first atomic.Pointer[Socket] // place 0: most users have one device
	rest  atomic.Pointer[crowd]  // the places after it; nil until there are two

	n uint32 // guarded by the shard's mu; members

	// The state of the subscription, guarded by the shard's mu; see interest.
	subscribed bool // messages of the subject arrive
	busy       bool // a broker call about it is under way
	queued     bool // in the queue of rooms to look at
}

// crowd holds the members of a room beyond the first, in blocks that double in size and stay where
// they are. It does not shrink while the room has a member.
type crowd struct {
	blocks atomic.Pointer[[]block] // replaced when a block is added

	size uint32   // guarded by the shard's mu; places handed out so far
	free []uint32 // guarded by the shard's mu; places given back
}

type block []atomic.Pointer[Socket]

const firstBlock = 4

// membership is a socket's place in a room. The socket keeps it and gives it back once.
type membership struct {
	room  *room
	place uint32
}

func newIndex() *index {
	x := &index{seed: maphash.MakeSeed()}
	for i := range x.shards {
		t := make(table, minTable)
		x.shards[i].table.Store(&t)
	}
	return x
}

// lookup returns the room with the given subject, or nil.
func (x *index) lookup(subject string) *room {
	h := maphash.String(x.seed, subject)
	return x.shard(h).table.Load().find(h, subject)
}

func (x *index) shard(hash uint64) *shard { return &x.shards[hash>>(64-shardBits)] }

// join adds s to the room with the given subject. The caller must look at the room's subscription if
// edge is true: the room has been marked as queued.
func (x *index) join(subject string, s *Socket) (m membership, edge bool) {
	h := maphash.String(x.seed, subject)
	sh := x.shard(h)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	r := sh.table.Load().find(h, subject)
	if r == nil {
		r = &room{subject: subject, hash: h}
		sh.insertLocked(r)
	}
	return membership{r, r.addLocked(s)}, r.edgeLocked()
}

// leave gives m back. The caller must look at the room's subscription if edge is true.
func (x *index) leave(m membership) (edge bool) {
	sh := x.shard(m.room.hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	m.room.removeLocked(m.place)
	return m.room.edgeLocked()
}

// rooms counts the rooms.
func (x *index) rooms() int {
	n := 0
	for i := range x.shards {
		sh := &x.shards[i]
		sh.mu.Lock()
		n += sh.live
		sh.mu.Unlock()
	}
	return n
}

func (t table) find(hash uint64, subject string) *room {
	mask := uint64(len(t) - 1)
	for i := hash & mask; ; i = (i + 1) & mask {
		r := t[i].Load()
		if r == nil {
			return nil
		}
		if r.hash == hash && r.subject == subject {
			return r
		}
	}
}

// insertLocked adds r, which must not be there, growing or cleaning the table at three quarters full.
func (sh *shard) insertLocked(r *room) {
	t := *sh.table.Load()
	if 4*(sh.taken+1) > 3*len(t) {
		size := len(t)
		if 2*(sh.live+1) > size { // mostly rooms, few tombstones
			size *= 2
		}
		grown := make(table, size)
		for i := range t {
			if old := t[i].Load(); old != nil && old != tombstone {
				grown.put(old)
			}
		}
		sh.table.Store(&grown)
		sh.taken = sh.live
		t = grown
	}
	t.put(r)
	sh.live++
	sh.taken++
}

func (t table) put(r *room) {
	mask := uint64(len(t) - 1)
	i := r.hash & mask
	for t[i].Load() != nil {
		i = (i + 1) & mask
	}
	t[i].Store(r)
}

// removeLocked forgets a room that has neither members nor a subscription.
func (sh *shard) removeLocked(r *room) {
	t := *sh.table.Load()
	mask := uint64(len(t) - 1)
	for i := r.hash & mask; ; i = (i + 1) & mask {
		switch t[i].Load() {
		case nil:
			return
		case r:
			t[i].Store(tombstone)
			sh.live--
			if sh.live == 0 && len(t) > minTable { // give a burst's memory back
				empty := make(table, minTable)
				sh.table.Store(&empty)
				sh.taken = 0
			}
			return
		}
	}
}

// edgeLocked reports whether the subscription no longer fits the members, and nobody is about to
// look at it; it marks the room as queued then.
func (r *room) edgeLocked() bool {
	if r.queued || r.busy || r.subscribed == (r.n > 0) {
		return false
	}
	r.queued = true
	return true
}

func (r *room) addLocked(s *Socket) (place uint32) {
	r.n++
	if r.first.Load() == nil {
		r.first.Store(s)
		return 0
	}
	c := r.rest.Load()
	if c == nil {
		c = new(crowd)
		c.blocks.Store(new([]block))
		r.rest.Store(c)
	}
	return c.addLocked(s) + 1
}

func (r *room) removeLocked(place uint32) {
	r.n--
	if place == 0 {
		r.first.Store(nil)
		return
	}
	r.rest.Load().removeLocked(place - 1)
	if r.n == 0 {
		r.rest.Store(nil)
	}
}

func (c *crowd) addLocked(s *Socket) uint32 {
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
		blocks = append(slices.Clip(blocks), make(block, firstBlock<<b))
		c.blocks.Store(&blocks)
	}
	blocks[b][i].Store(s)
	return place
}

func (c *crowd) removeLocked(place uint32) {
	b, i := blockOf(place)
	(*c.blocks.Load())[b][i].Store(nil)
	c.free = append(c.free, place)
}

// blockOf says where a place is: block b has firstBlock<<b places.
func blockOf(place uint32) (b int, i uint32) {
	b = bits.Len32(place/firstBlock+1) - 1
	return b, place - firstBlock*(1<<b-1)
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
