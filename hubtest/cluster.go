package hubtest

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/simbroker"
	"tether/presence"
)

// Patience is how long everything that a test expects may take, on the clock of its bubble if there is one.
const Patience = 5 * time.Second

// moment is how long Refute waits for what may be on its way, where there is no bubble that knows.
const moment = 20 * time.Millisecond

// Setup is how an application makes its hub on a broker: with its options, namespaces, hooks and handlers.
// It does not run it.
type Setup = func(broker.Broker) (*hub.Hub, error)

// Cluster is nodes that share a broker. It ends with its test.
type Cluster struct {
	t       testing.TB
	backend *simbroker.Cluster
	bubble  bool           // the test runs in one
	wg      sync.WaitGroup // of all goroutines; end waits for it
	nodes   []*Node

	presence changes
}

// Start runs one node: it is NewCluster and Node.
func Start(t testing.TB, setup Setup) *Node {
	t.Helper()
	return NewCluster(t).Node(setup)
}

// NewCluster returns a cluster without nodes.
func NewCluster(t testing.TB) *Cluster {
	c := &Cluster{t: t, backend: simbroker.New(simbroker.Options{Calm: true}), bubble: inBubble()}
	t.Cleanup(c.end)
	return c
}

// inBubble reports whether the caller runs in a bubble of testing/synctest.
func inBubble() (in bool) {
	defer func() { in = recover() == nil }()
	synctest.Wait() // panics outside
	return
}

// Node runs one more node. It returns when the node is ready.
func (c *Cluster) Node(setup Setup) *Node {
	c.t.Helper()
	n := &Node{cluster: c, link: c.backend.Open(fmt.Sprintf("node-%d", len(c.nodes))), ended: make(chan struct{})}
	h, err := setup(n.link)
	if err != nil {
		n.link.Close()
		c.t.Fatalf("hubtest: the set-up failed: %v", err)
	}
	n.Hub = h
	if p := presence.Of(h); p != nil {
		p.Watch(func(e presence.Event) {
			if !n.dead.Load() {
				c.presence.add(e)
			}
		})
	}
	ctx, cancel := context.WithCancel(context.Background()) // end cancels it
	n.cancel = cancel
	c.nodes = append(c.nodes, n)
	c.wg.Go(func() {
		defer close(n.ended)
		n.err = h.Run(ctx)
	})
	for deadline := time.Now().Add(Patience); h.Ready() != nil; {
		select {
		case <-n.ended:
			c.t.Fatalf("hubtest: the hub ended: %v", n.err)
		case <-time.After(100 * time.Microsecond):
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("hubtest: the hub is not ready: %v", h.Ready())
		}
	}
	return n
}

// Broker returns another broker of the cluster: that of a process without a hub, a worker say. It is closed
// when the test ends.
func (c *Cluster) Broker() broker.Broker {
	b := c.backend.Open("worker")
	c.t.Cleanup(func() { b.Close() })
	return b
}

// StopBroker stops the broker: nodes notice at once, and emits fail with [broker.ErrUnavailable].
func (c *Cluster) StopBroker() { c.backend.Stop() }

// StartBroker starts it again. Nodes come back by themselves and report the gap.
func (c *Cluster) StartBroker() { c.backend.Start() }

// settle returns when nothing is on its way any more, in a bubble; elsewhere it waits for a moment.
func (c *Cluster) settle() {
	if c.bubble {
		synctest.Wait()
		return
	}
	time.Sleep(moment)
}

// end lets the clients go, drains the nodes, and waits for all goroutines.
func (c *Cluster) end() {
	for _, n := range c.nodes {
		for _, k := range n.open() {
			k.Close(hub.ReasonTransportClose)
			<-k.ended
		}
	}
	for _, n := range c.nodes {
		n.cancel()
	}
	for _, n := range c.nodes {
		<-n.ended
		if n.err != nil && !n.killed {
			c.t.Errorf("hubtest: Run of node %s: %v", n.Hub.Node(), n.err)
		}
		n.link.Close()
	}
	c.wg.Wait()
}
