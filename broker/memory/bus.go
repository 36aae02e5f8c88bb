// Package memory connects nodes that live in one process: the broker of a single node, and of tests.
//
// There are no goroutines and no serialisation in between. [broker.Broker.Publish] calls Deliver of
// each subscribed peer itself and returns when they have returned; only when another goroutine is
// already delivering on that subject does it leave its message in that goroutine's queue, in order,
// and return at once. So a peer whose Deliver is slow slows those who publish to it on that subject,
// and nobody else. At most 1,024 messages wait for one peer and subject (2,048 while they are being
// handed over); with more, Publish waits, and its context is honoured.
//
// Receipts are exact. Messages have no size limit. There is nothing that could fail in between, so a
// gap is never reported, and State is told nil once, when Run begins.
package memory

import (
	"hash/maphash"
	"slices"
	"sync"

	"tether/broker"
)

const shards = 64 // of the subject table; a power of two

// Bus is the medium that peers share. It needs no closing.
type Bus struct {
	seed   maphash.Seed
	shards [shards]shard
}

type shard struct {
	mu       sync.RWMutex
	subjects map[string][]*subscription // guarded by mu; the slices are replaced, never changed

	_ [64]byte // a cache line between the locks
}

// NewBus returns a bus without peers.
func NewBus() *Bus {
	b := &Bus{seed: maphash.MakeSeed()}
	for i := range b.shards {
		b.shards[i].subjects = make(map[string][]*subscription)
	}
	return b
}

// Broker returns a new peer on the bus: one node, with its own subscriptions. Whoever calls it closes
// the peer.
func (b *Bus) Broker() broker.Broker {
	return &peer{
		bus:     b,
		started: make(chan struct{}),
		closed:  make(chan struct{}),
		subs:    make(map[string]*subscription),
		handed:  make(chan struct{}, 1),
	}
}

func (b *Bus) shard(subject string) *shard {
	return &b.shards[maphash.String(b.seed, subject)%shards]
}

func (b *Bus) lookup(subject string) []*subscription {
	sh := b.shard(subject)
	sh.mu.RLock()
	subs := sh.subjects[subject]
	sh.mu.RUnlock()
	return subs
}

func (b *Bus) add(s *subscription) {
	sh := b.shard(s.subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old := sh.subjects[s.subject]
	sh.subjects[s.subject] = append(old[:len(old):len(old)], s)
}

func (b *Bus) remove(s *subscription) {
	sh := b.shard(s.subject)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	old := sh.subjects[s.subject]
	if len(old) == 1 && old[0] == s {
		delete(sh.subjects, s.subject)
		return
	}
	rest := slices.DeleteFunc(slices.Clone(old), func(o *subscription) bool { return o == s })
	if len(rest) > 0 {
		sh.subjects[s.subject] = rest
	}
}
