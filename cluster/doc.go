// Package cluster is what the nodes of a cluster say to each other beside events: which nodes are alive, and what
// each of them knows.
//
// A [Node] is one process's part in it. It keeps the list of members, which is the same on every node
// within a second and needs no storage: each node says every second on one subject that it is there, and
// silence ends its lease. And it asks: a [Question] goes to all nodes that are subscribed to a subject, or
// to all members, and every call ends. It ends when each of them has answered, or is off the list, or when
// the context is done; then the caller has what came, and knows which nodes are missing, and why.
//
// It stands on a [broker.Broker] and knows nothing of sockets. Its caller owns the broker's Run, keeps the
// two subjects of a node subscribed, and hands over what comes there; see [Node.Serve] for a process that
// has nothing else to do with the broker.
package cluster
