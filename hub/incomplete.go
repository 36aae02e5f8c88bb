package hub

import (
	"errors"
	"sync"

	"tether/engine"
	"tether/internal/budget"
	"tether/internal/socketio"
)

const sliceBytes = 24 // of the header of a slice

// errNoRoom closes a connection as the transport does when its own budget is used up.
var errNoRoom = engine.Because(ReasonTransportError, errors.New("hub: attachments of all clients are too large together"))

// incompletePacket is a packet whose attachments are still coming. It is ended when it is complete, when its client has
// gone, or for the budget of all of them, while its client adds to it.
type incompletePacket struct {
	conn    engine.Conn // immutable
	packet  socketio.Packet
	missing int // owned by the caller of Binary: attachments
	left    int // owned by the caller of Binary: bytes that may still come
	share   budget.Share

	mu          sync.Mutex
	data        []byte   // guarded by mu, as the rest is, until end has returned true
	attachments [][]byte // those that have come
	size        int      // of them together
	ended       bool     // complete, or given up
}

// incompletePackets are the packets of all clients whose attachments are still coming.
type incompletePackets struct{ budget.Budget }

// add gives p attachments, of which none is its last, and counts what it holds then. The error says that
// p has been given up.
func (hs *incompletePackets) add(p *incompletePacket, attachments ...[]byte) error {
	p.mu.Lock()
	p.attachments = append(p.attachments, attachments...)
	for _, a := range attachments {
		p.size += len(a)
	}
	bytes := cap(p.data) + sliceBytes*cap(p.attachments) + p.size
	p.mu.Unlock()
	hs.Hold(&p.share, bytes)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		p.data, p.attachments = nil, nil
		return errNoRoom
	}
	return nil
}

// giveUp is called for the budget. The memory is free at once, however long the connection takes to end.
func (p *incompletePacket) giveUp() {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended = true
	p.data, p.attachments = nil, nil
	p.mu.Unlock()
	p.conn.Close(ReasonTransportError)
}

// end takes p out. It reports whether p was in: then p belongs to the caller.
func (hs *incompletePackets) end(p *incompletePacket) bool {
	p.mu.Lock()
	was := p.ended
	p.ended = true
	p.mu.Unlock()
	hs.Drop(&p.share)
	return !was
}
