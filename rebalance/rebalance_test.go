package rebalance

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
)

func TestWhatItDependsOn(t *testing.T) {
	deptest.Only(t, "tether/rebalance", "tether/hub", "tether/cluster", "tether/engine", "tether/broker",
		"tether/internal/socketio", "tether/internal/group", "tether/internal/budget", "tether/internal/wire")
}

func TestTheShareOfANode(t *testing.T) {
	terms := Terms{Percent: 20, Least: 10, Pace: 1}
	for _, c := range []struct {
		name   string
		own    load
		others []load
		shed   int
		why    string
	}{
		{"all on one node", load{Connections: 300}, []load{{}, {}}, 200, ""},
		{"a mean that is no whole number", load{Connections: 100}, []load{{}, {}}, 66, ""},
		{"less than the others", load{Connections: 10}, []load{{Connections: 300}}, 0, "20%"},
		{"as much as the threshold", load{Connections: 120}, []load{{Connections: 80}}, 0, "20%"},
		{"one more", load{Connections: 121}, []load{{Connections: 79}}, 21, ""},
		{"too few to be worth it", load{Connections: 19}, []load{{Connections: 1}}, 0, "fewer than 10"},
		{"just enough", load{Connections: 20}, []load{{}}, 10, ""},
		{"what is on its way counts", load{Connections: 200}, []load{{Away: 100}, {Connections: 100, Away: 50}}, 50, ""},
		{"what it has given up itself counts", load{Connections: 100, Away: 200}, []load{{}, {}}, 0, "20%"},
		{"alone", load{Connections: 300}, nil, 0, "no other node"},
		{"nobody is there", load{}, []load{{}}, 0, "20%"},
	} {
		loads := map[string]load{"own": c.own}
		for i, l := range c.others {
			loads[string(rune('a'+i))] = l
		}
		if p := share(loads, "own", terms); p.Shed != c.shed || !strings.Contains(p.Why, c.why) || (p.Why == "") != (c.shed > 0) {
			t.Errorf("%s: got %+v, want %d, %q", c.name, p, c.shed, c.why)
		}
	}
}

func TestLimitsOfWhatCanBeAskedFor(t *testing.T) {
	for _, c := range []struct {
		t  Terms
		ok bool
	}{
		{Terms{0, 1, 1}, true}, {Terms{-1, 1, 1}, false},
		{Terms{MaxPercent, 1, 1}, true}, {Terms{MaxPercent + 1, 1, 1}, false},
		{Terms{0, 0, 1}, false},
		{Terms{0, 1, 0}, false}, {Terms{0, 1, MaxPace}, true}, {Terms{0, 1, MaxPace + 1}, false},
	} {
		if err := c.t.check(); (err == nil) != c.ok {
			t.Errorf("%+v: %v", c.t, err)
		}
	}
	for _, o := range []Options{{Percent: -1}, {Least: -1}, {Pace: -1}, {Interval: -1}} {
		if _, err := New(nil, o); err == nil {
			t.Errorf("%+v was taken", o)
		}
	}
}

// rig is a cluster whose clients come to one node first, and to another one when they are given up.
type rig struct {
	t       *testing.T
	cluster *hubtest.Cluster
	emitter *hub.Emitter // of a process that is no node
	options Options
	clients map[string]*hubtest.Client // by ID
	lost    chan string                // IDs of sockets that have lost their connection
}

func newRig(t *testing.T, o Options) *rig {
	r := &rig{t: t, cluster: hubtest.NewCluster(t), options: o, clients: map[string]*hubtest.Client{}, lost: make(chan string, 1024)}
	r.options.Logger = slog.New(slog.DiscardHandler)
	r.emitter = hub.NewEmitter(r.cluster.Broker(), hub.EmitterOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- r.emitter.Run(ctx, func() { close(up) }) }() // until cancel; received below
	<-up
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) node() *hubtest.Node {
	return r.cluster.Node(func(b broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(b, hub.Options{Recovery: hub.Recovery{On: true}, DrainWindow: -1, Logger: r.options.Logger})
		if err != nil {
			return nil, err
		}
		h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Join(ctx, hub.Room("all")) })
		h.Of("/").OnDisconnect(func(s *hub.Socket, _ hub.Reason) { r.lost <- s.ID() })
		_, err = New(h, r.options)
		return h, err
	})
}

func (r *rig) connect(n *hubtest.Node, clients int) {
	for range clients {
		c := n.Connect(map[string]bool{"recovery": true})
		r.clients[c.ID()] = c
	}
	time.Sleep(3 * time.Second) // the nodes tell each other
}

// comeBack has clients that have lost their connection come to the nodes in turn, for a while. It says how many were
// lost, and checks that none was lost for good.
func (r *rig) comeBack(d time.Duration, nodes ...*hubtest.Node) (lost int) {
	r.t.Helper()
	for end := time.After(d); ; {
		select {
		case id := <-r.lost:
			if !r.clients[id].ComeBack(nodes[lost%len(nodes)]) {
				r.t.Errorf("client %s has not recovered", id)
			}
			lost++
		case <-end:
			return lost
		}
	}
}

// want checks how many connections the nodes have.
func (r *rig) want(connections int, nodes ...*hubtest.Node) {
	r.t.Helper()
	for i, n := range nodes {
		if got := n.Hub.Stats().Connections; got != connections {
			r.t.Errorf("node %d has %d connections, want %d", i, got, connections)
		}
	}
}

func TestConnectionsGoToNewNodesAndNobodyNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{On: true, Least: 5, Pace: 10, Interval: 20 * time.Second})
		a := r.node()
		r.connect(a, 90)
		b, c := r.node(), r.node()
		emitting, stop := context.WithCancel(t.Context())
		emitted := make(chan int)
		go func() { // until stop; received below
			n := 0
			for emitting.Err() == nil {
				if _, err := r.emitter.Emit(t.Context(), hub.Room("all"), "n", n); err != nil {
					t.Error(err)
				}
				n++
				time.Sleep(10 * time.Millisecond)
			}
			emitted <- n
		}()
		begun := time.Now()
		if lost := r.comeBack(30*time.Second, b, c); lost != 60 {
			t.Errorf("%d clients were given up in %v, want 60", lost, time.Since(begun))
		}
		stop()
		n := <-emitted
		r.want(30, a, b, c)
		for _, c := range r.clients {
			for i := range n {
				var got int
				if c.Next().Decode(0, &got); got != i {
					t.Fatalf("got %d, want %d of %d", got, i, n)
				}
			}
			c.RefuteAny()
		}
		if lost := r.comeBack(time.Hour, b, c); lost != 0 || a.Hub.Stats().Shed != 60 {
			t.Errorf("%d clients more were given up, %d in all", lost, a.Hub.Stats().Shed)
		}
	})
}

func TestThePaceIsKept(t *testing.T) {
	for _, pace := range []int{1, 10, 25, 1000} {
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t, Options{})
			a, b := r.node(), r.node()
			r.connect(a, 100)
			plans, missing, err := Everywhere(t.Context(), r.emitter, Terms{Percent: 20, Least: 1, Pace: pace})
			if err != nil || len(missing) > 0 || len(plans) != 2 {
				t.Fatalf("got %v, %v, %v", plans, missing, err)
			}
			begun := time.Now()
			for shed := 0; shed < 50; shed++ {
				if !r.clients[<-r.lost].ComeBack(b) {
					t.Error("a client has not recovered")
				}
				if most := int(time.Since(begun).Seconds()*float64(pace)) + max(1, pace/10); shed >= most {
					t.Errorf("pace %d: %d after %v", pace, shed+1, time.Since(begun))
				}
			}
			if took, want := time.Since(begun), 50*time.Second/time.Duration(pace); took > want+time.Second {
				t.Errorf("pace %d: took %v, want %v", pace, took, want)
			}
			r.want(50, a, b)
		})
	}
}

// TestNobodyIsGivenUpByANodeBelowItsShare: its clients may leave by themselves meanwhile.
func TestNobodyIsGivenUpByANodeBelowItsShare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		a, _ := r.node(), r.node()
		r.connect(a, 60)
		if _, _, err := Everywhere(t.Context(), r.emitter, Terms{Percent: 20, Least: 1, Pace: 1}); err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, c := range r.clients {
			if left++; left <= 40 {
				c.Close()
			}
		}
		time.Sleep(time.Minute)
		if shed := a.Hub.Stats().Shed; shed > 1 {
			t.Errorf("%d clients were given up", shed)
		}
	})
}

// plansOf asks all nodes, and returns their plans by the number of their connections.
func (r *rig) plansOf(missing int) map[int]Plan {
	r.t.Helper()
	plans, gone, err := Everywhere(r.t.Context(), r.emitter, Terms{Percent: 20, Least: 1, Pace: MaxPace})
	if err != nil || len(gone) != missing {
		r.t.Fatalf("got %v, %v, %v", plans, gone, err)
	}
	out := map[int]Plan{}
	for _, p := range plans {
		out[p.Connections] = p.Plan
	}
	return out
}

func TestNothingIsGivenUpWhileANodeIsSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		a, b, c := r.node(), r.node(), r.node()
		r.connect(a, 60)
		c.Silence()
		if p := r.plansOf(1)[60]; p.Shed != 0 || !strings.Contains(p.Why, "has not said how many connections it has") {
			t.Errorf("got %+v", p)
		}
		if lost := r.comeBack(time.Second, b); lost != 0 {
			t.Errorf("%d clients were given up", lost)
		}
		time.Sleep(6 * time.Second) // its lease
		if p := r.plansOf(0)[60]; p.Shed != 30 {
			t.Errorf("got %+v", p)
		}
		r.comeBack(5*time.Second, b)
		r.want(30, a, b)
		c.Heal()
	})
}

func TestANodeThatIsCutOffGivesNothingUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{On: true, Least: 1, Interval: time.Second})
		a := r.node()
		r.connect(a, 60)
		r.node()
		a.Silence()
		if lost := r.comeBack(20*time.Second, a); lost != 0 {
			t.Errorf("%d clients were given up", lost)
		}
		a.Heal()
	})
}

// TestClientsOnTheirWayCount: they are on no node when the mean is worked out again.
func TestClientsOnTheirWayCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		a, b := r.node(), r.node()
		r.connect(a, 60)
		if p := r.plansOf(0)[60]; p.Shed != 30 {
			t.Fatalf("got %+v", p)
		}
		time.Sleep(5 * time.Second) // nobody is back
		r.want(30, a)
		if p := r.plansOf(0)[30]; p.Shed != 0 {
			t.Errorf("it gives up %d more", p.Shed)
		}
		r.comeBack(time.Second, b)
		r.want(30, a, b)
	})
}

func TestARoundEndsWhenANodeComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{On: true, Pace: 1, Least: 1, Interval: 20 * time.Second})
		a, b := r.node(), r.node()
		r.connect(a, 60)
		r.comeBack(20*time.Second, b)
		r.node()
		if lost := r.comeBack(15*time.Second, b); lost > 1 {
			t.Errorf("%d clients were given up by the old plan", lost)
		}
		if lost := r.comeBack(time.Minute, b); lost == 0 {
			t.Error("there is no new plan")
		}
	})
}

func TestANodeThatDrainsTakesNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, Options{})
		a, b := r.node(), r.node()
		r.connect(a, 60)
		b.Drain()
		time.Sleep(time.Second) // that it has gone is known
		if p := r.plansOf(0)[60]; p != (Plan{Connections: 60, Mean: 60, Why: "no other node takes clients"}) {
			t.Errorf("got %+v", p)
		}
	})
}
