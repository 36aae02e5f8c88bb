package hub

import (
	"hash/maphash"
	"math/bits"
	"strings"
	"sync"
	"sync/atomic"
	"unsafe"
)

// index finds the sockets of a room by the room's broker subject. It is sharded; writers lock one
// shard, readers take no lock and never wait.
//
// A member keeps its place for as long as it stays, and a place is one atomic pointer, so a reader
// that walks a room while others come and go sees every member that was there all along, once. A room
// keeps its place in the table likewise, until the whole table is replaced.
type index struct {
	seed   maphash.Seed
	shards [shardCount]shard
	dirty  [shardCount / 64]atomic.Uint64 // a bit for each shard whose queue is not empty
}

const (
	shardBits  = 8
	shardCount = 1 << shardBits
)

type shard struct {
	table atomic.Pointer[table] // replaced when it is full; read without the lock

	mu        sync.Mutex
	live      int                // guarded by mu; rooms in the table
	spilled   int                // guarded by mu; buckets that a room did not fit into
	queue     []*room            // guarded by mu; rooms that interest has to look at
	waiters   map[*room]*waiters // guarded by mu; of rooms that are not subscribed yet
	withdrawn map[*room]int      // guarded by mu; members that are withdrawn; nil unless the hub drains
}

// table is a hash table of buckets. Its length is a power of two. A room that does not fit into its
// bucket is in the next that had a place.
type table []bucket

// bucket is one cache line: to find a room costs this line and the room's own. A place is taken while
// its tag is not zero.
type bucket struct {
	tags  atomic.Uint64 // a byte of the hash for each room, the first in the lowest byte, and spill
	rooms [bucketSize]atomic.Pointer[room]
}

const (
	bucketSize = 7
	fullBucket = 6 // rooms in a bucket, on average, at which a table grows
	minTable   = 1 // buckets

	spill = 1 << 56 // in the tags of a bucket that a room did not fit into: it may be in the next

	lowBits  = 0x0001_0101_0101_0101 // in each tag
	highBits = 0x0080_8080_8080_8080
)

// room is a set of sockets. It exists while it has members, withdrawn or not, or a subscription.
type room struct {
	subject string // immutable; what the broker calls the room, and its key in the index

	first atomic.Pointer[Socket]       // place 0: most users have one device
	rest  atomic.Pointer[memberBlocks] // the places after it; nil until there are two

	n uint32 // guarded by the shard's mu; members that are not withdrawn

	// The state of the subscription, guarded by the shard's mu; see interest.
	subscribed bool // messages of the subject arrive
	busy       bool // a broker call about it is under way
	queued     bool // in the queue of rooms to look at, or waiting apart because it has failed
	lost       bool // the backend has ended a subscription: perhaps the one before, and there is one
}

// membership is a socket's place in a room. The socket keeps it and gives it back once.
type membership struct {
	room      *room
	place     uint32
	live      bool // the room was subscribed when the socket came, and is while it stays
	withdrawn bool // it gets what comes, but no longer keeps the room subscribed

	since int64 // of a registration, in UnixNano; 0 if it is none. Owned by the socket
}

func newIndex() *index {
	x := &index{seed: maphash.MakeSeed()}
	for i := range x.shards {
		x.shards[i].clearLocked()
	}
	return x
}

// newRoom keeps a copy of the subject, next to the room if it is not too long: the cache line of the room
// then has the first bytes of it.
func newRoom(subject string) *room {
	switch n := len(subject); {
	case n <= 24:
		r := new(struct {
			room
			text [24]byte
		})
		r.subject = unsafe.String(&r.text[0], copy(r.text[:], subject))
		return &r.room
	case n <= 56:
		r := new(struct {
			room
			text [56]byte
		})
		r.subject = unsafe.String(&r.text[0], copy(r.text[:], subject))
		return &r.room
	default:
		return &room{subject: strings.Clone(subject)}
	}
}

// lookup returns the room with the given subject, or nil.
func (x *index) lookup(subject string) *room {
	h := maphash.String(x.seed, subject)
	return x.shards[h>>(64-shardBits)].table.Load().find(h, subject)
}

func (x *index) hash(r *room) uint64 { return maphash.String(x.seed, r.subject) }

func (x *index) shard(r *room) *shard { return &x.shards[x.hash(r)>>(64-shardBits)] }

// join adds s to the room with the given subject. The caller must have interest look at the shard if
// edge is true: the room has been queued there.
//
// What has to be allocated is allocated without the lock: the goroutine may have to help the garbage
// collector then, and everybody would wait for it.
func (x *index) join(subject string, s *Socket) (m membership, edge bool) {
	h := maphash.String(x.seed, subject)
	sh := &x.shards[h>>(64-shardBits)]
	var fresh *room
	var places block
	for {
		sh.mu.Lock()
		r := sh.table.Load().find(h, subject)
		if r == nil && fresh == nil {
			sh.mu.Unlock()
			fresh = newRoom(subject)
			continue
		}
		if r == nil {
			r = fresh
			x.insertLocked(sh, h, r)
		}
		if n := r.lackLocked(); n > len(places) {
			sh.mu.Unlock()
			places = make(block, n)
			continue
		}
		m = membership{room: r, place: r.addLocked(s, places), live: r.subscribed}
		edge = sh.edgeLocked(r)
		sh.mu.Unlock()
		return m, edge
	}
}

// leave gives m back. The caller must have interest look at the shard if edge is true.
func (x *index) leave(m membership) (edge bool) {
	r := m.room
	sh := x.shard(r)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if !m.withdrawn {
		r.n--
		r.removeLocked(m.place, sh.withdrawn[r])
		return sh.edgeLocked(r)
	}
	if sh.withdrawn[r]--; sh.withdrawn[r] == 0 {
		delete(sh.withdrawn, r)
	}
	r.removeLocked(m.place, sh.withdrawn[r])
	if sh.idleLocked(r) {
		x.forgetLocked(sh, r)
	}
	return false
}

// replace puts s in the place of the member that m is of.
func (x *index) replace(m membership, s *Socket) {
	sh := x.shard(m.room)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if m.place == 0 {
		m.room.first.Store(s)
		return
	}
	b, i := blockOf(m.place - 1)
	(*m.room.rest.Load().blocks.Load())[b][i].Store(s)
}

// withdraw has m, which leave gets afterwards, no longer keep the room subscribed. The caller must have
// interest look at the shard if edge is true.
func (x *index) withdraw(m *membership) (edge bool) {
	sh := x.shard(m.room)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.withdrawn == nil {
		sh.withdrawn = make(map[*room]int)
	}
	sh.withdrawn[m.room]++
	m.room.n--
	m.live, m.withdrawn = false, true
	return sh.edgeLocked(m.room)
}

// settled reports whether a withdrawn member of r can go: nothing more comes for it alone.
func (x *index) settled(r *room) bool {
	sh := x.shard(r)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return r.n > 0 || !r.subscribed && !r.busy && !r.queued
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

// mark says that the queue of r's shard is not empty.
func (x *index) mark(r *room) {
	i := x.hash(r) >> (64 - shardBits)
	x.dirty[i/64].Or(1 << (i % 64))
}

// tag is what a bucket keeps of a hash, in each of its bytes. It is never zero.
func tag(hash uint64) uint64 { return (hash>>48&0x7f | 0x80) * lowBits }

// matches has the highest bit of each tag that equals want set, and perhaps that of one behind it.
func matches(tags, want uint64) uint64 {
	x := tags ^ want
	return (x - lowBits) &^ x & highBits
}

func (t table) find(hash uint64, subject string) *room {
	mask, want := uint64(len(t)-1), tag(hash)
	for i := range t {
		b := &t[(hash+uint64(i))&mask]
		tags := b.tags.Load()
		for m := matches(tags, want); m != 0; m &= m - 1 {
			// It may be another room with this tag, or one that has come while we are looking, or nil.
			if r := b.rooms[bits.TrailingZeros64(m)/8].Load(); r != nil && r.subject == subject {
				return r
			}
		}
		if tags < spill {
			return nil
		}
	}
	return nil
}

// put adds r, and returns how many buckets it did not fit into that had not been full before.
func (t table) put(hash uint64, r *room) (spilled int) {
	mask := uint64(len(t) - 1)
	for i := range t {
		b := &t[(hash+uint64(i))&mask]
		tags := b.tags.Load()
		if vacant := matches(tags, 0); vacant != 0 {
			shift := bits.TrailingZeros64(vacant) - 7
			b.rooms[shift/8].Store(r)
			b.tags.Store(tags | tag(hash)&(0xff<<shift)) // after the room: a reader that sees the tag finds the room
			break
		}
		if tags < spill {
			b.tags.Store(tags | spill)
			spilled++
		}
	}
	return spilled
}

// insertLocked adds r, which must not be there. The table is replaced when it is full, or when so many
// rooms have come and gone that searches go on for too long.
func (x *index) insertLocked(sh *shard, hash uint64, r *room) {
	t := *sh.table.Load()
	if sh.live >= fullBucket*len(t) || 2*sh.spilled > len(t) {
		size := len(t)
		if 2*sh.live >= fullBucket*size {
			size *= 2
		}
		next := make(table, size)
		sh.spilled = 0
		for i := range t {
			for j := range t[i].rooms {
				if old := t[i].rooms[j].Load(); old != nil {
					sh.spilled += next.put(x.hash(old), old)
				}
			}
		}
		sh.table.Store(&next)
		t = next
	}
	sh.spilled += t.put(hash, r)
	sh.live++
}

// idleLocked reports whether r is neither subscribed nor to be, and nobody is about to look at it.
func (sh *shard) idleLocked(r *room) bool {
	return r.n == 0 && sh.withdrawn[r] == 0 && !r.subscribed && !r.busy && !r.queued && !r.lost
}

// forgetLocked removes a room that has neither members nor a subscription.
func (x *index) forgetLocked(sh *shard, r *room) {
	t := *sh.table.Load()
	hash, mask := x.hash(r), uint64(len(t)-1)
	for i := range t {
		b := &t[(hash+uint64(i))&mask]
		tags := b.tags.Load()
		for j := range b.rooms {
			if b.rooms[j].Load() == r {
				b.tags.Store(tags &^ (0xff << (8 * j)))
				b.rooms[j].Store(nil)
				if sh.live--; sh.live == 0 && len(t) > minTable { // give a burst's memory back
					sh.clearLocked()
				}
				return
			}
		}
		if tags < spill {
			return
		}
	}
}

func (sh *shard) clearLocked() {
	empty := make(table, minTable)
	sh.table.Store(&empty)
	sh.live, sh.spilled = 0, 0
}

// edgeLocked queues r if the subscription no longer fits the members, and nobody is about to look at
// it; it reports whether it has.
func (sh *shard) edgeLocked(r *room) bool {
	if r.queued || r.busy || r.subscribed == (r.n > 0) && !r.lost {
		return false
	}
	r.queued = true
	sh.queue = append(sh.queue, r)
	return true
}
