package hub

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tether/broker"
	"tether/broker/memory"
)

// Six sockets on two nodes, and who gets what.
func TestWhoGetsAnEvent(t *testing.T) {
	hubs := cluster(t, 2, Options{})
	members := map[string][]Room{
		"a0": {"a"}, "b0": {"b"}, "ab0": {"a", "b"},
		"a1": {"a"}, "ab1": {"b", "a"}, "none1": nil,
	}
	peers := map[string]*peer{}
	ids := map[string]Room{}
	for name, rooms := range members {
		p, s := connect(t, hubs[name[len(name)-1]-'0'])
		if err := s.Join(t.Context(), rooms...); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return s.gate.State() == stateConnected }, "the socket is held up") // till then packets wait
		peers[name], ids[name] = p, s.Room()
	}
	id := func(name string) Room { return ids[name] }
	e := hubs[0].Emitter()
	for i, c := range []struct {
		emit func(event string) error
		want string // each name as often as it gets the event
	}{
		{func(ev string) error { return second(e.Emit(t.Context(), Everyone, ev)) }, "a0 a1 ab0 ab1 b0 none1"},
		{func(ev string) error { return second(e.Emit(t.Context(), "a", ev)) }, "a0 a1 ab0 ab1"},
		{func(ev string) error { return second(e.Emit(t.Context(), "c", ev)) }, ""},
		{func(ev string) error { return second(e.Emit(t.Context(), id("none1"), ev)) }, "none1"},
		{func(ev string) error { return second(e.Emit(t.Context(), id("a0"), ev)) }, "a0"},
		{func(ev string) error { return second(e.Except("b").Emit(t.Context(), "a", ev)) }, "a0 a1"},
		{func(ev string) error { return second(e.Except("b", id("a1")).Emit(t.Context(), "a", ev)) }, "a0"},
		{func(ev string) error { return second(e.Except("a").Except("b").Emit(t.Context(), Everyone, ev)) }, "none1"},
		{func(ev string) error { return second(e.Except(id("a0")).Emit(t.Context(), id("a0"), ev)) }, ""},
		{func(ev string) error { return second(e.Except("a").Emit(t.Context(), id("a0"), ev)) }, ""},
		{func(ev string) error { return second(e.Except(Everyone).Emit(t.Context(), "a", ev)) }, ""},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), []Room{"a", "b"}, ev)) }, "a0 a1 ab0 ab1 b0"},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), []Room{"b", "a", "b", "c"}, ev)) }, "a0 a1 ab0 ab1 b0"},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), []Room{"a", id("a0"), id("none1")}, ev)) }, "a0 a1 ab0 ab1 none1"},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), []Room{id("ab1"), id("ab1"), "b"}, ev)) }, "ab0 ab1 b0"},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), []Room{"a", Everyone}, ev)) }, "a0 a1 ab0 ab1 b0 none1"},
		{func(ev string) error { return second(e.Except("b").EmitUnion(t.Context(), []Room{"a", id("b0")}, ev)) }, "a0 a1"},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), nil, ev)) }, ""},
		{func(ev string) error { return second(e.EmitMany(t.Context(), []Room{"a", "b"}, ev)) }, "a0 a1 ab0 ab0 ab1 ab1 b0"},
		{func(ev string) error { return second(e.EmitMany(t.Context(), nil, ev)) }, ""},
		{func(ev string) error { return second(e.Local().Emit(t.Context(), Everyone, ev)) }, "a0 ab0 b0"},
		{func(ev string) error { return second(e.Local().Emit(t.Context(), id("a0"), ev)) }, "a0"},
		{func(ev string) error { return second(e.Local().Emit(t.Context(), id("a1"), ev)) }, ""},
		{func(ev string) error { return second(e.Local().EmitUnion(t.Context(), []Room{"a", "b"}, ev)) }, "a0 ab0 b0"},
		{func(ev string) error { return second(e.Volatile().Emit(t.Context(), "b", ev)) }, "ab0 ab1 b0"},
		{func(ev string) error { return second(e.In("/other").Emit(t.Context(), Everyone, ev)) }, ""},
		{func(ev string) error { return second(e.In("/other").Emit(t.Context(), id("a1"), ev)) }, ""},
		{func(ev string) error {
			return second(peers["a0"].client.find("/").Broadcast().Emit(t.Context(), "a", ev))
		}, "a1 ab0 ab1"},
	} {
		event := fmt.Sprint("event-", i)
		if err := c.emit(event); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		var got []string
		for name, p := range peers {
			for len(p.packets) > 0 {
				if text := p.next(); text == `42["`+event+`"]` {
					got = append(got, name)
				} else {
					t.Errorf("%d: %s got %s", i, name, text)
				}
			}
		}
		slices.Sort(got)
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%d: %q got it, want %q", i, text, c.want)
		}
	}
}

func TestARoomThatLooksLikeAnID(t *testing.T) {
	hubs := cluster(t, 2, Options{})
	owner, s := connect(t, hubs[0])
	guest, g := connect(t, hubs[1])
	plain := Room("exactly-20-chars-ABC")
	if err := g.Join(t.Context(), s.Room(), plain); err != nil {
		t.Fatal(err)
	}
	if err := s.Join(t.Context(), s.Room(), Everyone); err != nil {
		t.Fatal(err)
	}
	r := mustEmit(t, hubs[0].Emitter(), s.Room(), "x")
	owner.want(`42["x"]`)
	guest.want(`42["x"]`)
	if want := (Receipt{Nodes: 1, Bound: broker.AtLeast}); r != want {
		t.Errorf("receipt is %v, want %v", r, want)
	}
	if r := mustEmit(t, hubs[0].Emitter(), plain, "y"); r != (Receipt{Nodes: 1}) {
		t.Errorf("receipt is %v", r)
	}
	guest.want(`42["y"]`)
	s.Leave(s.Room(), Everyone)
	mustEmit(t, hubs[1].Emitter(), Everyone, "z")
	owner.want(`42["z"]`)
	guest.want(`42["z"]`)
	owner.wantNothing()
	guest.wantNothing()
	owner.end(ReasonTransportClose)
	mustEmit(t, hubs[1].Emitter(), s.Room(), "gone")
	if got := hubs[0].Stats().Wasted; got != 1 {
		t.Errorf("%d messages were wasted, want 1", got)
	}
}

func TestReceipts(t *testing.T) {
	hubs := cluster(t, 3, Options{})
	for i, h := range hubs {
		for range i {
			_, s := connect(t, h)
			if err := s.Join(t.Context(), "all", Room(fmt.Sprint("only-", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := hubs[0].Emitter().EmitMany(t.Context(), []Room{"none", "only-1", "all", "only-2"}, "x")
	if want := []Receipt{{}, {Nodes: 1}, {Nodes: 2}, {Nodes: 1}}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for r, want := range map[Receipt]string{
		{}:                                "nobody is there",
		{Nodes: 1}:                        "1 node took it",
		{Nodes: 2}:                        "2 nodes took it",
		{Bound: broker.Unknown}:           "the broker cannot tell",
		{Nodes: 1, Bound: broker.AtLeast}: "1 node or more took it",
	} {
		if r.String() != want {
			t.Errorf("%#v is %q, want %q", r, r, want)
		}
	}
	unknown := Receipt{Bound: broker.Unknown}
	for _, c := range [][3]Receipt{
		{{}, {}, {}},
		{{}, {Nodes: 2}, {Nodes: 2}},
		{{Nodes: 2}, {Nodes: 3}, {Nodes: 3, Bound: broker.AtLeast}},
		{{}, unknown, unknown},
		{unknown, {Nodes: 1}, {Nodes: 1, Bound: broker.AtLeast}},
	} {
		if a, b := either(c[0], c[1]), either(c[1], c[0]); a != c[2] || b != c[2] {
			t.Errorf("%#v or %#v is %#v and %#v, want %#v", c[0], c[1], a, b, c[2])
		}
	}
}

func TestAnEmitterNeedsNoHub(t *testing.T) {
	bus := memory.NewBus()
	h := start(t, bus.Broker(), Options{Prefix: "app"})
	h.Of("/admin")
	p, _ := connect(t, h)
	p.say("0/admin,")
	p.joined("/admin")
	b := bus.Broker()
	defer b.Close()
	e := NewEmitter(b, EmitterOptions{Prefix: "app", Namespace: "admin", Events: []string{"x"}})
	mustEmit(t, e, Everyone, "x", 1)
	p.want(`42/admin,["x",1]`)
	mustEmit(t, e.In("/"), Everyone, "x", 2)
	p.want(`42["x",2]`)
	if r := mustEmit(t, NewEmitter(b, EmitterOptions{}), Everyone, "x"); !r.Nobody() {
		t.Errorf("another prefix: %v", r)
	}
	for name, err := range map[string]error{
		"undeclared": second(e.Emit(t.Context(), Everyone, "y")),
		"local":      second(e.Local().Emit(t.Context(), Everyone, "x")),
		"namespace":  second(e.In("/a,b").Emit(t.Context(), Everyone, "x")),
		"rooms":      second(e.Except(make([]Room, MaxTargets+1)...).Emit(t.Context(), Everyone, "x")),
	} {
		want := map[string]error{"undeclared": ErrUndeclaredEvent, "local": ErrNoHub, "namespace": ErrNamespace, "rooms": ErrTooManyRooms}[name]
		if !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	b.Close()
	if r, err := e.Emit(t.Context(), Everyone, "x"); !errors.Is(err, broker.ErrClosed) || r.Bound != broker.Unknown {
		t.Errorf("on a closed broker: %v, %v", r, err)
	}
}

func TestAKickReachesEveryNode(t *testing.T) {
	hubs := cluster(t, 2, Options{})
	ends := make(chan Reason, 4)
	var peers []*peer
	for i, h := range hubs {
		h.Of("/").OnDisconnect(func(_ *Socket, r Reason) { ends <- r })
		for range 2 {
			p, s := connect(t, h)
			if err := s.RegisterAs(t.Context(), User("42")); err != nil {
				t.Fatal(err)
			}
			p.next()
			if i == 0 {
				if err := s.Join(t.Context(), "kept"); err != nil {
					t.Fatal(err)
				}
			}
			peers = append(peers, p)
		}
	}
	r, err := hubs[0].Emitter().Except("kept").Disconnect(t.Context(), User("42"), true)
	if err != nil || r.Nodes != 2 {
		t.Errorf("receipt is %v, %v", r, err)
	}
	for _, p := range peers[2:] {
		p.want("41")
		<-p.ended
	}
	if _, err := hubs[1].Emitter().Disconnect(t.Context(), peers[0].client.find("/").Room(), false); err != nil {
		t.Error(err)
	}
	peers[0].want("41")
	for range 3 {
		if got := <-ends; got != ReasonServerDisconnect {
			t.Errorf("reason is %q", got)
		}
	}
	subject := peers[1].client.find("/").ns.subject + string(User("42"))
	waitFor(t, func() bool { return hubs[1].index.lookup(subject) == nil }, "the room stays")
	if r := mustEmit(t, hubs[1].Emitter(), User("42"), "x"); r.Nodes != 1 {
		t.Errorf("receipt is %v", r)
	}
	peers[1].want(`42["x"]`)
}

func TestHostileRoomNames(t *testing.T) {
	hubs := cluster(t, 2, Options{})
	names := []Room{"*", ">", "a.b", " ", "\r\n", ",", "/,", "user:1", "é\x00", Room(strings.Repeat("x", 5000)),
		Kind("a:b").Room("c"), Kind("a").Room("b:c"), Kind("a%3Ab").Room("c"), User(":"), User("")}
	peers := make([]*peer, len(names))
	for i, name := range names {
		p, s := connect(t, hubs[i%2])
		if err := s.Join(t.Context(), name); err != nil {
			t.Fatal(err)
		}
		if got := s.Rooms(); len(got) != 2 || got[1] != name {
			t.Errorf("rooms are %q", got)
		}
		peers[i] = p
	}
	for i, name := range names {
		mustEmit(t, hubs[0].Emitter(), name, "n", i)
	}
	for i := range names {
		peers[i].want(fmt.Sprintf(`42["n",%d]`, i))
		peers[i].wantNothing()
	}
}

func TestNamespacesShareNothing(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/a")
	p := dial(t, h)
	p.say("0")
	root := p.joined("/")
	p.say("0/a,")
	a := p.joined("/a")
	for _, s := range []*Socket{root, a} {
		if err := s.Join(t.Context(), "room"); err != nil {
			t.Fatal(err)
		}
	}
	mustEmit(t, h.Of("/a").Emitter(), "room", "x")
	p.want(`42/a,["x"]`)
	mustEmit(t, h.Of("/").Local(), "room", "y")
	p.want(`42["y"]`)
	mustEmit(t, h.Of("/a").Emitter().Except(root.Room()), Everyone, "z")
	p.want(`42/a,["z"]`)
	p.wantNothing()
	if h.Of("/").Len() != 1 || h.Of("/a").Len() != 1 || len(slices.Collect(h.Of("/a").Sockets())) != 1 {
		t.Error("sockets are counted in the wrong namespace")
	}
	if a.Transport() != "websocket" || a.Namespace() != h.Of("/a") {
		t.Error("the socket does not know where it is")
	}
	a.SetData(7)
	if a.Data() != 7 || root.Data() != nil {
		t.Error("data is shared")
	}
}
