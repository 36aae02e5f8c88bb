package hub

import (
	"slices"
	"sync/atomic"

	"tether/cluster"
)

// Stats are figures of this node. Those under "now" go up and down, the others count since New.
type Stats struct {
	// Now.
	Connections int // attached
	Sockets     int // connected or connecting
	Parked      int // sessions that wait for their clients, see Recovery
	Kept        int // bytes of events that are kept for clients that may come back
	Namespaces  int // fixed, and matched with a socket in them
	Rooms       int // with a member or a subscription, in all namespaces

	// From the broker.
	Received  uint64 // messages
	Wasted    uint64 // messages for a room or a socket that had gone
	Malformed uint64 // messages that no hub could have sent
	Newer     uint64 // messages of a version, a kind or a policy that this node does not know
	Untrusted uint64 // messages that were refused for want of the key, or because they had come; see Options.Key
	Gaps      uint64 // times in which messages may have been missed

	// Emitted through emitters of this node; an event for several targets counts once for each.
	Emitted  uint64 // events
	Nobody   uint64 // receipts that say for certain that nobody was there
	Unknown  uint64 // receipts of which the broker could not tell
	Unplaced uint64 // events of calls that returned an error of the broker or the context

	// Asked by this node.
	Questions cluster.Outcomes

	// To clients.
	Delivered uint64 // packets handed to connections
	Dropped   uint64 // packets that a connection refused: it is closed, or its queue is full

	// From clients.
	Events         uint64 // handled
	Acks           uint64 // answers that somebody waited for
	Connected      uint64 // sockets that were told so
	Recovered      uint64 // of these, sockets that came back with their session, see Recovery
	Refused        uint64 // CONNECTs answered with CONNECT_ERROR
	Unhandled      uint64 // events that no handler is for
	Unfit          uint64 // events whose arguments did not fit
	ProtocolErrors uint64 // connections closed because of what the client sent
	Panics         uint64 // of handlers; each closed its connection
	Expired        uint64 // sockets disconnected by ExpireAt
	Shed           uint64 // connections closed by Socket.Drop: to rebalance the nodes, say
	TimedOut       uint64 // connections closed because a CONNECT, a hook or an attachment took too long

	// Clients that wanted their session back and did not get it, by reason: see Namespace.OnUnrecovered.
	UnrecoveredExpired, UnrecoveredOverflowed, UnrecoveredUnknown, UnrecoveredRefused,
	UnrecoveredNodeLost, UnrecoveredGap, UnrecoveredQuestion uint64

	// Disconnected are sockets that were connected, by the reason of their end. Reasons that are not Socket.IO's
	// count as "".
	Disconnected map[Reason]uint64
}

type counters struct {
	received, wasted, malformed, newer, gaps        atomic.Uint64
	_                                               [64]byte // broker and clients are on different cores
	delivered, dropped                              atomic.Uint64
	_                                               [64]byte
	events, acks, connected, refused                atomic.Uint64
	unhandled, unfit                                atomic.Uint64
	protocolErrors, panics, expired, shed, timedOut atomic.Uint64
	recovered                                       atomic.Uint64
	unrecovered                                     [losses]atomic.Uint64
	disconnected                                    [len(reasons) + 1]atomic.Uint64
}

// reasons are those that are counted one by one.
var reasons = [...]Reason{
	ReasonClientDisconnect, ReasonServerDisconnect, ReasonTransportClose, ReasonTransportError, ReasonPingTimeout,
	ReasonParseError, ReasonForcedClose, ReasonServerClose, ReasonShutdown,
}

// ended counts a socket that was connected.
func (c *counters) ended(r Reason) {
	i := slices.Index(reasons[:], r)
	if i < 0 {
		i = len(reasons)
	}
	c.disconnected[i].Add(1)
}

func (c *counters) byReason() map[Reason]uint64 {
	m := make(map[Reason]uint64, len(c.disconnected))
	for i, r := range reasons {
		m[r] = c.disconnected[i].Load()
	}
	if n := c.disconnected[len(reasons)].Load(); n > 0 {
		m[""] = n
	}
	return m
}

// Stats reads all figures. They are not of one moment.
func (h *Hub) Stats() Stats {
	c := &h.counters
	h.mu.Lock()
	namespaces := len(h.fixed) + len(h.children)
	h.mu.Unlock()
	t := h.publisher.tally
	s := Stats{
		Connections:    h.clients.len(),
		Sockets:        h.sockets.len() - h.parked.len(),
		Parked:         h.parked.len(),
		Kept:           h.logs.Used(),
		Recovered:      c.recovered.Load(),
		Namespaces:     namespaces,
		Rooms:          max(h.index.rooms()-len(h.own), 0), // without those of every node
		Received:       c.received.Load(),
		Wasted:         c.wasted.Load(),
		Malformed:      c.malformed.Load(),
		Newer:          c.newer.Load(),
		Untrusted:      h.broker.Refused(),
		Gaps:           c.gaps.Load(),
		Emitted:        t.emitted.Load(),
		Nobody:         t.nobody.Load(),
		Unknown:        t.unknown.Load(),
		Unplaced:       t.failed.Load(),
		Questions:      h.cluster.Outcomes(),
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
		Shed:           c.shed.Load(),
		TimedOut:       c.timedOut.Load(),
		Disconnected:   c.byReason(),
	}
	for why, n := range map[loss]*uint64{
		lossExpired: &s.UnrecoveredExpired, lossOverflowed: &s.UnrecoveredOverflowed, lossUnknown: &s.UnrecoveredUnknown,
		lossRefused: &s.UnrecoveredRefused, lossNode: &s.UnrecoveredNodeLost, lossGap: &s.UnrecoveredGap,
		lossQuestion: &s.UnrecoveredQuestion,
	} {
		*n = c.unrecovered[why].Load()
	}
	return s
}
