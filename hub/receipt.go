package hub

import "tether/broker"

// Receipt says how many nodes took an event. A node takes it when it holds a socket of the room, or
// is the one that the ID of a single socket names. To take is not to have delivered: the client may
// be gone a moment later. When [broker.Receipt.Nobody] is certain that nobody was there, it is the time
// to send a push notification instead.
type Receipt = broker.Receipt

// either is the receipt of two messages of which a node may have taken both.
func either(r, o Receipt) Receipt {
	switch {
	case r.Bound == broker.Unknown && o.Nodes == 0:
		return r
	case o.Bound == broker.Unknown && r.Nodes == 0:
		return o
	case r.Nobody():
		return o
	case o.Nobody():
		return r
	}
	return Receipt{Nodes: max(r.Nodes, o.Nodes), Bound: broker.AtLeast}
}
