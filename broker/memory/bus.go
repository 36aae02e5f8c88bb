// Package memory connects nodes that live in one process: the broker of a single node, and of tests.
//
// There are no goroutines and no serialisation in between. [broker.Broker.Publish] calls Deliver of
// each subscribed peer itself and returns when they have returned; only when another goroutine is
// already delivering on that subject does it leave its message in that goroutine's queue, in order,
// and return at once. So a peer whose Deliver is slow slows the emitters that publish to it on that subject,
// and nobody else. At most 1,024 messages wait for one peer and subject (2,048 while they are being
// handed over); with more, Publish waits, and its context is honoured.
//
// Receipts are exact. Messages have no size limit. There is nothing that could fail in between, so a
// gap is never reported, and State is told nil once, when Run begins.
package memory

import (
	"hash/maphash"
	"sync"

	"tether/broker"
)

const (
	shardBits = 8
	shards    = 1 << shardBits // of the subject table
)

// Bus is the medium that peers share. It needs no closing.
type Bus struct {
	seed   maphash.Seed
	shards [shards]shard
	log    *log // nil: there is none
}

// shard is a part of the subject table, with the state of its subscriptions.
type shard struct {
	mu       sync.Mutex
	subjects table // guarded by mu

	_ [24]byte // a cache line for each
}

// NewBus returns a bus without peers.
func NewBus() *Bus {
	return &Bus{seed: maphash.MakeSeed()}
}

// NewLoggedBus returns a bus that keeps a log, see [broker.Logger]: it carries one message at a time. It lives no longer
// than the process, so it is for tests, and for nodes that share a process.
func NewLoggedBus(o broker.LogOptions) *Bus {
	b := NewBus()
	b.log = newLog(o.WithDefaults())
	return b
}

// Broker returns a new peer on the bus: one node, with its own subscriptions. The caller closes
// the peer.
func (b *Bus) Broker() broker.Broker {
	return &peer{
		bus:     b,
		started: make(chan struct{}),
		closed:  make(chan struct{}),
		handed:  make(chan struct{}, 1),
	}
}

func (b *Bus) hash(subject string) uint64 { return maphash.String(b.seed, subject) }

func (b *Bus) shard(hash uint64) *shard { return &b.shards[hash>>(64-shardBits)] }

// begin makes a peer's subscription live. What it needs is allocated without the lock.
func (b *Bus) begin(p *peer, subject string) {
	fresh := &subscription{peer: p, subject: subject}
	hash := b.hash(subject)
	sh := b.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	first := sh.subjects.find(hash, subject)
	if first == nil {
		sh.subjects.add(hash, fresh)
		return
	}
	for s := first; ; s = s.next {
		if s.peer == p {
			s.ended, s.dropped = false, false
			return
		}
		if s.next == nil {
			s.next = fresh
			return
		}
	}
}

// end ends a peer's subscription. What it has taken is still delivered; the channel is closed when all of
// it has been, and nil if it has been already.
func (b *Bus) end(p *peer, subject string) (idle <-chan struct{}) {
	hash := b.hash(subject)
	sh := b.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for s := sh.subjects.find(hash, subject); s != nil; s = s.next {
		if s.peer == p {
			return sh.endLocked(s)
		}
	}
	return nil
}

// drop drops what a peer's subscription that has ended has taken, except for a delivery that has begun.
func (b *Bus) drop(p *peer, subject string) {
	hash := b.hash(subject)
	sh := b.shard(hash)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for s := sh.subjects.find(hash, subject); s != nil; s = s.next {
		if s.peer == p && s.ended {
			s.dropLocked()
		}
	}
}

// endAll ends all of a peer's subscriptions and returns channels that are closed when the deliveries
// that had begun have returned.
func (sh *shard) endAll(p *peer) (idle []<-chan struct{}) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	var ending []*subscription
	for i := range sh.subjects.slots {
		for s := sh.subjects.slots[i].first; s != nil; s = s.next {
			if s.peer == p {
				ending = append(ending, s)
			}
		}
	}
	for _, s := range ending { // the table changes
		if c := sh.endLocked(s); c != nil {
			s.dropLocked()
			idle = append(idle, c)
		}
	}
	return idle
}

func (sh *shard) endLocked(s *subscription) (idle <-chan struct{}) {
	s.ended = true
	if s.lane != nil {
		s.lane.wake() // messages that wait for room are not taken any more
	}
	if !s.busy {
		sh.unlinkLocked(s)
		return nil
	}
	return s.idleLocked()
}

func (s *subscription) dropLocked() {
	s.dropped = true
	if s.lane != nil {
		s.lane.queue = nil
	}
}

// unlinkLocked forgets a subscription that has ended and does not deliver.
func (sh *shard) unlinkLocked(s *subscription) {
	hash := s.peer.bus.hash(s.subject)
	first := sh.subjects.find(hash, s.subject)
	if first == s {
		sh.subjects.set(hash, s, s.next)
		return
	}
	for ; first.next != s; first = first.next {
	}
	first.next = s.next
}
