package transport

import (
	"sync"

	"tether/hub"
)

// queue holds the packets that wait for a client, in order. Empty it owns no memory, and with one
// packet none but itself. It is guarded by its session's lock.
type queue struct {
	first *hub.Packet
	more  *backlog // behind first; nil when there is nothing behind it
}

type backlog struct {
	packets []*hub.Packet
	head    int // of packets that are gone
}

// maxBacklogKept is the largest capacity that a pooled backlog keeps.
const maxBacklogKept = 256

func (q *queue) empty() bool { return q.first == nil }

func (q *queue) push(p *hub.Packet, pool *sync.Pool) {
	if q.first == nil {
		q.first = p
		return
	}
	if q.more == nil {
		if q.more, _ = pool.Get().(*backlog); q.more == nil {
			q.more = &backlog{packets: make([]*hub.Packet, 0, 16)}
		}
	}
	b := q.more
	if len(b.packets) == cap(b.packets) && b.head >= len(b.packets)/2 {
		b.packets = b.packets[:copy(b.packets, b.packets[b.head:])]
		b.head = 0
	}
	b.packets = append(b.packets, p)
}

// pop takes the oldest packet, nil if there is none.
func (q *queue) pop(pool *sync.Pool) *hub.Packet {
	p := q.first
	q.first = nil
	if b := q.more; b != nil {
		q.first = b.packets[b.head]
		b.packets[b.head] = nil
		if b.head++; b.head == len(b.packets) {
			q.more = nil
			if cap(b.packets) <= maxBacklogKept {
				b.packets, b.head = b.packets[:0], 0
				pool.Put(b)
			}
		}
	}
	return p
}

// clear drops everything.
func (q *queue) clear() { q.first, q.more = nil, nil }
