package hub

import "sync/atomic"

// Stats are figures of this node. Those under "now" go up and down, the others count since New.
type Stats struct {
	// Now.
	Connections int // attached
	Sockets     int // connected or connecting
	Namespaces  int // fixed, and matched with a socket in them
	Rooms       int // with a member or a subscription, in all namespaces

	// From the broker.
	Received  uint64 // messages
	Wasted    uint64 // messages for a room or a socket that had gone
	Malformed uint64 // messages that no hub could have sent
	Newer     uint64 // messages of a version, a kind or a policy that this node does not know
	Gaps      uint64 // times in which messages may have been missed

	// To clients.
	Delivered uint64 // packets handed to connections
	Dropped   uint64 // packets that a connection refused: it is closed, or its queue is full

	// From clients.
	Events         uint64 // handled
	Acks           uint64 // answers that somebody waited for
	Connected      uint64 // sockets that were told so
	Refused        uint64 // CONNECTs answered with CONNECT_ERROR
	Unhandled      uint64 // events that no handler is for
	Unfit          uint64 // events whose arguments did not fit
	ProtocolErrors uint64 // connections closed because of what the client sent
	Panics         uint64 // of handlers; each closed its connection
	Expired        uint64 // sockets disconnected by ExpireAt
	TimedOut       uint64 // connections closed because a CONNECT, a hook or an attachment took too long
}

type counters struct {
	received, wasted, malformed, newer, gaps  atomic.Uint64
	_                                         [64]byte // broker and clients are on different cores
	delivered, dropped                        atomic.Uint64
	_                                         [64]byte
	events, acks, connected, refused          atomic.Uint64
	unhandled, unfit                          atomic.Uint64
	protocolErrors, panics, expired, timedOut atomic.Uint64
}

// Stats reads all figures. They are not of one moment.
func (h *Hub) Stats() Stats {
	c := &h.counters
	h.mu.Lock()
	namespaces := len(h.fixed) + len(h.children)
	h.mu.Unlock()
	return Stats{
		Connections:    h.clients.len(),
		Sockets:        h.sockets.len(),
		Namespaces:     namespaces,
		Rooms:          h.index.rooms() - len(h.own), // without those of every node
		Received:       c.received.Load(),
		Wasted:         c.wasted.Load(),
		Malformed:      c.malformed.Load(),
		Newer:          c.newer.Load(),
		Gaps:           c.gaps.Load(),
		Delivered:      c.delivered.Load(),
		Dropped:        c.dropped.Load(),
		Events:         c.events.Load(),
		Acks:           c.acks.Load(),
		Connected:      c.connected.Load(),
		Refused:        c.refused.Load(),
		Unhandled:      c.unhandled.Load(),
		Unfit:          c.unfit.Load(),
		ProtocolErrors: c.protocolErrors.Load(),
		Panics:         c.panics.Load(),
		Expired:        c.expired.Load(),
		TimedOut:       c.timedOut.Load(),
	}
}
