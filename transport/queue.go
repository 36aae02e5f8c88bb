package transport

import "tether/engine"

// queue holds the packets that wait for a client, in order. Empty it owns no memory, and with one
// packet none but itself. It is guarded by its session's lock. Its packets are held in Handler.queued,
// except for the first if it is small, so that what does not wait long costs no counting.
type queue struct {
	more  *backlog // behind first; nil when there is nothing behind it
	size  int      // bytes of packets, as Handler.weight has it
	first *engine.Packet
}

// backlog is at least one packet. Some may have gone out of turn: nil stands where they were, up to
// half of what there is room for.
type backlog struct {
	packets []*engine.Packet
	head    int            // of packets that are gone; packets[head] is there
	live    int            // packets that are there
	keyed   map[string]int // where the packet with a key is; nil before the first

	// Those that yield: see Handler.yields.
	yielding      int // how many
	yieldingBytes int // as queue.size
	oldest        int // none of packets[:oldest] does
}

// maxBacklogKept is the largest capacity that a pooled backlog keeps.
const maxBacklogKept = 256

func (q *queue) empty() bool { return q.first == nil }

func (q *queue) push(p *engine.Packet, h *Handler) {
	weight := h.weight(p)
	q.size += weight
	if q.first == nil {
		q.first = p
		if large(p) {
			p.Hold(&h.queued)
		}
		return
	}
	p.Hold(&h.queued)
	if q.more == nil {
		if q.more, _ = h.backlogs.Get().(*backlog); q.more == nil {
			q.more = &backlog{packets: make([]*engine.Packet, 0, 16)}
		}
	}
	b := q.more
	if len(b.packets) == cap(b.packets) && b.live <= len(b.packets)/2 {
		b.compact()
	}
	if key := p.Key(); key != "" {
		b.note(key, len(b.packets))
	}
	if h.yields(p) {
		b.yielding++
		b.yieldingBytes += weight
	}
	b.packets = append(b.packets, p)
	b.live++
}

func (b *backlog) note(key string, i int) {
	if b.keyed == nil {
		b.keyed = make(map[string]int)
	}
	b.keyed[key] = i
}

// compact moves the packets to the front.
func (b *backlog) compact() {
	n := 0
	for _, p := range b.packets[b.head:] {
		if p == nil {
			continue
		}
		if key := p.Key(); key != "" {
			b.keyed[key] = n
		}
		b.packets[n] = p
		n++
	}
	clear(b.packets[n:])
	b.packets, b.head, b.oldest = b.packets[:n], 0, 0
}

// pop takes the oldest packet, nil if there is none.
func (q *queue) pop(h *Handler) *engine.Packet {
	p := q.first
	if p == nil {
		return nil
	}
	q.size -= h.weight(p)
	q.first = nil
	if large(p) {
		p.Release(&h.queued)
	}
	if b := q.more; b != nil {
		q.first = b.packets[b.head]
		q.unlist(b.head, h)
		if !large(q.first) {
			q.first.Release(&h.queued)
		}
	}
	return p
}

// unlist takes a packet out of the backlog, which is given back when there is none left.
func (q *queue) unlist(i int, h *Handler) {
	b := q.more
	p := b.packets[i]
	b.packets[i] = nil
	if p.Key() != "" {
		delete(b.keyed, p.Key())
	}
	if h.yields(p) {
		b.yielding--
		b.yieldingBytes -= h.weight(p)
	}
	if b.live--; b.live == 0 {
		q.more = nil
		if cap(b.packets) <= maxBacklogKept {
			*b = backlog{packets: b.packets[:0], keyed: b.keyed}
			h.backlogs.Put(b)
		}
		return
	}
	for b.packets[b.head] == nil {
		b.head++
	}
}

// find is the packet with a key, nil if none waits, or the key is empty.
func (q *queue) find(key string) *engine.Packet {
	switch {
	case key == "" || q.first == nil:
		return nil
	case q.first.Key() == key:
		return q.first
	case q.more != nil:
		if i, ok := q.more.keyed[key]; ok {
			return q.more.packets[i]
		}
	}
	return nil
}

// cut takes out p, which find has found.
func (q *queue) cut(p *engine.Packet, h *Handler) {
	if p == q.first {
		q.pop(h)
		return
	}
	q.size -= h.weight(p)
	q.unlist(q.more.keyed[p.Key()], h)
	p.Release(&h.queued)
}

// yielding is how many bytes the packets have that may be dropped for another, and whether they are all
// that waits.
func (q *queue) yielding(h *Handler) (bytes int, all bool) {
	if q.first == nil {
		return 0, true
	}
	if all = h.yields(q.first); all {
		bytes = h.weight(q.first)
	}
	if b := q.more; b != nil {
		bytes += b.yieldingBytes
		all = all && b.yielding == b.live
	}
	return bytes, all
}

// yield drops the oldest packet that may be dropped, and returns it. There must be one.
func (q *queue) yield(h *Handler) *engine.Packet {
	if h.yields(q.first) {
		return q.pop(h)
	}
	b := q.more
	b.oldest = max(b.oldest, b.head)
	for b.packets[b.oldest] == nil || !h.yields(b.packets[b.oldest]) {
		b.oldest++
	}
	p := b.packets[b.oldest]
	q.size -= h.weight(p)
	q.unlist(b.oldest, h)
	p.Release(&h.queued)
	return p
}

// clear drops everything.
func (q *queue) clear(h *Handler) {
	if q.first != nil && large(q.first) {
		q.first.Release(&h.queued)
	}
	if q.more != nil {
		for _, p := range q.more.packets[q.more.head:] {
			if p != nil {
				p.Release(&h.queued)
			}
		}
	}
	*q = queue{}
}

// weight is what p counts in a queue. A packet that is larger than the queue is only taken when nothing
// else waits; it does not count then, so that the packets that follow it still have their room.
func (h *Handler) weight(p *engine.Packet) int {
	if size := p.Size(); size <= h.o.QueueBytes {
		return size
	}
	return 0
}

// policy is what becomes of p when a queue is full. It does not count for [engine.Packet.Control].
func (h *Handler) policy(p *engine.Packet) engine.Overflow {
	if o := p.Overflow(); o != engine.AsConfigured {
		return o
	}
	return h.o.Overflow
}

// yields reports whether p, while it waits, may be dropped to make room for another.
func (h *Handler) yields(p *engine.Packet) bool {
	return h.policy(p) == engine.DropOldest && !p.Control()
}
