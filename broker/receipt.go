package broker

import "fmt"

// Bound says how far a [Receipt] can be trusted.
type Bound uint8

const (
	Exact   Bound = iota // Nodes is the number of nodes that took the message
	AtLeast              // Nodes or more took the message; zero is exact
	Unknown              // the backend cannot tell; Nodes is 0 and means nothing
)

// Receipt says how many nodes took a message. To take is to have been subscribed and connected when
// the backend passed the message on; it is not to have delivered it to anybody.
type Receipt struct {
	Nodes int
	Bound Bound
}

// Nobody reports whether it is certain that no node took the message.
func (r Receipt) Nobody() bool { return r.Nodes == 0 && r.Bound != Unknown }

func (r Receipt) String() string {
	switch {
	case r.Bound == Unknown:
		return "the broker cannot tell"
	case r.Nodes == 0:
		return "nobody is there"
	case r.Bound == AtLeast:
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
