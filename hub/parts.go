package hub

import (
	"container/list"
	"errors"
	"sync"

	"tether/engine"
	"tether/internal/socketio"
)

// smallParts is what a packet may hold without being counted: most never hold more.
const smallParts = 4 << 10

const sliceBytes = 24 // of the header of a slice

// errNoRoom closes a connection as the transport does when its own budget is used up.
var errNoRoom = engine.Because(ReasonTransportError, errors.New("hub: attachments of all clients are too large together"))

// parts is a packet whose attachments are still coming. Closed may end it while its client adds to it.
type parts struct {
	conn    engine.Conn // immutable
	packet  socketio.Packet
	missing int // owned by the caller of Binary: attachments
	left    int // owned by the caller of Binary: bytes that may still come

	data        []byte        // guarded by halves.mu, as the rest is, until end has returned true
	attachments [][]byte      // those that have come
	size        int           // of them together
	bytes       int           // counted
	place       *list.Element // in halves.order; nil unless counted
	ended       bool          // complete, or given up
}

// halves are the packets of all clients whose attachments are still coming, and how much memory they take
// together. When that is too much, the one that began first ends: whoever means it well is done by then.
// What is less than smallParts does not count.
type halves struct {
	limit int // in bytes

	mu    sync.Mutex
	total int       // guarded by mu: bytes
	order list.List // guarded by mu: of *parts that are counted; who began first is first
}

// add gives p attachments, of which none is its last, and counts what it holds then. The error says that
// p has been given up.
func (hs *halves) add(p *parts, attachments ...[]byte) error {
	hs.mu.Lock()
	var victims []*parts
	if !p.ended {
		p.attachments = append(p.attachments, attachments...)
		for _, a := range attachments {
			p.size += len(a)
		}
		victims = hs.countLocked(p)
	}
	ended := p.ended
	hs.mu.Unlock()
	for _, v := range victims {
		v.conn.Close(ReasonTransportError)
	}
	if ended {
		return errNoRoom
	}
	return nil
}

// countLocked returns who has to go. Their memory is free at once, however long their connections take.
func (hs *halves) countLocked(p *parts) (victims []*parts) {
	bytes := cap(p.data) + sliceBytes*cap(p.attachments) + p.size
	if bytes < smallParts {
		return nil
	}
	if p.place == nil {
		p.place = hs.order.PushBack(p)
	}
	hs.total += bytes - p.bytes
	p.bytes = bytes
	for hs.total > hs.limit {
		v := hs.order.Front().Value.(*parts)
		hs.removeLocked(v)
		v.data, v.attachments = nil, nil
		victims = append(victims, v)
	}
	return victims
}

func (hs *halves) removeLocked(p *parts) {
	p.ended = true
	if p.place != nil {
		hs.order.Remove(p.place)
		p.place = nil
	}
	hs.total -= p.bytes
	p.bytes = 0
}

// end takes p out. It reports whether p was in: then p belongs to the caller.
func (hs *halves) end(p *parts) bool {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if p.ended {
		return false
	}
	hs.removeLocked(p)
	return true
}
