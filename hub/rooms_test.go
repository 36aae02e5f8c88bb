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
	hubs := several(t, 2, Options{})
	members := map[string][]Target{
		"a0": {Room("a")}, "b0": {Room("b")}, "ab0": {Room("a"), Room("b")},
		"a1": {Room("a")}, "ab1": {Room("b"), Room("a")}, "none1": nil,
	}
	peers := map[string]*peer{}
	ids := map[string]Target{}
	for name, rooms := range members {
		p, s := connect(t, hubs[name[len(name)-1]-'0'])
		if err := s.Join(t.Context(), rooms...); err != nil {
			t.Fatal(err)
		}
		peers[name], ids[name] = p, s.Target()
	}
	id := func(name string) Target { return ids[name] }
	e := hubs[0].Emitter()
	for i, c := range []struct {
		emit func(event string) error
		want string // each name as often as it gets the event
	}{
		{func(ev string) error { return second(e.Emit(t.Context(), Everyone, ev)) }, "a0 a1 ab0 ab1 b0 none1"},
		{func(ev string) error { return second(e.Emit(t.Context(), Room("a"), ev)) }, "a0 a1 ab0 ab1"},
		{func(ev string) error { return second(e.Emit(t.Context(), Room("c"), ev)) }, ""},
		{func(ev string) error { return second(e.Emit(t.Context(), id("none1"), ev)) }, "none1"},
		{func(ev string) error { return second(e.Emit(t.Context(), id("a0"), ev)) }, "a0"},
		{func(ev string) error { return second(e.Except(Room("b")).Emit(t.Context(), Room("a"), ev)) }, "a0 a1"},
		{func(ev string) error { return second(e.Except(Room("b"), id("a1")).Emit(t.Context(), Room("a"), ev)) }, "a0"},
		{func(ev string) error {
			return second(e.Except(Room("a")).Except(Room("b")).Emit(t.Context(), Everyone, ev))
		}, "none1"},
		{func(ev string) error { return second(e.Except(id("a0")).Emit(t.Context(), id("a0"), ev)) }, ""},
		{func(ev string) error { return second(e.Except(Room("a")).Emit(t.Context(), id("a0"), ev)) }, ""},
		{func(ev string) error { return second(e.Except(Everyone).Emit(t.Context(), Room("a"), ev)) }, ""},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), []Target{Room("a"), Room("b")}, ev)) }, "a0 a1 ab0 ab1 b0"},
		{func(ev string) error {
			return second(e.EmitUnion(t.Context(), []Target{Room("b"), Room("a"), Room("b"), Room("c")}, ev))
		}, "a0 a1 ab0 ab1 b0"},
		{func(ev string) error {
			return second(e.EmitUnion(t.Context(), []Target{Room("a"), id("a0"), id("none1")}, ev))
		}, "a0 a1 ab0 ab1 none1"},
		{func(ev string) error {
			return second(e.EmitUnion(t.Context(), []Target{id("ab1"), id("ab1"), Room("b")}, ev))
		}, "ab0 ab1 b0"},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), []Target{Room("a"), Everyone}, ev)) }, "a0 a1 ab0 ab1 b0 none1"},
		{func(ev string) error {
			return second(e.Except(Room("b")).EmitUnion(t.Context(), []Target{Room("a"), id("b0")}, ev))
		}, "a0 a1"},
		{func(ev string) error { return second(e.EmitUnion(t.Context(), nil, ev)) }, ""},
		{func(ev string) error { return second(e.EmitMany(t.Context(), []Target{Room("a"), Room("b")}, ev)) }, "a0 a1 ab0 ab0 ab1 ab1 b0"},
		{func(ev string) error { return second(e.EmitMany(t.Context(), nil, ev)) }, ""},
		{func(ev string) error { return second(e.Local().Emit(t.Context(), Everyone, ev)) }, "a0 ab0 b0"},
		{func(ev string) error { return second(e.Local().Emit(t.Context(), id("a0"), ev)) }, "a0"},
		{func(ev string) error { return second(e.Local().Emit(t.Context(), id("a1"), ev)) }, ""},
		{func(ev string) error {
			return second(e.Local().EmitUnion(t.Context(), []Target{Room("a"), Room("b")}, ev))
		}, "a0 ab0 b0"},
		{func(ev string) error { return second(e.Volatile().Emit(t.Context(), Room("b"), ev)) }, "ab0 ab1 b0"},
		{func(ev string) error { return second(e.In("/other").Emit(t.Context(), Everyone, ev)) }, ""},
		{func(ev string) error { return second(e.In("/other").Emit(t.Context(), id("a1"), ev)) }, ""},
		{func(ev string) error {
			return second(peers["a0"].client.find("/").Broadcast().Emit(t.Context(), Room("a"), ev))
		}, "a1 ab0 ab1"},
	} {
		event := fmt.Sprint("event-", i)
		if err := c.emit(event); err != nil {
			t.Errorf("%d: %v", i, err)
		}
		waitFor(t, func() bool { // what comes on one subject waits while a beat is delivered; what is too much, the next event shows
			n := 0
			for _, p := range peers {
				n += len(p.packets)
			}
			return n >= len(strings.Fields(c.want))
		}, event+" has not come to all")
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

// A client that chooses the name of a room gets nothing that is meant for a user, or for a single socket.
func TestTheNameOfARoomIsNoOneElses(t *testing.T) {
	hubs := several(t, 2, Options{})
	owner, s := connect(t, hubs[0])
	if err := s.RegisterAs(t.Context(), User("42")); err != nil {
		t.Fatal(err)
	}
	owner.next() // the greeting
	guest, g := connect(t, hubs[1])
	look := []Target{Room(s.ID()), Room("user:42"), Room("exactly-20-chars-ABC")}
	if err := g.Join(t.Context(), look...); err != nil {
		t.Fatal(err)
	}
	one := receiptOf(exactly(1))
	for i, to := range []Target{s.Target(), SocketID(s.ID()), User("42")} {
		if r := mustEmit(t, hubs[1].Emitter(), to, "x", i); r != one {
			t.Errorf("receipt is %v", r)
		}
		owner.want(fmt.Sprintf(`42["x",%d]`, i))
	}
	for i, to := range look {
		if r := mustEmit(t, hubs[0].Emitter(), to, "y", i); r != one {
			t.Errorf("receipt is %v", r)
		}
		guest.want(fmt.Sprintf(`42["y",%d]`, i))
	}
	s.Leave(s.Target(), Everyone)
	if err := s.Join(t.Context(), s.Target(), Everyone); err != nil {
		t.Error(err)
	}
	mustEmit(t, hubs[1].Emitter(), Everyone, "z")
	owner.want(`42["z"]`)
	guest.want(`42["z"]`)
	owner.wantNothing()
	guest.wantNothing()
	owner.end(ReasonTransportClose)
	mustEmit(t, hubs[1].Emitter(), s.Target(), "gone")
	if got := hubs[0].Stats().Wasted; got != 1 {
		t.Errorf("%d messages were wasted, want 1", got)
	}
}

// A call for nobody fails, and is not one for everyone.
func TestATargetThatNamesNobodyIsAnError(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	_, other := connect(t, h)
	e, ctx := h.Emitter(), t.Context()
	for _, to := range []Target{{}, Room(""), User(""), Kind("").User("1"), Kind("admin").User(""), SocketID("42"), SocketID("")} {
		for name, err := range map[string]error{
			"emit":         second(e.Emit(ctx, to, "x")),
			"emit to many": second(e.EmitMany(ctx, []Target{Everyone, to}, "x")),
			"union":        second(e.EmitUnion(ctx, []Target{Everyone, to}, "x")),
			"except":       second(e.Except(to).Emit(ctx, Everyone, "x")),
			"local":        second(e.Local().Emit(ctx, to, "x")),
			"disconnect":   second(e.Disconnect(ctx, to, true)),
			"join by all":  second(e.Join(ctx, to, Room("x"))),
			"fetch":        e.FetchSockets(ctx, to, FetchOptions{}).Err(),
			"ask":          e.EmitAck(ctx, to, "x").Err(),
			"join":         s.Join(ctx, to),
			"register":     s.RegisterAs(ctx, to),
		} {
			if !errors.Is(err, ErrTarget) {
				t.Errorf("%s %v: %v", name, to, err)
			}
		}
		s.Leave(to)
	}
	for name, err := range map[string]error{
		"register nobody":         s.Register(ctx, ""),
		"register a room":         s.RegisterAs(ctx, Room("42")),
		"register everyone":       s.RegisterAs(ctx, Everyone),
		"register a socket":       s.RegisterAs(ctx, s.Target()),
		"join what is no room":    s.Join(ctx, other.Target()),
		"join one, and no others": s.Join(ctx, Room("a"), other.Target()),
	} {
		if !errors.Is(err, ErrTarget) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if got := s.Rooms(); !slices.Equal(got, []Target{s.Target()}) {
		t.Errorf("rooms are %v", got)
	}
	p.wantNothing()
}

func TestTargetsSayWhatTheyWereMadeOf(t *testing.T) {
	id := "exactly-20-chars-ABC"
	for _, c := range []struct {
		target     Target
		name, text string
	}{
		{Target{}, "", "nobody"},
		{Everyone, "", "everyone"},
		{Room("a:b"), "a:b", "room:a:b"},
		{User("a:b"), "a:b", "user:a:b"},
		{Kind("x:y").User("z"), "z", "x%3Ay:z"},
		{SocketID(id), id, "socket:" + id},
	} {
		if c.target.Name() != c.name || c.target.String() != c.text {
			t.Errorf("%q is named %q", c.target, c.target.Name())
		}
		if again := targetOf(c.target.name); c.target != (Target{}) && again != c.target {
			t.Errorf("%q comes back as %q", c.target, again)
		}
	}
}

func TestReceipts(t *testing.T) {
	hubs := several(t, 3, Options{})
	for i, h := range hubs {
		for range i {
			_, s := connect(t, h)
			if err := s.Join(t.Context(), Room("all"), Room(fmt.Sprint("only-", i))); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := hubs[0].Emitter().EmitMany(t.Context(), []Target{Room("none"), Room("only-1"), Room("all"), Room("only-2")}, "x")
	if want := []Receipt{{}, receiptOf(exactly(1)), receiptOf(exactly(2)), receiptOf(exactly(1))}; err != nil || !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for r, want := range map[Receipt]string{
		{}:                    "nobody is there",
		receiptOf(exactly(1)): "1 node took it",
		receiptOf(exactly(2)): "2 nodes took it",
		receiptOf(unknown):    "the broker cannot tell",
		receiptOf(atLeast(1)): "1 node or more took it",
	} {
		if r.String() != want {
			t.Errorf("%#v is %q, want %q", r, r, want)
		}
	}
	for _, c := range [][3]broker.Receipt{
		{{}, {}, {}},
		{{}, exactly(2), exactly(2)},
		{exactly(2), exactly(3), atLeast(3)},
		{{}, unknown, unknown},
		{unknown, exactly(1), atLeast(1)},
	} {
		if a, b := either(c[0], c[1]), either(c[1], c[0]); a != c[2] || b != c[2] {
			t.Errorf("%#v or %#v is %#v and %#v, want %#v", c[0], c[1], a, b, c[2])
		}
	}
	x, y, want := Receipt{exactly(2), exactly(0)}, Receipt{exactly(1), exactly(1)}, Receipt{atLeast(2), exactly(1)}
	if got := both(x, y); got != want {
		t.Errorf("got %+v, want %+v", got, want)
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
		"rooms":      second(e.Except(make([]Target, maxTargets+1)...).Emit(t.Context(), Everyone, "x")),
	} {
		want := map[string]error{"undeclared": ErrEvent, "local": errNoHub, "namespace": ErrNamespace, "rooms": errTooManyRooms}[name]
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
	hubs := several(t, 2, Options{})
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
				if err := s.Join(t.Context(), Room("kept")); err != nil {
					t.Fatal(err)
				}
			}
			peers = append(peers, p)
		}
	}
	r, err := hubs[0].Emitter().Except(Room("kept")).Disconnect(t.Context(), User("42"), true)
	if err != nil || len(r.Nodes) != 2 || r.Sockets != 2 || r.Missing != nil {
		t.Errorf("got %+v, %v", r, err)
	}
	for _, p := range peers[2:] {
		p.want("41")
		<-p.ended
	}
	if _, err := hubs[1].Emitter().Disconnect(t.Context(), peers[0].client.find("/").Target(), false); err != nil {
		t.Error(err)
	}
	peers[0].want("41")
	for range 3 {
		if got := <-ends; got != ReasonServerDisconnect {
			t.Errorf("reason is %q", got)
		}
	}
	subject := peers[1].client.find("/").ns.subject + User("42").name
	waitFor(t, func() bool { return hubs[1].index.lookup(subject) == nil }, "the room stays")
	if r := mustEmit(t, hubs[1].Emitter(), User("42"), "x"); r.Nodes != 1 {
		t.Errorf("receipt is %v", r)
	}
	peers[1].want(`42["x"]`)
}

func TestHostileRoomNames(t *testing.T) {
	hubs := several(t, 2, Options{})
	names := []Target{Room("*"), Room(">"), Room("a.b"), Room(" "), Room("\r\n"), Room(","), Room("/,"), Room("user:1"), Room("é\x00"), Room(strings.Repeat("x", 5000)),
		Kind("a:b").User("c"), Kind("a").User("b:c"), Kind("a%3Ab").User("c"), User(":"), User("1"), Room("exactly-20-chars-ABC")}
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
		if err := s.Join(t.Context(), Room("room")); err != nil {
			t.Fatal(err)
		}
	}
	mustEmit(t, h.Of("/a").Emitter(), Room("room"), "x")
	p.want(`42/a,["x"]`)
	mustEmit(t, h.Emitter().Local(), Room("room"), "y")
	p.want(`42["y"]`)
	mustEmit(t, h.Of("/a").Emitter().Except(root.Target()), Everyone, "z")
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
