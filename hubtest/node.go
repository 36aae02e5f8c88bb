package hubtest

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tether/hub"
	"tether/internal/simbroker"
)

// Node is a node that runs the application's hub.
type Node struct {
	Hub *hub.Hub // what the set-up has made

	cluster *Cluster
	link    *simbroker.Peer
	cancel  context.CancelFunc
	ended   chan struct{} // closed when Run has returned
	err     error         // of Run; written before ended is closed
	killed  bool          // owned by the test
	dead    atomic.Bool   // killed: what it tells is not heard

	mu    sync.Mutex
	conns []*conn // guarded by mu; open
}

// Handshake is what a client says when it connects, for [Node.Dial]. The zero value is a client of "/" that
// says nothing. All come over TLS, and as WebSocket.
type Handshake struct {
	Namespace string // default "/"
	Auth      any    // encoded as JSON, an object; nil: none
	Query     url.Values
	Header    http.Header
	Address   string // of the client. Default "192.0.2.1:1234"

	// QueueBytes limits what waits for the client while it reads nothing: see Client.StopReading.
	// Default 1 MiB, that of package transport.
	QueueBytes int
}

// Connect connects a client to "/" with auth, which is encoded as JSON; nil: none. It returns when the client
// knows that it is connected, and fails the test if it is refused.
func (n *Node) Connect(auth any) *Client {
	n.cluster.t.Helper()
	return n.Dial(Handshake{Auth: auth})
}

// Dial is Connect with all that a client can say.
func (n *Node) Dial(h Handshake) *Client {
	n.cluster.t.Helper()
	c := n.dial(h)
	return c.connected()
}

// ExpectRefusal fails the test unless a client with this auth is refused with this message. The data of the
// refusal is compared as the arguments of an event are: see [Client.Expect].
func (n *Node) ExpectRefusal(auth any, message string, data ...any) {
	n.cluster.t.Helper()
	n.ExpectRefusalOf(Handshake{Auth: auth}, message, data...)
}

// ExpectRefusalOf is ExpectRefusal with all that a client can say.
func (n *Node) ExpectRefusalOf(h Handshake, message string, data ...any) {
	n.cluster.t.Helper()
	c := n.dial(h)
	c.refused(message, data)
	c.Close()
}

func (n *Node) dial(h Handshake) *Client {
	n.cluster.t.Helper()
	k, err := n.attach(h)
	if err != nil {
		n.cluster.t.Fatalf("hubtest: node %s takes no connection: %v", n.Hub.Node(), err)
	}
	return k.join(h.Namespace, h.Auth)
}

// open returns the connections that have not ended.
func (n *Node) open() []*conn {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.conns)
}

func (n *Node) forget(k *conn) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.conns = slices.DeleteFunc(n.conns, func(o *conn) bool { return o == k })
}

// Drain ends the node as a deployment does, and returns when it has ended: its clients are told to go, over
// hub.Options.DrainWindow.
func (n *Node) Drain() {
	n.cluster.t.Helper()
	n.cancel()
	<-n.ended
	if n.err != nil {
		n.cluster.t.Fatalf("hubtest: drain of node %s: %v", n.Hub.Node(), n.err)
	}
}

// Kill ends the node as kill -9 would, as far as others can see: its clients lose their connections, and the
// broker its subscriptions. What is left of it is in this process; so its disconnect hooks still run.
func (n *Node) Kill() {
	n.killed = true
	n.dead.Store(true)
	n.link.Kill()
	for _, k := range n.open() {
		k.Close(hub.ReasonTransportError)
	}
	n.cancel()
	<-n.ended
}

// Silence lets nothing pass between the node and the broker, in either direction, and tells nobody: a broken
// cable, a broker that hangs, or, as the other nodes see it, a node that is frozen. The node notices after
// about two seconds. The others cease to count it after three to five.
func (n *Node) Silence() { n.link.Silence() }

// Heal ends Silence. If it was long enough to be noticed, the node reports a gap. It returns when the node is
// ready again.
func (n *Node) Heal() {
	n.cluster.t.Helper()
	n.link.Heal()
	n.awaitReady()
}

// Cut resets the link to the broker, which loses what is on its way: the node comes back at once and reports
// a gap, see hub.Options.OnGap. It returns when the node is ready again.
func (n *Node) Cut() {
	n.cluster.t.Helper()
	n.link.Cut()
	n.awaitReady()
}

func (n *Node) awaitReady() {
	n.cluster.t.Helper()
	n.cluster.settle()
	for deadline := time.Now().Add(Patience); n.Hub.Ready() != nil; {
		if time.Now().After(deadline) || errors.Is(n.Hub.Ready(), hub.ErrDraining) {
			n.cluster.t.Fatalf("hubtest: node %s does not get ready: %v", n.Hub.Node(), n.Hub.Ready())
		}
		time.Sleep(time.Millisecond)
	}
}
