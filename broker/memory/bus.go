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
	"sync"

	"tether/broker"
)

const shards = 256 // of the subject table; a power of two

// Bus is the medium that peers share. It needs no closing.
type Bus struct {
	seed   maphash.Seed
	shards [shards]shard
}

// shard is a part of the subject table, with the state of its subscriptions.
type shard struct {
	mu       sync.Mutex
	subjects map[string]*subscription // guarded by mu; the first of each subject

	_ [48]byte // a cache line for each
}

// NewBus returns a bus without peers.
func NewBus() *Bus {
	b := &Bus{seed: maphash.MakeSeed()}
	for i := range b.shards {
		b.shards[i].subjects = make(map[string]*subscription)
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
		handed:  make(chan struct{}, 1),
	}
}

func (b *Bus) shard(subject string) *shard {
	return &b.shards[maphash.String(b.seed, subject)%shards]
}

// lookup appends the subscriptions of a subject to list.
func (sh *shard) lookup(subject string, list []*subscription) []*subscription {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for s := sh.subjects[subject]; s != nil; s = s.next {
		list = append(list, s)
	}
	return list
}

// begin makes a peer's subscription live. What it needs is allocated without the lock.
func (sh *shard) begin(p *peer, subject string) {
	fresh := &subscription{peer: p}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	first := sh.subjects[subject]
	if first == nil {
		sh.subjects[subject] = fresh
		return
	}
	for s := first; ; s = s.next {
		if s.peer == p {
			s.ended = false
			return
		}
		if s.next == nil {
			s.next = fresh
			return
		}
	}
}

// end ends a peer's subscription, except for a delivery that has begun.
func (sh *shard) end(p *peer, subject string) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for s := sh.subjects[subject]; s != nil; s = s.next {
		if s.peer == p {
			sh.endLocked(s, subject)
			return
		}
	}
}

// endAll ends all of a peer's subscriptions and returns channels that are closed when the deliveries
// that had begun have returned.
func (sh *shard) endAll(p *peer) (idle []<-chan struct{}) {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for subject, s := range sh.subjects {
		for s != nil {
			next := s.next
			if s.peer == p {
				if sh.endLocked(s, subject); s.busy {
					idle = append(idle, s.idleLocked())
				}
			}
			s = next
		}
	}
	return idle
}

func (sh *shard) endLocked(s *subscription, subject string) {
	s.ended = true
	if s.lane != nil {
		s.lane.queue = nil
		s.lane.wake()
	}
	if !s.busy {
		sh.unlinkLocked(s, subject)
	}
}

// unlinkLocked forgets a subscription that has ended and does not deliver.
func (sh *shard) unlinkLocked(s *subscription, subject string) {
	first := sh.subjects[subject]
	switch {
	case first != s:
		for ; first.next != s; first = first.next {
		}
		first.next = s.next
	case s.next != nil:
		sh.subjects[subject] = s.next
	default:
		delete(sh.subjects, subject)
	}
}
