package transport

import "tether/hub"

// queue holds the packets that wait for a client, in order. Empty it owns no memory, and with one
// packet none but itself. It is guarded by its session's lock.
type queue struct {
	size  int // bytes of packets, as Handler.weight has it
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

func (q *queue) push(p *hub.Packet, h *Handler) {
	q.size += h.weight(p)
	if q.first == nil {
		q.first = p
		return
	}
	if q.more == nil {
		if q.more, _ = h.backlogs.Get().(*backlog); q.more == nil {
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
func (q *queue) pop(h *Handler) *hub.Packet {
	p := q.first
	if p == nil {
		return nil
	}
	q.size -= h.weight(p)
	q.first = nil
	if b := q.more; b != nil {
		q.first = b.packets[b.head]
		b.packets[b.head] = nil
		if b.head++; b.head == len(b.packets) {
			q.more = nil
			if cap(b.packets) <= maxBacklogKept {
				b.packets, b.head = b.packets[:0], 0
				h.backlogs.Put(b)
			}
		}
	}
	return p
}

// clear drops everything.
func (q *queue) clear() { *q = queue{} }

// weight is what p counts in a queue. A packet that is larger than the queue is only taken when nothing
// else waits; it does not count then, so that the packets that follow it still have their room.
func (h *Handler) weight(p *hub.Packet) int {
	if size := p.Size(); size <= h.o.QueueBytes {
		return size
	}
	return 0
}
