package webhook

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/hub"
	"tether/hubtest"
)

// awaiting is three nodes on which one client has a session that may wait.
type awaiting struct {
	*endpoint
	c     *hubtest.Cluster
	nodes []*hubtest.Node
	ways  []*cable
	phone *hubtest.Client
}

// kill kills a node. What is left of it in this process cannot tell anybody.
func (a *awaiting) kill(n int) {
	a.ways[n].cut.Store(true)
	a.nodes[n].Kill()
}

// park has the client lose its connection.
func (a *awaiting) park() {
	a.phone.Close()
	time.Sleep(time.Second)
}

func (a *awaiting) comeBack(n int) {
	a.t.Helper()
	if !a.phone.ComeBack(a.nodes[n]) {
		a.t.Error("not recovered")
	}
}

// TestASessionExpiresOnce: each connection has one connect and one disconnect, in order, and the session one end, behind
// them, for one reason; wherever it waits, and whatever becomes of the node.
func TestASessionExpiresOnce(t *testing.T) {
	for name, c := range map[string]struct {
		logged bool
		then   func(a *awaiting) // after connect
		want   string
		why    string
	}{
		"it comes back at once": {false, func(a *awaiting) {
			a.phone.Close()
			a.comeBack(0)
			a.park()
		}, "connect disconnect connect disconnect expired", "expired"},
		"it comes back at once, and its node is killed": {false, func(a *awaiting) {
			a.phone.Close()
			a.comeBack(0)
			time.Sleep(time.Second)
			a.kill(0)
		}, "connect disconnect connect disconnect expired", "node lost"},
		"it comes back while the hub has it connected": {false, func(a *awaiting) {
			a.comeBack(0)
			time.Sleep(time.Second)
			a.comeBack(0)
			a.park()
		}, "connect disconnect connect disconnect connect disconnect expired", "expired"},
		"it comes back to another node while the hub has it connected": {false, func(a *awaiting) {
			a.comeBack(1)
			a.park()
		}, "connect disconnect connect disconnect expired", "expired"},
		"it goes on on another node": {false, func(a *awaiting) {
			a.park()
			a.comeBack(1)
			a.kill(0) // the first one has no part in it any more
			time.Sleep(30 * time.Second)
			a.park()
		}, "connect disconnect connect disconnect expired", "expired"},
		"the node to which it has gone is killed": {false, func(a *awaiting) {
			a.park()
			a.comeBack(1)
			a.park()
			a.kill(1)
		}, "connect disconnect connect disconnect expired", "node lost"},
		"the node to which it has just gone is killed": {false, func(a *awaiting) {
			a.park()
			a.comeBack(1)
			time.Sleep(10 * time.Millisecond)
			a.kill(1)
		}, "connect disconnect connect disconnect expired", "node lost"},
		"it goes to another node, and back": {false, func(a *awaiting) {
			a.phone.Close()
			a.comeBack(1)
			a.phone.Close()
			a.comeBack(0)
			a.park()
		}, "connect disconnect connect disconnect connect disconnect expired", "expired"},
		"its node ends, and another one takes it": {false, func(a *awaiting) {
			a.park()
			go a.nodes[0].Drain()
			time.Sleep(100 * time.Millisecond)
			a.comeBack(1)
			time.Sleep(30 * time.Second)
			a.park()
		}, "connect disconnect connect disconnect expired", "expired"},
		"its node ends, and nobody takes it": {false, func(a *awaiting) {
			a.park()
			a.nodes[0].Drain()
		}, "connect disconnect expired", "node lost"},
		"its node ends while it is connected": {false, func(a *awaiting) {
			a.nodes[0].Drain()
		}, "connect disconnect expired", "node lost"},
		"all nodes end": {false, func(a *awaiting) {
			a.park()
			for _, n := range a.nodes[1:] {
				go n.Drain()
			}
			a.nodes[0].Drain()
		}, "connect disconnect expired", "node lost"},
		"its user is taken away": {false, func(a *awaiting) {
			a.park()
			if got, err := a.nodes[1].Hub.Emitter().Leave(a.t.Context(), hub.SocketID(a.phone.ID()), hub.User("42")); err != nil || got.Sockets != 1 {
				a.t.Error(got, err)
			}
		}, "connect disconnect expired", "expired"},
		"its user is put out": {false, func(a *awaiting) {
			a.park()
			if _, err := a.nodes[1].Hub.Emitter().Disconnect(a.t.Context(), hub.User("42"), false); err != nil {
				a.t.Error(err)
			}
		}, "connect disconnect expired", "refused"},
		"the server disconnects it": {false, func(a *awaiting) {
			a.nodes[0].Hub.Socket(a.phone.ID()).Disconnect(false)
		}, "connect disconnect", ""},
		"it leaves": {false, func(a *awaiting) {
			a.phone.Disconnect()
		}, "connect disconnect", ""},
		"its node is killed, and the one that watches over the user": {false, func(a *awaiting) {
			a.park()
			a.kill(0)
			time.Sleep(10 * time.Second)
			a.kill(1)
		}, "connect disconnect expired", "node lost"},
		"its node is killed, and there is the log": {true, func(a *awaiting) {
			a.park()
			a.kill(0)
			time.Sleep(10 * time.Second)
			a.comeBack(1)
			a.park()
		}, "connect disconnect expired connect disconnect expired", "node lost expired"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a := &awaiting{endpoint: newEndpoint(t), c: hubtest.NewCluster(t)}
				bus := memory.NewLoggedBus(broker.LogOptions{Age: 5 * time.Minute})
				for range 3 {
					way := &cable{RoundTripper: a.endpoint}
					a.ways = append(a.ways, way)
					a.nodes = append(a.nodes, a.c.Node(func(b broker.Broker) (*hub.Hub, error) {
						if c.logged {
							b = bus.Broker()
						}
						return recovering(way, -1, hub.Recovery{On: true, Window: 20 * time.Second, Log: c.logged})(b)
					}))
				}
				time.Sleep(10 * time.Second) // until each owner knows that it is one
				a.phone = a.nodes[0].Connect(map[string]any{"recovery": true})
				id := a.phone.ID()
				time.Sleep(time.Second)
				c.then(a)
				time.Sleep(45 * time.Second)
				if got := a.told(id); got != c.want || a.phone.ID() != id {
					t.Errorf("told %q of %s, which is %s now, want %q", got, id, a.phone.ID(), c.want)
				}
				if got := strings.Join(a.reasons(Expired), " "); got != c.why {
					t.Errorf("expired for the reason %q, want %q", got, c.why)
				}
			})
		})
	}
}

// TestEachUserOfASessionIsToldThatItExpires: as each is told that it is connected.
func TestEachUserOfASessionIsToldThatItExpires(t *testing.T) {
	for _, kill := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			e, c := newEndpoint(t), hubtest.NewCluster(t)
			way := &cable{RoundTripper: e}
			setup := func(w *cable) hubtest.Setup {
				return func(b broker.Broker) (*hub.Hub, error) {
					h, err := recovering(w, -1, hub.Recovery{On: true, Window: time.Minute})(b)
					if err == nil {
						h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "43") })
					}
					return h, err
				}
			}
			a := c.Node(setup(way))
			c.Node(setup(&cable{RoundTripper: e}))
			time.Sleep(10 * time.Second)
			phone := a.Connect(map[string]any{"recovery": true})
			time.Sleep(time.Second)
			phone.Close()
			time.Sleep(time.Second)
			if kill {
				way.cut.Store(true)
				a.Kill()
			}
			time.Sleep(2 * time.Minute)
			var got []string
			e.mu.Lock()
			defer e.mu.Unlock()
			for _, one := range e.events {
				if one.Socket == phone.ID() {
					got = append(got, one.User+" "+one.Type)
				}
			}
			slices.Sort(got)
			want := []string{
				"user:42 connect", "user:42 disconnect", "user:42 expired", "user:43 connect", "user:43 disconnect", "user:43 expired",
			}
			if !slices.Equal(got, want) {
				t.Errorf("told %q, want %q", got, want)
			}
		})
	}
}

// TestTheLastNodeTellsWhoGoesWithIt: also a user in the time of grace.
func TestTheLastNodeTellsWhoGoesWithIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, c := newEndpoint(t), hubtest.NewCluster(t)
		n := c.Node(recovering(e, time.Minute, hub.Recovery{On: true}))
		time.Sleep(10 * time.Second)
		phone := n.Connect(map[string]any{"recovery": true})
		time.Sleep(time.Second)
		n.Drain()
		for of, want := range map[string]string{phone.ID(): "connect disconnect expired", "user:42": "online offline"} {
			if got := e.told(of); got != want {
				t.Errorf("%s: told %q, want %q", of, got, want)
			}
		}
	})
}
