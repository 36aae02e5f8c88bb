// Package budget bounds the memory of things that clients have begun and not completed, of all clients
// together. When it is too much, the one that began first ends: a client that means well is done by then.
package budget

import (
	"container/list"
	"sync"
)

// Small is the number of bytes from which something counts: most never hold more.
const Small = 4 << 10

// Budget is the sum of what its shares hold. Its zero value allows nothing.
type Budget struct {
	Limit int // in bytes; negative: none

	mu    sync.Mutex
	total int       // guarded by mu: bytes
	order list.List // guarded by mu: of *Share that hold something; the one that began first is first
}

// Share is one thing that is not complete.
type Share struct {
	// End gives it up, because all together hold too much. It is called once, without a lock, by the caller that
	// holds more at that moment.
	End func()

	bytes int           // guarded by Budget.mu
	ended bool          // guarded by Budget.mu: it holds nothing any more
	place *list.Element // guarded by Budget.mu; nil while it holds nothing
}

// Hold notes how many bytes s holds now. It must be told 0 in the end, or Drop be called.
func (b *Budget) Hold(s *Share, bytes int) {
	if bytes < Small {
		bytes = 0
	}
	b.mu.Lock()
	if !s.ended {
		b.setLocked(s, bytes)
	}
	for b.Limit >= 0 && b.total > b.Limit {
		victim := b.order.Front().Value.(*Share)
		b.dropLocked(victim)
		b.mu.Unlock()
		victim.End()
		b.mu.Lock()
	}
	b.mu.Unlock()
}

// Drop is the end of s: what Hold says afterwards does not count.
func (b *Budget) Drop(s *Share) {
	b.mu.Lock()
	b.dropLocked(s)
	b.mu.Unlock()
}

// Held is how many bytes are held, and by how many.
func (b *Budget) Held() (bytes, shares int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.total, b.order.Len()
}

func (b *Budget) dropLocked(s *Share) {
	b.setLocked(s, 0)
	s.ended = true
}

func (b *Budget) setLocked(s *Share, bytes int) {
	b.total += bytes - s.bytes
	s.bytes = bytes
	switch {
	case bytes > 0 && s.place == nil:
		s.place = b.order.PushBack(s)
	case bytes == 0 && s.place != nil:
		b.order.Remove(s.place)
		s.place = nil
	}
}
