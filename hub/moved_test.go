package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

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
	got := make(map[string]bool) // what the node passes on last may come behind what no longer goes by it
	for range events {
		got[fmt.Sprint(r.event(t))] = true
	}
	for i := range events {
		if !got[fmt.Sprintf("[x %d]", i)] {
			t.Errorf("event %d is lost", i)
		}
	}
	r.wantNothing()
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
