package hub

import "tether/broker"

// Receipt says how many nodes took an event. A node takes it when it holds a socket of the room, or
// is the one that the ID of a single socket names. To take is not to have delivered: the client may
// be gone a moment later. When [broker.Receipt.Nobody] is certain that nobody was there, it is the time
// to send a push notification instead.
type Receipt struct {
	broker.Receipt

	// Live are those of the nodes where a client that is connected, or connecting, took the event, apart from those that
	// only hold it for clients that may come back: see [Recovery]. Its Nobody says that no such client took
	// it, for certain. It is unknown unless no node took the event, or the emitter asks: see [Emitter.AskLive].
	Live broker.Receipt
}

// receiptOf is the receipt of a message that the broker took.
func receiptOf(r broker.Receipt) Receipt {
	if r.Nobody() {
		return Receipt{Receipt: r}
	}
	return Receipt{r, unknown}
}

var unknown = broker.Receipt{Bound: broker.Unknown}

// both is the receipt of two messages of which a node may have taken both.
func both(r, o Receipt) Receipt {
	return Receipt{either(r.Receipt, o.Receipt), either(r.Live, o.Live)}
}

// either is both for one of the two things that a receipt says.
func either(r, o broker.Receipt) broker.Receipt {
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
	return broker.Receipt{Nodes: max(r.Nodes, o.Nodes), Bound: broker.AtLeast}
}
