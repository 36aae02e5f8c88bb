package hub

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/cluster"
	"tether/engine"
)

// bounded is a broker that knows less than it could say.
type bounded struct {
	broker.Broker
	bound broker.Bound
}

func (v bounded) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	receipts, err := v.Broker.Publish(ctx, msgs...)
	for i, r := range receipts {
		switch {
		case r.Nobody() && v.bound == broker.AtLeast:
		case v.bound == broker.AtLeast:
			receipts[i] = broker.Receipt{Nodes: 1, Bound: broker.AtLeast}
		case v.bound == broker.Unknown:
			receipts[i] = unknown
		}
	}
	return receipts, err
}

var bounds = map[string]broker.Bound{"exact": broker.Exact, "at least": broker.AtLeast, "unknown": broker.Unknown}

// boundedCluster is n nodes on a broker of that bound, which know each other.
func boundedCluster(t *testing.T, n int, bound broker.Bound) []*Hub {
	t.Helper()
	bus := memory.NewBus()
	hubs := make([]*Hub, n)
	for i := range hubs {
		hubs[i] = start(t, bounded{bus.Broker(), bound}, recovering)
	}
	for _, h := range hubs {
		waitFor(t, func() bool {
			members, err := h.Members()
			return err == nil && len(members) == n
		}, "the nodes do not know each other")
	}
	return hubs
}

// inRoom is a client whose socket is in room r.
func inRoom(t *testing.T, h *Hub) *returning {
	t.Helper()
	r := comes(t, h)
	if err := r.socket().Join(t.Context(), Room("r")); err != nil {
		t.Fatal(err)
	}
	return r
}

func exactly(nodes int) broker.Receipt { return broker.Receipt{Nodes: nodes} }

func atLeast(nodes int) broker.Receipt { return broker.Receipt{Nodes: nodes, Bound: broker.AtLeast} }

// What a broker can count makes no difference to what nodes say of their clients.
func TestAReceiptTellsClientsThatAreConnectedFromThoseThatAreWaitedFor(t *testing.T) {
	for name, bound := range bounds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hubs := boundedCluster(t, 3, bound)
			e := hubs[2].Emitter()
			emit := func(story string, live, nodes int) {
				t.Helper()
				r, err := e.AskLive().Emit(t.Context(), Room("r"), "e")
				if err != nil || r.Live != exactly(live) || bound == broker.Exact && nodes >= 0 && r.Receipt != exactly(nodes) {
					t.Errorf("%s: got %+v %v, want %d live, %d nodes", story, r, err, live, nodes)
				}
			}
			emit("nobody", 0, 0)
			a, b := inRoom(t, hubs[0]), inRoom(t, hubs[1])
			emit("both are connected", 2, 2)
			b.lose()
			emit("one is away", 1, 2)
			if r := mustEmit(t, e, Room("r"), "e"); r.Live != unknown {
				t.Errorf("what is not asked is known: %+v", r)
			}
			a.lose()
			emit("both are away", 0, 2)
			a.connect(t)
			emit("one is back", 1, 2)
			c := inRoom(t, hubs[1])
			emit("one is connected beside the one that is away", 2, 2)
			c.lose()
			a.lose()
			a.h = hubs[1]
			a.connect(t)
			if !a.recovered {
				t.Fatal("the client is not recovered on another node")
			}
			emit("it is back on another node, and the one that had it listens on for a moment", 1, -1)
			a.lose()
			for _, h := range hubs[:2] {
				h.sweepParked(time.Now().Add(time.Hour))
				waitFor(t, func() bool { return h.Stats().Rooms == 0 }, "sessions outlive their window")
			}
			emit("the window is over", 0, 0)
		})
	}
}

func TestReceiptsOfSeveralTargetsSayWhereClientsAre(t *testing.T) {
	for name, bound := range bounds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hubs := boundedCluster(t, 2, bound)
			e := hubs[1].Emitter().AskLive()
			a, b := inRoom(t, hubs[0]), inRoom(t, hubs[1])
			b.lose()
			id := SocketID(a.sid)
			rs, err := e.EmitMany(t.Context(), []Target{Room("r"), SocketID(b.sid), Room("nobody"), id, Everyone}, "e")
			if err != nil {
				t.Fatal(err)
			}
			for i, want := range []int{1, 0, 0, 1, 1} {
				if rs[i].Live != exactly(want) {
					t.Errorf("target %d: %+v, want %d live", i, rs[i], want)
				}
			}
			for story, c := range map[string]struct {
				e    *Emitter
				to   []Target
				want broker.Receipt
			}{
				"a union":                     {e, []Target{Room("r"), id}, atLeast(1)}, // the socket has got it by the room
				"a union with nobody":         {e, []Target{Room("nobody"), id}, exactly(1)},
				"a union of who is away":      {e, []Target{Room("nobody"), SocketID(b.sid)}, exactly(0)},
				"all but the connected one":   {e.Except(id), []Target{Room("r")}, exactly(0)},
				"volatile":                    {e.Volatile(), []Target{Room("r")}, exactly(1)},
				"this node, who is away":      {e.Local(), []Target{Room("r")}, exactly(0)},
				"this node, who is connected": {hubs[0].Emitter().AskLive().Local(), []Target{Room("r")}, exactly(1)},
			} {
				if r, err := c.e.EmitUnion(t.Context(), c.to, "e"); err != nil || r.Live != c.want {
					t.Errorf("%s: %+v %v, want %+v", story, r, err, c.want)
				}
			}
		})
	}
}

// TestAReceiptOfASocketThatHasMoved: the node that its ID names says nothing of it.
func TestAReceiptOfASocketThatHasMoved(t *testing.T) {
	for name, bound := range bounds {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			hubs := boundedCluster(t, 2, bound)
			r := inRoom(t, hubs[0])
			r.lose()
			r.h = hubs[1]
			r.connect(t)
			for _, away := range []bool{false, true} {
				want := 1
				if away {
					want = 0
					r.lose()
				}
				for i, h := range hubs {
					for to := range map[Target]bool{SocketID(r.sid): true, Room("r"): true} {
						got, err := h.Emitter().AskLive().Emit(t.Context(), to, "e")
						if err != nil || got.Live != exactly(want) && (got.Live != unknown || to == Room("r")) {
							t.Errorf("node %d, %v, away %v: %+v %v", i, to, away, got, err)
						}
					}
				}
			}
		})
	}
}

func TestWhatANodeDoesNotSayIsUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		silence := func(ctx context.Context, _ *cluster.Request) error { <-ctx.Done(); return ctx.Err() }
		refusal := func(context.Context, *cluster.Request) error { return errTopic }
		for story, answer := range map[string]func(context.Context, *cluster.Request) error{"silent": silence, "older": refusal} {
			hubs := several(t, 2, recovering)
			e := hubs[0].Emitter().AskLive()
			e.Cluster().Handle(topicLive, answer)
			a, b := inRoom(t, hubs[0]), inRoom(t, hubs[1])
			began := time.Now()
			if r, err := e.Emit(t.Context(), Room("r"), "e"); err != nil || r != (Receipt{exactly(2), atLeast(1)}) {
				t.Errorf("%s: got %+v %v", story, r, err)
			}
			b.lose()
			if r, err := e.Emit(t.Context(), Room("r"), "e"); err != nil || r != (Receipt{exactly(2), unknown}) {
				t.Errorf("%s: got %+v %v", story, r, err)
			}
			if took := time.Since(began); took > 2*liveTime {
				t.Errorf("%s: two emits took %v", story, took)
			}
			a.lose()
		}
	})
}

func TestOnlyAnEmitterThatRunsCanAsk(t *testing.T) {
	bus := memory.NewBus()
	h := start(t, bus.Broker(), recovering)
	r := inRoom(t, h)
	e := NewEmitter(bus.Broker(), EmitterOptions{})
	if _, err := e.AskLive().Emit(t.Context(), Room("r"), "e"); !errors.Is(err, ErrNotRunning) {
		t.Errorf("got %v", err)
	}
	r.wantNothing()
	ctx, cancel := context.WithCancel(t.Context())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- e.Run(ctx, func() { close(up) }) }() // waited for below
	<-up
	if got, err := e.AskLive().Emit(t.Context(), Room("r"), "e"); err != nil || got != (Receipt{exactly(1), exactly(1)}) {
		t.Errorf("got %+v %v", got, err)
	}
	r.wantEvents(t, "[e]")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestWhatBecameOfAnEvent as nodes tell it: a client that did not take it is not one that did, and one of which nothing is
// known is neither.
func TestWhatBecameOfAnEvent(t *testing.T) {
	for _, c := range []struct {
		sockets      int
		told         []engine.Outcome
		live, nobody bool
	}{
		{0, nil, false, true},
		{1, nil, false, false},
		{1, []engine.Outcome{engine.Parked}, false, true},
		{2, []engine.Outcome{engine.Parked, engine.DroppedNewest}, false, true},
		{2, []engine.Outcome{engine.Parked}, false, false},
		{2, []engine.Outcome{engine.Parked, engine.Queued}, true, false},
		{1, []engine.Outcome{engine.Held}, true, false},
		{1, []engine.Outcome{engine.Written}, true, false},
	} {
		taking := new(taking)
		for _, o := range c.told {
			taking.Became(nil, o)
		}
		if taking.nobody() {
			t.Errorf("%+v: nobody, before it is routed", c)
		}
		taking.Routed(c.sockets)
		if live, nobody := taking.live.Load(), taking.nobody(); live != c.live || nobody != c.nobody {
			t.Errorf("%+v: got live %v, nobody %v", c, live, nobody)
		}
	}
}

func TestANodeRemembersTheLastEventsOnly(t *testing.T) {
	var x takings
	mark := func(i int) []byte {
		_, rest, _ := cutText(appendLiveMark(nil, uint64(i)))
		id, _, _ := cutText(rest)
		return id
	}
	for i := range maxTakings + 2 {
		if x.add(mark(i), "subject") == nil || x.add(mark(i), "other") == nil {
			t.Fatal("a mark of an emitter is none")
		}
	}
	if x.add([]byte(strings.Repeat("x", liveIDSize+1)), "subject") != nil {
		t.Error("a mark of another length is taken")
	}
	if got := len(x.known); got != maxTakings || len(x.order) != maxTakings {
		t.Errorf("%d are remembered", got)
	}
	last, first := takingKey{maxTakings + 1, "subject"}, takingKey{1, "other"}
	if x.of(last) == nil || x.of(first) != nil {
		t.Error("the oldest are to be forgotten")
	}
}
