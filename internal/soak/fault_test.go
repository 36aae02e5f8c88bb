package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
	"tether/transport"
)

// The bounds that are promised, with room for a machine that is busy with other tests. The figures say
// how long it took.
const (
	noticed     = 3*time.Second + slack // until a node knows that its broker is not there
	resubscribe = time.Second + slack   // after the broker is back
	failsFast   = 1500*time.Millisecond + slack
	ghostTime   = 6*time.Second + slack // until nobody is counted on a node that has gone
	slack       = 3 * time.Second
)

// populate connects clients of n users, each to both nodes.
func (r *rig) populate(names []string) []*client {
	r.t.Helper()
	clients := make([]*client, len(names)*len(r.nodes))
	each(len(clients), 16, func(i int) {
		clients[i] = r.connect(r.nodes[i%len(r.nodes)], names[i/len(r.nodes)], webSocket)
	})
	return clients
}

// ready reports whether all nodes are, or none is.
func (r *rig) ready() bool {
	for _, n := range r.nodes {
		if n.hub.Ready() != nil {
			return false
		}
	}
	return true
}

func (r *rig) blind() bool {
	for _, n := range r.nodes {
		if n.hub.Ready() == nil {
			return false
		}
	}
	return true
}

// reached waits until an emit to each user arrives at both nodes again.
func (r *rig) reached(names []string) {
	r.t.Helper()
	e := publisher{"after", r.nodes[0].hub.Emitter()}
	for _, u := range names {
		must(r.t, "reach "+u, func() bool {
			receipt, err := r.emit(e, room(u))
			return err == nil && (receipt.Nodes >= len(r.nodes) || receipt.Bound == broker.AtLeast && receipt.Nodes > 0)
		})
	}
}

// The broker is killed and comes back, again and again, under load. Every loss lies inside a gap that
// was reported, nodes say that they are not ready, emits fail fast, and the subscriptions come back.
func TestABrokerThatIsKilledAndComesBack(t *testing.T) {
	t.Parallel()
	on(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		r := newRig(t, brokerURL, addr, 2, 2*time.Second, hub.Options{}, transport.Options{})
		names := users(scaled(200, 2000))
		r.populate(names)
		if t.Failed() {
			return
		}
		var back, blind time.Duration
		for kill := range scaled(2, 10) {
			stop := make(chan struct{})
			end := r.load(names, stop, 100*time.Microsecond)
			r.flow()
			s.Stop()
			took, in := within(long.Limit(noticed), r.blind)
			if !in {
				t.Errorf("nodes are ready %v after the broker was killed", took)
			}
			blind = max(blind, took)
			if _, err := r.emit(publisher{"meanwhile", r.nodes[0].hub.Emitter()}, room(names[0])); err == nil {
				t.Error("an emit has been taken while there was no broker")
			}
			down := time.NewTimer(time.Duration(rand.IntN(scaled(500, 10_000))) * time.Millisecond)
			<-down.C
			s.Start()
			took, in = within(long.Limit(resubscribe), r.ready)
			if !in {
				t.Errorf("nodes are not ready %v after the broker is back", took)
			}
			back = max(back, took)
			r.flow()
			close(stop)
			slowest, failed := end()
			if slowest > long.Limit(failsFast) {
				t.Errorf("an emit took %v", slowest)
			}
			figure(t, "kill "+fmt.Sprint(kill), "noticed after %v, back after %v, %d emits failed, the slowest took %v",
				blind.Round(time.Millisecond), back.Round(time.Millisecond), failed, slowest.Round(time.Millisecond))
		}
		r.reached(names[:20])
		counts := r.settle()
		for _, n := range r.nodes {
			if r.book.Gaps(n.name) == 0 {
				t.Errorf("%s has reported no gap", n.name)
			}
		}
		figure(t, "kills", "%v; noticed within %v, back within %v", counts, blind.Round(time.Millisecond), back.Round(time.Millisecond))
	})
}

// flow waits until some hundred messages more have arrived.
func (r *rig) flow() {
	from := r.book.Counts().Received
	must(r.t, "messages flow", func() bool { return r.book.Counts().Received > from+300 })
}

// The broker is frozen: its sockets stay open, and nothing answers.
func TestABrokerThatIsFrozen(t *testing.T) {
	t.Parallel()
	waiting(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		r := newRig(t, brokerURL, addr, 2, 2*time.Second, hub.Options{}, transport.Options{})
		names := users(100)
		r.populate(names)
		stop := make(chan struct{})
		end := r.load(names, stop, 100*time.Microsecond)
		r.flow()
		s.Pause()
		took, in := within(long.Limit(noticed), r.blind)
		if !in {
			t.Errorf("nodes are ready %v after the broker froze", took)
		}
		s.Resume()
		back, in := within(long.Limit(resubscribe), r.ready)
		if !in {
			t.Errorf("nodes are not ready %v after the broker woke", back)
		}
		r.flow()
		close(stop)
		slowest, failed := end()
		if slowest > long.Limit(failsFast) {
			t.Errorf("an emit took %v", slowest)
		}
		r.reached(names[:20])
		figure(t, "frozen broker", "%v; noticed after %v, back after %v, %d emits failed, the slowest took %v",
			r.settle(), took.Round(time.Millisecond), back.Round(time.Millisecond), failed, slowest.Round(time.Millisecond))
	})
}

// The link of one node fails in ways that nobody is told of.
func TestALinkThatIsSilent(t *testing.T) {
	t.Parallel()
	faults := []struct {
		name string
		do   func(p *faultproxy.Proxy)
	}{
		{"held both ways", func(p *faultproxy.Proxy) { p.Hold(faultproxy.Both) }},
		{"held to the node", func(p *faultproxy.Proxy) { p.Hold(faultproxy.ToClient) }},
		{"held to the broker", func(p *faultproxy.Proxy) { p.Hold(faultproxy.ToServer) }},
		{"swallowed to the node", func(p *faultproxy.Proxy) { p.Swallow(faultproxy.ToClient) }},
		{"swallowed to the broker", func(p *faultproxy.Proxy) { p.Swallow(faultproxy.ToServer) }},
		{"cut in the middle of messages", func(p *faultproxy.Proxy) { p.CutAfter(faultproxy.ToClient, 10_007) }},
	}
	waiting(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		r := newRig(t, brokerURL, addr, 2, 3*time.Second, hub.Options{}, transport.Options{})
		names := users(100)
		r.populate(names)
		if t.Failed() {
			return
		}
		sick := r.nodes[1]
		for _, f := range long.Or(faults[:2], faults) {
			stop := make(chan struct{})
			end := r.load(names, stop, 100*time.Microsecond)
			r.flow()
			f.do(sick.proxy)
			took, in := within(long.Limit(noticed), func() bool { return sick.hub.Ready() != nil })
			if !in {
				t.Errorf("%s: the node is ready after %v", f.name, took)
			}
			if r.nodes[0].hub.Ready() != nil {
				t.Errorf("%s: the other node is not ready", f.name)
			}
			sick.proxy.Heal()
			back, in := within(long.Limit(resubscribe), r.ready)
			if !in {
				t.Errorf("%s: not ready %v after it has healed", f.name, back)
			}
			r.flow()
			close(stop)
			slowest, failed := end()
			if slowest > long.Limit(failsFast) {
				t.Errorf("%s: an emit took %v", f.name, slowest)
			}
			figure(t, "link "+f.name, "noticed after %v, back after %v, %d emits failed, the slowest took %v",
				took.Round(time.Millisecond), back.Round(time.Millisecond), failed, slowest.Round(time.Millisecond))
		}
		r.reached(names[:20])
		figure(t, "links", "%v", r.settle())
	})
}

// A node that is cut off is no longer counted, and serves nobody what is stale.
func TestANodeThatIsUnpluggedIsNotCounted(t *testing.T) {
	long.Only(t)
	t.Parallel()
	waiting(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		r := newRig(t, brokerURL, addr, 2, 2*time.Second, hub.Options{}, transport.Options{})
		c := r.connect(r.nodes[1], "ghost", webSocket)
		e := publisher{"p", r.nodes[0].hub.Emitter()}
		if receipt, err := r.emit(e, room("ghost")); err != nil || receipt.Nobody() {
			t.Fatalf("%v, %v", receipt, err)
		}
		r.nodes[1].proxy.Hold(faultproxy.Both)
		took, in := within(long.Limit(ghostTime), func() bool {
			return r.uncounted(r.emit(e, room("ghost")))
		})
		if !in {
			t.Errorf("somebody is counted after %v", took)
		}
		r.nodes[1].proxy.Heal()
		must(t, "counted again", func() bool {
			receipt, err := r.emit(e, room("ghost"))
			return err == nil && receipt.Nodes > 0
		})
		figure(t, "unplugged", "nobody is counted after %v; %v", took.Round(time.Millisecond), r.settle())
		c.hangUp(true)
	})
}

// A client that answers no pings is gone after interval, timeout and a second, and others are told.
func TestADeadClientIsNoticed(t *testing.T) {
	t.Parallel()
	to := transport.Options{PingInterval: time.Second, PingTimeout: long.Limit(500 * time.Millisecond)}
	r := newRig(t, "memory://", "", 1, time.Second, hub.Options{}, to)
	n := scaled(200, 2000)
	each(n, 16, func(i int) {
		c := newClient(r.book, r.nodes[0].name, r.nodes[0].addr, "dead")
		c.mute = true
		if err := c.start(webSocket); err != nil {
			t.Error(err)
		}
	})
	alive := r.connect(r.nodes[0], "alive", webSocket)
	took, in := within(to.PingInterval+to.PingTimeout+long.Limit(time.Second+slack), func() bool { return r.nodes[0].hub.Stats().Connections == 1 })
	if !in {
		t.Errorf("%d dead clients are left", r.nodes[0].hub.Stats().Connections-1)
	}
	must(t, "nobody is counted", func() bool { // the broker hears of it after the last has left
		receipt, err := r.nodes[0].hub.Emitter().Emit(context.Background(), hub.User("dead"), "n")
		return err == nil && receipt.Nobody()
	})
	select {
	case <-alive.done:
		t.Error("a client that answers is gone")
	default:
	}
	figure(t, "dead clients", "%d clients that did not answer were gone %v after the last had connected; allowed are %v",
		n, took.Round(time.Millisecond), to.PingInterval+to.PingTimeout+time.Second)
}
