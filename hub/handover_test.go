package hub

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/broker/memory"
)

// at has the client come back to another node.
func (r *returning) at(h *Hub) *returning {
	r.h = h
	return r
}

// goesTo is connect for a client that comes to another node. If the node that has its session has much to do, and does
// not hand it over in time, the connection is closed, and the client comes again.
func (r *returning) goesTo(t testing.TB, h *Hub) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; {
		begun := time.Now()
		r.at(h).dial(t)
		select {
		case p := <-r.packets:
			r.answered(t, p)
			return
		case <-r.ended:
		case <-time.After(patience):
			t.Fatal("the client is not answered")
		}
		if len(r.packets) > 0 { // it was answered before
			r.answer(t)
			return
		}
		if took := time.Since(begun); took < claimTime/2 || time.Now().After(deadline) {
			t.Fatalf("the connection is closed after %v: %s", took, r.closedFor())
		}
	}
}

type profile struct{ Name string }

var moving = Options{
	Greeting: Greeting{Off: true},
	Recovery: Recovery{On: true, Data: func() any { return new(profile) }},
}

// isAnn checks that a socket that comes back is what it was.
func isAnn(t *testing.T, s *Socket) {
	t.Helper()
	rooms := s.Rooms()[1:]
	slices.SortFunc(rooms, func(a, b Target) int { return strings.Compare(a.name, b.name) })
	if got := fmt.Sprint(s.Users(), rooms, s.Data()); got != "[user:7] [room:a user:7] &{Ann}" {
		t.Errorf("it comes back with %s", got)
	}
}

func TestASessionGoesFromNodeToNode(t *testing.T) {
	t.Parallel()
	hubs := several(t, 3, moving)
	var logs [3]hooks
	for i, h := range hubs {
		logs[i].install(h)
		h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
			if s.Recovered() {
				isAnn(t, s)
				return nil
			}
			s.SetData(&profile{"Ann"})
			if err := s.Join(ctx, Room("a")); err != nil {
				return err
			}
			return s.Register(ctx, "7")
		})
	}
	r := comes(t, hubs[0])
	sid, pid := r.sid, r.pid
	n := 0
	emit := func() {
		t.Helper()
		for _, to := range []Target{User("7"), Room("a"), SocketID(sid), Everyone} {
			for _, h := range hubs {
				n++
				mustEmit(t, h.Emitter(), to, "x", n, Binary("b"))
			}
		}
	}
	read := 0
	want := func() {
		t.Helper()
		got := map[string]bool{}
		for ; read < n; read++ {
			got[fmt.Sprint(r.event(t)[1])] = true
		}
		for i := range n {
			if want := fmt.Sprint(i + 1); i >= read-len(got) && !got[want] {
				t.Fatalf("the client got %v, want %s", got, want)
			}
		}
	}
	for i, h := range []*Hub{hubs[0], hubs[1], hubs[2], hubs[2], hubs[0], hubs[1], hubs[0]} {
		emit()
		if i%2 == 1 {
			want()
			emit()
		}
		if i%3 > 0 { // else the node that it leaves does not know
			r.lose()
			emit()
		}
		r.goesTo(t, h)
		if !r.recovered || r.sid != sid || r.pid != pid {
			t.Fatalf("visit %d of %s: recovered %v, %s was %s: %+v", i, h.Node(), r.recovered, r.sid, sid, h.Stats())
		}
		want()
		emit()
		want()
		r.wantNothing()
	}
	for i, h := range hubs {
		deadline := time.Now().Add(patience)
		for s := h.Stats(); s.Parked > 0 || s.Sockets > 1 || i > 0 && s.Sockets > 0; s = h.Stats() {
			if time.Now().After(deadline) {
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
		if s := h.Stats(); s.Parked > 0 || s.Sockets > 1 || i > 0 && s.Sockets > 0 {
			t.Errorf("%s: %d sockets, %d parked", h.Node(), s.Sockets, s.Parked)
		}
		logs[i].mu.Lock()
		for _, text := range logs[i].said {
			if text[:2] == "un" {
				t.Errorf("%s was told %q", h.Node(), logs[i].said)
			}
		}
		logs[i].mu.Unlock()
	}
}

func TestANodeThatIsGoneHasTheSession(t *testing.T) {
	bus := memory.NewBus()
	a, stop := startStoppable(t, bus.Broker(), Options{Node: "a", Recovery: Recovery{On: true, Window: time.Second}})
	b, c := start(t, bus.Broker(), Options{Node: "b", Recovery: Recovery{On: true}}), start(t, bus.Broker(), Options{Node: "c", Recovery: Recovery{On: true}})
	moved, lost := comes(t, a), comes(t, a)
	moved.lose()
	moved.at(b).connect(t)
	lost.lose()
	stop()
	lost.at(b).connect(t)
	if lost.recovered || b.Stats().UnrecoveredNodeLost != 1 {
		t.Errorf("recovered: %v, %+v", lost.recovered, b.Stats())
	}
	mustEmit(t, c.Emitter(), SocketID(moved.sid), "x", 1)
	moved.wantEvents(t, "[x 1]")
	moved.lose()
	moved.at(c).connect(t) // its pid names a node that is gone
	if !moved.recovered {
		t.Errorf("a session that had moved is not recovered: %+v", c.Stats())
	}
	if r := mustEmit(t, b.Emitter(), SocketID(moved.sid), "x", 2); r.Nodes < 1 {
		t.Errorf("the receipt says %v", r)
	}
	moved.wantEvents(t, "[x 2]")
	mustEmit(t, moved.socket().Broadcast(), Everyone, "x", "for others")
	mustEmit(t, c.Emitter(), SocketID(moved.sid), "x", 3)
	moved.wantEvents(t, "[x 3]")
}

func TestAnotherNodeRefuses(t *testing.T) {
	hubs := several(t, 2, recovering)
	var logs [2]hooks
	refuse := true
	for i, h := range hubs {
		logs[i].install(h)
	}
	hubs[1].Of("/").OnConnect(func(_ context.Context, s *Socket) error {
		if s.Recovered() && refuse {
			return Refuse("revoked", nil)
		}
		return nil
	})
	r := comes(t, hubs[0])
	r.lose()
	r.at(hubs[1]).dial(t)
	r.want(`44{"message":"revoked"}`)
	logs[0].want(t, "connect", "disconnect transport close", "unrecovered refused")
	logs[1].want(t, "connect again")
	refuse = false
	r.connect(t)
	if r.recovered {
		t.Error("a session that was refused is there again")
	}
}

// TestWhatComesWhileTheLastOfASocketEndsIsPassedOn has an event for a socket that has moved come when what it was on its
// first node has ended, and is still found there.
func TestWhatComesWhileTheLastOfASocketEndsIsPassedOn(t *testing.T) {
	hubs := several(t, 2, moving)
	r := comes(t, hubs[0])
	was := r.socket()
	r.lose()
	if r.goesTo(t, hubs[1]); !r.recovered {
		t.Fatalf("the session has not moved: %+v", hubs[1].Stats())
	}
	was.lapse(lossExpired) // its time is over
	waitFor(t, func() bool { return hubs[0].sockets.len() == 0 }, "the socket is not taken out")
	place := hubs[0].sockets.reserve() // as if it had not been yet
	hubs[0].sockets.put(place, was)
	defer hubs[0].sockets.remove(place)
	if was.gate.State() != stateGone || hubs[0].socket(r.sid) != was {
		t.Fatal("the socket is not found at its end")
	}
	mustEmit(t, hubs[1].Emitter(), SocketID(r.sid), "x", 1)
	r.wantEvents(t, "[x 1]")
}

// TestAClaimFindsTheSocketThatHasTheSession when that has just been passed on.
func TestAClaimFindsTheSocketThatHasTheSession(t *testing.T) {
	h := alone(t, moving)
	r := comes(t, h)
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	r.wantEvents(t, "[x 1]")
	before := r.socket()
	r.lose()
	r.connect(t)
	s := r.socket()
	if !r.recovered || before == s {
		t.Fatal("the session is not recovered")
	}
	answer := before.claimed(t.Context(), 7, appendText(appendText(nil, "/"), r.offset))
	if len(answer) == 0 || answer[0] != sessionHere {
		t.Fatalf("the answer to a claim is %d", answer)
	}
	<-r.ended // another node takes it
	if s.gate.State() != stateParked || !s.claimedLast(7) {
		t.Error("the session is not claimed")
	}
}

// TestClientsThatFlapBetweenNodes is TestClientsThatFlap with each connection to another node.
func TestClientsThatFlapBetweenNodes(t *testing.T) {
	const clients, events = 3, 300
	hubs := several(t, 3, moving)
	for _, h := range hubs {
		h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
			if s.Recovered() {
				return nil
			}
			return s.Join(ctx, Room("0"), Room("1"), Room("2"))
		})
	}
	flap(t, hubs, clients, events)
}

func flap(t *testing.T, hubs []*Hub, clients, events int) {
	emitters := len(hubs)
	var wg sync.WaitGroup
	begin := make(chan struct{})
	for i, h := range hubs {
		wg.Go(func() {
			<-begin
			for n := range events {
				mustEmit(t, h.Emitter(), Room(fmt.Sprint(i)), "x", i, n)
				if n%8 == 0 {
					time.Sleep(time.Millisecond)
				}
			}
		})
	}
	var ready sync.WaitGroup
	ready.Add(clients)
	for i := range clients {
		wg.Go(func() {
			r := comes(t, hubs[i%len(hubs)])
			ready.Done()
			<-begin
			next := make([]int, emitters)
			for n := 0; n < emitters*events; n++ {
				args := r.event(t)
				from, number := int(args[1].(float64)), int(args[2].(float64))
				if next[from] != number {
					text, _ := json.Marshal(args)
					t.Errorf("client %d got %s, want event %d of emitter %d", i, text, next[from], from)
					return
				}
				next[from]++
				if n%37 == i { // it loses what it has not read
					if n%2 == 0 {
						r.lose()
					}
					if r.goesTo(t, hubs[n%len(hubs)]); !r.recovered {
						t.Errorf("client %d is not recovered by %s: %+v", i, r.h.Node(), r.h.Stats())
						return
					}
				}
			}
			r.wantNothing()
		})
	}
	ready.Wait()
	close(begin)
	wg.Wait()
}

func TestADrainHandsSessionsOver(t *testing.T) {
	t.Parallel()
	bus := memory.NewBus()
	a, stop := startStoppable(t, bus.Broker(), Options{Node: "a", Recovery: Recovery{On: true}, DrainWindow: 100 * time.Millisecond})
	b := start(t, bus.Broker(), Options{Node: "b", Recovery: Recovery{On: true}})
	var log hooks
	log.install(a)
	var clients []*returning
	for range 20 {
		clients = append(clients, comes(t, a))
	}
	plain, _ := connect(t, a)
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := stop(); err != nil {
			t.Error(err)
		}
	})
	for i, r := range clients {
		<-r.ended
		mustEmit(t, b.Emitter(), SocketID(r.sid), "x", i)
		if r.at(b).connect(t); !r.recovered {
			t.Fatalf("client %d is not recovered: %+v", i, b.Stats())
		}
		r.wantEvents(t, fmt.Sprintf("[x %d]", i))
	}
	<-plain.ended
	wg.Wait()
	for _, text := range log.said {
		if text != "connect" && text != "disconnect server shutting down" {
			t.Errorf("a hook was told %q", text)
		}
	}
	if n := len(log.said); n != 2*len(clients) {
		t.Errorf("the hooks were told %d things: %q", n, log.said)
	}
	for i, r := range clients {
		mustEmit(t, b.Emitter(), SocketID(r.sid), "x", i, "again")
		r.wantEvents(t, fmt.Sprintf("[x %d again]", i))
	}
}

// A session that came back to the node where it began, and has just ended there: its sockets are still found.
func TestASessionThatIsStillFoundAtItsEndIsRefused(t *testing.T) {
	hubs := several(t, 3, moving)
	r := comes(t, hubs[0])
	was := r.socket()
	for _, h := range []*Hub{hubs[1], hubs[0]} {
		r.lose()
		if r.goesTo(t, h); !r.recovered {
			t.Fatalf("not recovered by %s: %+v", h.Node(), h.Stats())
		}
	}
	s := r.socket()
	s.Disconnect(false)
	r.want("41")
	if answer := s.claimed(t.Context(), 7, appendText(appendText(nil, "/"), r.offset)); string(answer) != string([]byte{byte(lossRefused)}) {
		t.Errorf("the answer to a claim is %d", answer)
	}
	was.lapse(lossExpired)
	waitFor(t, func() bool { return hubs[0].sockets.len() == 0 }, "the sockets are not taken out")
	place := hubs[0].sockets.reserve() // as if the first one had not been yet
	hubs[0].sockets.put(place, was)
	defer hubs[0].sockets.remove(place)
	if place != placeOf(r.sid) {
		t.Fatal("the socket is not found at its end")
	}
	r.goesTo(t, hubs[2])
	if s := hubs[2].Stats(); r.recovered || s.UnrecoveredRefused != 1 || s.UnrecoveredNodeLost != 0 {
		t.Errorf("recovered %v, %d refused, %d lost with their node", r.recovered, s.UnrecoveredRefused, s.UnrecoveredNodeLost)
	}
}

// A session that came back to the node where it began, and ended there, has not gone to the node that had it meanwhile.
func TestASessionThatCameBackAndEndedIsRefused(t *testing.T) {
	for _, last := range []int{0, 1, 2} {
		hubs := several(t, 3, moving)
		r := comes(t, hubs[0])
		for _, h := range []*Hub{hubs[1], hubs[0]} {
			r.lose()
			if r.at(h).connect(t); !r.recovered {
				t.Fatalf("not recovered by %s: %+v", h.Node(), h.Stats())
			}
		}
		r.socket().Disconnect(false)
		r.want("41")
		r.at(hubs[last]).connect(t)
		if s := hubs[last].Stats(); r.recovered || s.UnrecoveredRefused != 1 || s.UnrecoveredNodeLost != 0 {
			t.Errorf("at %s: recovered %v, %d refused, %d lost with their node", hubs[last].Node(), r.recovered, s.UnrecoveredRefused, s.UnrecoveredNodeLost)
		}
	}
}

// The log of a session that is just being ended is empty. Another node that asks for it then is not told that it overflowed.
func TestASessionThatIsAskedForWhileItEndsIsRefused(t *testing.T) {
	h := several(t, 1, moving)[0]
	r := comes(t, h)
	mustEmit(t, h.Emitter(), SocketID(r.sid), "x", 1)
	r.wantEvents(t, "[x 1]")
	s := r.socket()
	v := s.sessionOf()
	s.end(true)
	defer s.client.departed()
	s.claimed(t.Context(), 1, appendText(appendText(nil, "/"), r.offset))
	s.unrecovered(true)
	if why := h.lapsed.whyOf(sha256.Sum256(v.secret[:])); why != lossRefused {
		t.Errorf("the session has ended as %q", lossText[why])
	}
}
