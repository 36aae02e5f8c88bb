package hub

import (
	"fmt"

	"tether/broker"
)

// Receipt says how many nodes took an event. A node takes it when it holds a socket of the room, or
// is the one that the ID of a single socket names. To take is not to have delivered: the client may
// be gone a moment later.
type Receipt struct {
	Nodes int
	Bound broker.Bound
}

// Nobody reports whether it is certain that nobody was there: the time to send a push notification
// instead.
func (r Receipt) Nobody() bool { return broker.Reach(r).Nobody() }

func (r Receipt) String() string {
	switch {
	case r.Bound == broker.Unknown:
		return "the broker cannot tell"
	case r.Nodes == 0:
		return "nobody is there"
	case r.Bound == broker.AtLeast:
		return fmt.Sprintf("%s or more took it", nodes(r.Nodes))
	}
	return nodes(r.Nodes) + " took it"
}

func nodes(n int) string {
	if n == 1 {
		return "1 node"
	}
	return fmt.Sprintf("%d nodes", n)
}

// either is the receipt of two messages of which a node may have taken both.
func (r Receipt) either(o Receipt) Receipt {
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
