package hub

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/cluster"
)

func TestASocketThatHasMovedIsFoundByItsID(t *testing.T) {
	bus := memory.NewBus()
	home, stop := startStoppable(t, bus.Broker(), Options{Node: "home", Recovery: Recovery{On: true}})
	away, other := start(t, bus.Broker(), Options{Node: "away", Recovery: Recovery{On: true}}), start(t, bus.Broker(), Options{Node: "other", Recovery: Recovery{On: true}})
	b := bus.Broker()
	worker := NewEmitter(b, EmitterOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- worker.Run(ctx, nil) }() // the test waits for it
	defer func() {
		cancel()
		<-ended
		b.Close()
	}()
	r := comes(t, home)
	id := SocketID(r.sid)
	look := func(e *Emitter, node string) {
		t.Helper()
		sockets := e.FetchSockets(ctx, id, FetchOptions{})
		n := 0
		for s := range sockets.All {
			if n++; s.ID != r.sid || s.Node.Name != node {
				t.Errorf("found %+v", s)
			}
		}
		if n != 1 || sockets.Err() != nil || len(sockets.Missing()) > 0 {
			t.Errorf("found %d sockets, missing %v, %v", n, sockets.Missing(), sockets.Err())
		}
		there := func(m cluster.Member) bool { return m.Name == node }
		for name, change := range map[string]func(context.Context, Target, ...Target) (Changed, error){"Join": e.Join, "Leave": e.Leave} {
			if c, err := change(ctx, id, Room(name)); err != nil || c.Sockets != 1 || len(c.Missing) > 0 || !slices.ContainsFunc(c.Nodes, there) {
				t.Errorf("%s: %+v, %v", name, c, err)
			}
		}
		mustEmit(t, e, Room("Join"), "joined")
		r.wantEvents(t, "[joined]")
		if _, err := e.Leave(ctx, id, Room("Join")); err != nil {
			t.Error(err)
		}
	}
	for _, h := range []*Hub{away, home, away} {
		if r.at(h).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", h.Stats())
		}
		if _, err := worker.Members(ctx); err != nil {
			t.Fatal(err)
		}
		look(worker, h.Node())
		look(other.Emitter(), h.Node())
		answered := make(chan []SocketAck)
		go func() { // the test waits for it
			answered <- slices.Collect(worker.EmitAck(ctx, id, "q").All)
		}()
		r.wantEvents(t, "[q]")
		r.say(fmt.Sprintf("3%d[]", pollIDs+h.polls.Load()))
		if a := <-answered; len(a) != 1 || a[0].ID != r.sid || a[0].Err != nil || a[0].Node.Name != h.Node() {
			t.Errorf("the answers are %+v", a)
		}
	}
	stop()
	look(worker, "away")
	if c, err := worker.Disconnect(ctx, id, false); err != nil || c.Sockets != 1 {
		t.Errorf("%+v, %v", c, err)
	}
	r.want("41")
}

// Rooms that change after another node has claimed the session are not lost: the client comes once more.
func TestRoomsMayChangeWhileASessionIsHandedOver(t *testing.T) {
	hubs := several(t, 3, moving)
	late := false
	hubs[1].Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		if late {
			return nil
		}
		late = true
		if c, err := hubs[2].Emitter().Join(ctx, s.Target(), Room("late")); err != nil || c.Sockets != 1 {
			t.Errorf("%+v, %v", c, err)
		}
		return nil
	})
	r := comes(t, hubs[0])
	r.lose()
	r.at(hubs[1]).dial(t)
	<-r.ended
	if r.connect(t); !r.recovered {
		t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
	}
	mustEmit(t, hubs[2].Emitter(), Room("late"), "x", 1)
	r.wantEvents(t, "[x 1]")
}

// A change may come to the node that has just passed the session on, and to no other.
func TestAChangeFollowsASessionThatHasMoved(t *testing.T) {
	hubs := several(t, 2, moving)
	r := comes(t, hubs[0])
	old := r.socket()
	r.lose()
	if r.at(hubs[1]).connect(t); !r.recovered {
		t.Fatalf("it is not recovered: %+v", hubs[1].Stats())
	}
	hubs[0].parked.set(old, time.Now().Add(time.Hour)) // it stays as it is
	if !old.passedOn() {
		t.Fatal("it has ended already")
	}
	change := func(topic byte, text []byte, want bool) {
		t.Helper()
		c, ok := parseOrder(topic, text)
		if done, err := hubs[0].change(t.Context(), old, c); !ok || done != want || err != nil {
			t.Errorf("%d: it is done: %v, want %v; %v", topic, done, want, err)
		}
	}
	late := appendText([]byte{1}, Room("late").name)
	change(topicJoin, late, true)
	change(topicJoin, late, false) // the other node was asked, too
	mustEmit(t, hubs[0].Emitter(), Room("late"), "x", 1)
	r.wantEvents(t, "[x 1]")
	change(topicLeave, late, true)
	change(topicDisconnect, []byte{0}, true)
	r.want("41")
	for _, bad := range [][]byte{nil, {1}, {1, topicFetch}, {1, topicJoin, 9}, {200, topicLeave}, {3, topicJoin, 1, 0}} {
		if answer := hubs[1].changeHere(t.Context(), old, bad); len(answer) != 1 || answer[0] != byte(lossUnknown) {
			t.Errorf("%v: got %v", bad, answer)
		}
	}
}

// What is emitted with Socket.Emit is kept, or fails: it is not lost between two nodes.
func TestASocketTakesNothingWhenItsSessionHasMoved(t *testing.T) {
	hubs := several(t, 2, moving)
	r := comes(t, hubs[0])
	old := r.socket()
	hubs[1].Of("/").OnConnect(func(ctx context.Context, s *Socket) error { return old.Emit("x", "kept") })
	r.lose()
	if r.at(hubs[1]).connect(t); !r.recovered {
		t.Fatal("it is not recovered")
	}
	if err := old.Emit("x", "too late"); !errors.Is(err, ErrDisconnected) {
		t.Errorf("an event for a socket that has gone: %v", err)
	}
	r.wantEvents(t, "[x kept]")
	r.wantNothing()
}

func TestASessionWithAsManyRoomsAsThereMayBeMoves(t *testing.T) {
	o := moving
	o.Limits.Rooms = 2
	hubs := several(t, 2, o)
	ctx := context.Background()
	r := comes(t, hubs[0])
	if err := r.socket().Join(ctx, Room("a"), Room("b")); err != nil {
		t.Fatal(err)
	}
	for _, h := range []*Hub{hubs[1], hubs[0]} {
		if r.at(h).connect(t); !r.recovered {
			t.Fatalf("it is not recovered: %+v", h.Stats())
		}
		s := h.socket(r.sid)
		if err := s.Join(ctx, Room("c")); !errors.Is(err, ErrTooMany) {
			t.Errorf("one room more: %v", err)
		}
		s.Leave(Room("a"))
		if err := s.Join(ctx, Room("a")); err != nil {
			t.Errorf("as many as before: %v", err)
		}
	}
}

// A node that ends passes on what it is counted for.
func TestNothingForASocketThatHasMovedIsLostWhenItsNodeEnds(t *testing.T) {
	t.Parallel()
	bus := memory.NewBus()
	home, stop := startStoppable(t, bus.Broker(), moving)
	away := start(t, bus.Broker(), moving)
	r := comes(t, home)
	if r.at(away).connect(t); !r.recovered {
		t.Fatal("it is not recovered")
	}
	for end := time.Now().Add(patience); home.Stats().Parked > 0; time.Sleep(10 * time.Millisecond) { // as a drain waits
		if time.Now().After(end) {
			t.Fatal("the node still listens for the session")
		}
	}
	const events = 500
	stopped := make(chan error)
	for i := range events {
		if i == events/5 {
			go func() { stopped <- stop() }() // the test waits for it
		}
		if receipt := mustEmit(t, away.Emitter(), SocketID(r.sid), "x", i); receipt.Nodes != 1 {
			t.Fatalf("event %d: %v", i, receipt)
		}
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	for i := range events {
		r.wantEvents(t, fmt.Sprintf("[x %d]", i)) // what no longer goes by the node comes behind what it passes on last
	}
	r.wantNothing()
}

// stuck is a broker that takes no event until let is closed.
type stuck struct {
	broker.Broker
	let chan struct{}
}

func (s stuck) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if e, err := parseEnvelope(msgs[0].Data); err == nil && e.kind == kindEvent {
		<-s.let
	}
	return s.Broker.Publish(ctx, msgs...)
}

// A node that ends publishes what it has got for a socket that has moved: receipts have counted that.
func TestANodeThatEndsPassesOnWhatItHasGot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memory.NewBus()
		let := make(chan struct{})
		home, stop := startStoppable(t, stuck{bus.Broker(), let}, moving)
		away := start(t, bus.Broker(), moving)
		r := comes(t, home)
		if r.at(away).connect(t); !r.recovered {
			t.Fatal("it is not recovered")
		}
		time.Sleep(time.Minute) // the node does not listen for the session any more
		const events = 50
		for i := range events {
			if receipt := mustEmit(t, away.Emitter(), SocketID(r.sid), "x", i); receipt.Nodes != 1 {
				t.Fatalf("event %d: %v", i, receipt)
			}
		}
		stopped := make(chan error)
		go func() { stopped <- stop() }() // the test waits for it
		synctest.Wait()                   // it has left, and waits for the broker
		close(let)
		if err := <-stopped; err != nil {
			t.Error(err)
		}
		for i := range events {
			r.wantEvents(t, fmt.Sprintf("[x %d]", i))
		}
	})
}

func TestWhoFindsANodeGoneWaitsForWhatItHasPassedOnLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g gone
		for i, want := range []struct {
			tag  string
			wait time.Duration
		}{{"a", lateTime}, {"a", 0}, {"b", lateTime}, {"a", 0}} {
			began := time.Now()
			if g.await(t.Context(), want.tag); time.Since(began) != want.wait {
				t.Errorf("%d: it waits for %v, want %v", i, time.Since(began), want.wait)
			}
		}
	})
}

// An event for several rooms comes once, also if the old node and the new one get it through different rooms.
func TestAnEventForSeveralRoomsComesOnceThroughWhicheverRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs := several(t, 2, moving)
		r := comes(t, hubs[0])
		if err := r.socket().Join(t.Context(), Room("a")); err != nil {
			t.Fatal(err)
		}
		old := r.socket()
		if r.at(hubs[1]).connect(t); !r.recovered {
			t.Fatal("it is not recovered")
		}
		if err := r.socket().Join(t.Context(), Room("b")); err != nil {
			t.Fatal(err)
		}
		if _, err := hubs[0].Emitter().EmitUnion(t.Context(), []Target{Room("b"), Room("a")}, "x", 1); err != nil {
			t.Fatal(err)
		}
		mustEmit(t, hubs[0].Emitter(), Room("a"), "x", 2)
		old.lapse(lossExpired) // the old node tells what has come since, through the room that it knows
		r.wantEvents(t, "[x 1]", "[x 2]")
		time.Sleep(2 * lateTime)
		r.wantNothing()
		if reason := r.closedFor(); reason != "" {
			t.Errorf("the connection is closed: %s", reason)
		}
	})
}

// What is passed on so late that a later event is there is not sent, and the client learns that it misses something.
func TestWhatIsPassedOnTooLateEndsTheSession(t *testing.T) {
	hubs := several(t, 2, moving)
	r := comes(t, hubs[0])
	if r.at(hubs[1]).connect(t); !r.recovered {
		t.Fatal("it is not recovered")
	}
	emit := func(number uint64, passed bool) {
		e := hubs[0].Emitter()
		enc := newEncoder()
		defer enc.free()
		if err := enc.event("x", []any{number}); err != nil {
			t.Fatal(err)
		}
		b := batch{emitter: e, encoder: enc, flags: flagOrigin, number: number}
		room := roomSubject(e.publisher.prefix, "/", SocketID(r.sid))
		m := broker.Message{Subject: room, Data: b.envelope("", nil)}
		if passed {
			came, err := parseEnvelope(b.envelope(room, nil))
			if err != nil {
				t.Fatal(err)
			}
			m = came.forwardable()
		}
		if _, err := hubs[0].broker.Publish(t.Context(), m); err != nil {
			t.Fatal(err)
		}
	}
	emit(1000, true)
	emit(1002, false)
	emit(1003, true)
	r.wantEvents(t, "[x 1000]", "[x 1002]", "[x 1003]")
	emit(1001, true)
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Fatal("the client is not told")
	}
	if r.connect(t); r.recovered || hubs[1].Stats().UnrecoveredGap != 1 {
		t.Errorf("recovered: %v, %+v", r.recovered, hubs[1].Stats())
	}
}

func TestAClientThatTheServerHasDisconnectedIsToldSo(t *testing.T) {
	hubs := several(t, 2, moving)
	for _, h := range hubs {
		r := comes(t, hubs[0])
		r.socket().Disconnect(false)
		r.want("41")
		r.end(ReasonTransportClose)
		if r.at(h).connect(t); r.recovered || h.Stats().UnrecoveredRefused != 1 {
			t.Errorf("recovered: %v, %+v", r.recovered, h.Stats())
		}
	}
}

// A change meets a socket in the instant in which its client comes back, on the same node: both wait for the lock of the
// socket, and get it in one order or the other.
func TestAChangeIsNotLostWhileItsClientComesBack(t *testing.T) {
	h := several(t, 1, moving)[0]
	meet := func(r *returning, change func(old *Socket)) {
		old := r.socket()
		old.mu.Lock()
		changed := make(chan struct{})
		r.dial(t)
		go func() {
			defer close(changed)
			change(old)
		}()
		for range 20 {
			runtime.Gosched()
		}
		old.mu.Unlock()
		<-changed
	}
	r := comes(t, h)
	for i := range 100 {
		room := Room(fmt.Sprint(i))
		for _, topic := range []byte{topicJoin, topicLeave} {
			meet(r, func(old *Socket) {
				if _, err := h.change(t.Context(), old, order{topic: topic, rooms: []Target{room}}); err != nil {
					t.Error(err)
				}
			})
			if r.answer(t); slices.Contains(r.socket().Rooms(), room) != (topic == topicJoin) {
				t.Fatalf("round %d, topic %d: the rooms are %v", i, topic, r.socket().Rooms())
			}
		}
	}
	for range 100 {
		r := comes(t, h)
		old := r.socket()
		meet(r, func(old *Socket) { old.Disconnect(false) })
		waitFor(t, func() bool { return old.current().gate.State() == stateGone }, "a socket that was disconnected while its client came back goes on")
	}
}
