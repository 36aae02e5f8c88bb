package hub

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/cluster"
	"tether/internal/long"
)

// found are the names of what FetchSockets finds, sorted.
func found(t testing.TB, e *Emitter, to Target, o FetchOptions) (list []RemoteSocket) {
	t.Helper()
	sockets := e.FetchSockets(t.Context(), to, o)
	list = slices.Collect(sockets.All)
	if sockets.Err() != nil || sockets.Missing() != nil {
		t.Errorf("error %v, missing %v", sockets.Err(), sockets.Missing())
	}
	slices.SortFunc(list, func(a, b RemoteSocket) int { return strings.Compare(a.ID, b.ID) })
	return list
}

func ids(list []RemoteSocket) (ids []string) {
	for _, s := range list {
		ids = append(ids, s.ID)
	}
	return ids
}

// everywhere connects n clients to each of the hubs.
func everywhere(t testing.TB, hubs []*Hub, n int) (peers []*peer, sockets []*Socket) {
	t.Helper()
	for _, h := range hubs {
		for range n {
			p, s := connect(t, h)
			peers, sockets = append(peers, p), append(sockets, s)
		}
	}
	return peers, sockets
}

func idsOf(sockets ...*Socket) (ids []string) {
	for _, s := range sockets {
		ids = append(ids, s.ID())
	}
	slices.Sort(ids)
	return ids
}

// worker is a running emitter without a hub.
func worker(t testing.TB, bus *memory.Bus) *Emitter {
	t.Helper()
	b := bus.Broker()
	e := NewEmitter(b, EmitterOptions{})
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- e.Run(ctx, func() { close(up) }) }() // the cleanup waits for it
	<-up
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
		b.Close()
	})
	return e
}

func TestSocketsAreFoundOnAllNodes(t *testing.T) {
	t.Parallel()
	bus := memory.NewBus()
	hubs := []*Hub{start(t, bus.Broker(), Options{Node: "a"}), start(t, bus.Broker(), Options{Node: "b"})}
	_, s := everywhere(t, hubs, 2)
	for _, x := range []*Socket{s[0], s[3]} {
		if err := x.Join(t.Context(), Room("r")); err != nil {
			t.Fatal(err)
		}
	}
	if err := s[1].RegisterAs(t.Context(), User("42")); err != nil {
		t.Fatal(err)
	}
	s[3].SetData(map[string]int{"age": 7})
	for name, e := range map[string]*Emitter{"a hub": hubs[0].Emitter(), "the other": hubs[1].Emitter(), "a worker": worker(t, bus)} {
		for _, c := range []struct {
			to   Target
			e    *Emitter
			want []*Socket
		}{
			{Everyone, e, s},
			{Room("r"), e, []*Socket{s[0], s[3]}},
			{Room("r"), e.Except(s[0].Target()), []*Socket{s[3]}},
			{Everyone, e.Except(Room("r")), []*Socket{s[1], s[2]}},
			{User("42"), e, []*Socket{s[1]}},
			{s[2].Target(), e, []*Socket{s[2]}},
			{Room("nobody"), e, nil},
			{Everyone, e.In("/other"), nil},
		} {
			if got, want := ids(found(t, c.e, c.to, FetchOptions{})), idsOf(c.want...); !slices.Equal(got, want) {
				t.Errorf("%s, %v: got %q, want %q", name, c.to, got, want)
			}
		}
	}
	if got, want := ids(found(t, hubs[0].Emitter().Local(), Everyone, FetchOptions{})), idsOf(s[0], s[1]); !slices.Equal(got, want) {
		t.Errorf("local: got %q, want %q", got, want)
	}
	if _, err := hubs[0].Emitter().Members(context.Background()); err != nil { // so that it knows their names
		t.Fatal(err)
	}
	got := found(t, hubs[0].Emitter(), s[3].Target(), FetchOptions{Rooms: true, Data: true, Handshake: true})[0]
	if got.Node.Name != "b" || got.Namespace != "/" || got.Transport != "websocket" || string(got.Data) != `{"age":7}` ||
		!slices.Equal(got.Rooms, []Target{s[3].Target(), Room("r")}) || got.Handshake == nil || got.Handshake.Time.IsZero() {
		t.Errorf("got %+v", got)
	}
}

func TestAWorkerThatDoesNotRunIsToldWhy(t *testing.T) {
	e := NewEmitter(memory.NewBus().Broker(), EmitterOptions{})
	sockets := e.FetchSockets(t.Context(), Everyone, FetchOptions{})
	for range sockets.All {
		t.Error("a socket")
	}
	_, err := e.Join(t.Context(), Everyone, Room("x"))
	for _, err := range []error{sockets.Err(), err} {
		if !errors.Is(err, ErrNotRunning) || !strings.Contains(err.Error(), "the emitter") {
			t.Errorf("got %v", err)
		}
	}
	if err := alone(t, Options{}).Emitter().Run(t.Context(), nil); err == nil {
		t.Error("the emitter of a hub runs")
	}
}

// In force means: what is emitted as soon as the call has returned reaches the sockets that have joined, and not
// those that have left.
func TestAChangeIsInForceWhenItReturns(t *testing.T) {
	hubs := several(t, 3, Options{})
	peers, s := everywhere(t, hubs, 2)
	for _, x := range s[:5] {
		if err := x.Join(t.Context(), Room("r")); err != nil {
			t.Fatal(err)
		}
	}
	for round := range 20 {
		by, other := hubs[round%3].Emitter(), Room(fmt.Sprint("other", round))
		c, err := by.Join(t.Context(), Room("r"), other)
		if err != nil || c.Sockets != 5 || len(c.Nodes) != 3 || c.Missing != nil {
			t.Fatalf("join: got %+v, %v", c, err)
		}
		mustEmit(t, hubs[(round+1)%3].Emitter(), other, "in", round)
		for _, p := range peers[:5] {
			p.want(fmt.Sprintf(`42["in",%d]`, round))
		}
		c, err = by.Leave(t.Context(), other, other)
		if err != nil || c.Sockets != 5 || len(c.Nodes) != 3 || c.Missing != nil {
			t.Fatalf("leave: got %+v, %v", c, err)
		}
		mustEmit(t, hubs[(round+1)%3].Emitter(), other, "out")
	}
	c, err := hubs[0].Emitter().Disconnect(t.Context(), Room("r"), true)
	if err != nil || c.Sockets != 5 || len(c.Nodes) != 3 {
		t.Fatalf("disconnect: got %+v, %v", c, err)
	}
	if got := ids(found(t, hubs[1].Emitter(), Everyone, FetchOptions{})); !slices.Equal(got, idsOf(s[5])) {
		t.Errorf("after the disconnect there are %q", got)
	}
	for _, p := range peers[:5] {
		p.want("41")
	}
	peers[5].wantNothing()
}

func TestASocketThatHasNoRoomIsNotHidden(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Rooms: 1}})
	everywhere(t, []*Hub{h}, 2)
	if _, err := h.Emitter().Join(t.Context(), Everyone, Room("a")); err != nil {
		t.Fatal(err)
	}
	c, err := h.Emitter().Join(t.Context(), Everyone, Room("b"))
	if err != nil || c.Sockets != 0 || len(c.Nodes) != 0 || len(c.Missing) != 1 || c.Missing[0].Why.Error() != errTooManyRooms.Error() {
		t.Errorf("got %+v, %v", c, err)
	}
}

func TestEachSocketOfARoomHasOneRecord(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hubs := several(t, 2, Options{Limits: Limits{Acks: 1}})
		peers, s := everywhere(t, hubs, 4)
		pending, stop := context.WithCancel(t.Context())
		defer stop()
		busy := make(chan error)
		go func() { // ends with pending
			_, err := s[5].EmitAck(pending, "before")
			busy <- err
		}()
		peers[5].want(`420["before"]`)
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		answers := hubs[0].Emitter().EmitAck(ctx, Everyone, "question", 7, Binary{1, 2})
		got := make(map[string]string)
		answered := make(chan struct{})
		go func() { // ends with the answers
			defer close(answered)
			for a := range answers.All {
				text := fmt.Sprint(a.Node.Name, " ", a.Err)
				if a.Err == nil {
					var n int
					var b Binary
					if err := a.Answer.Bind(&n, &b); err != nil {
						t.Error(err)
					}
					text = fmt.Sprint(a.Node.Name, " ", n, b)
				}
				if got[a.ID] != "" {
					t.Errorf("%s has two records", a.ID)
				}
				got[a.ID] = text
			}
		}()
		for i, p := range peers {
			if i == 5 {
				continue
			}
			head := p.next()
			id, rest, _ := strings.Cut(strings.TrimPrefix(head, "451-"), "[")
			if rest != `"question",7,{"_placeholder":true,"num":0}]` {
				t.Fatalf("got %s", head)
			}
			switch i {
			case 0, 4:
				p.say("61-" + id + fmt.Sprintf(`[%d,{"_placeholder":true,"num":0}]`, i))
				if err := p.client.Binary([]byte{byte(i)}); err != nil {
					t.Fatal(err)
				}
			case 1:
				p.end(ReasonTransportClose)
			case 3, 7:
				p.say("3" + id + `[null,{"message":"no handler for this event"}]`)
			}
		}
		<-answered
		if answers.Err() != nil || answers.Missing() != nil {
			t.Errorf("error %v, missing %v", answers.Err(), answers.Missing())
		}
		for i, want := range []string{
			"node-0 0 [0]", "node-0 " + ErrDisconnected.Error(), "node-0 " + context.DeadlineExceeded.Error(),
			"node-0 " + ErrNoHandler.Error(),
			"node-1 4 [4]", "node-1 " + errTooManyAcks.Error(), "node-1 " + context.DeadlineExceeded.Error(),
			"node-1 " + ErrNoHandler.Error(),
		} {
			if got[s[i].ID()] != want {
				t.Errorf("socket %d: got %q, want %q", i, got[s[i].ID()], want)
			}
		}
		stop()
		<-busy
		for _, x := range s {
			x.mu.Lock()
			if x.extra != nil && x.extra.acks != nil && x.extra.acks.waiting != nil {
				t.Errorf("answers of %s are awaited: %v", x.ID(), x.extra.acks.waiting)
			}
			x.mu.Unlock()
		}
	})
}

func TestServersTalkToEachOther(t *testing.T) {
	bus := memory.NewBus()
	var hubs []*Hub
	handled := make(chan string, 8)
	for _, name := range []string{"a", "b", "c"} {
		h := start(t, bus.Broker(), Options{Node: name})
		h.Of("/").OnServerSide("ping", func(_ context.Context, m *Message) (any, error) {
			var x string
			if err := m.Bind(&x); err != nil {
				return nil, err
			}
			handled <- name
			return name + ":" + x, nil
		})
		hubs = append(hubs, h)
	}
	for _, h := range hubs {
		waitFor(t, func() bool { list, err := h.Members(); return len(list) == 3 && err == nil }, "the list is not complete")
	}
	hubs[2].Of("/").OnServerSide("ping", func(context.Context, *Message) (any, error) { return nil, errors.New("not today") })
	hubs[1].Of("/").OnServerSide("panic", func(context.Context, *Message) (any, error) { panic("no") })
	for name, c := range map[string]struct {
		by    *Emitter
		event string
		want  string
	}{
		"a hub":        {hubs[0].Emitter(), "ping", `"b:x" c: not today `},
		"a worker":     {worker(t, bus), "ping", `"a:x" "b:x" c: not today `},
		"no handler":   {hubs[0].Emitter(), "pong", "b: hub: this node has no handler for the event c: hub: this node has no handler for the event "},
		"no namespace": {hubs[0].Emitter().In("/other"), "ping", "b: hub: this node has no handler for the event c: hub: this node has no handler for the event "},
		"a panic":      {hubs[2].Emitter(), "panic", "a: hub: this node has no handler for the event b: hub: panic: string "},
	} {
		answers := c.by.ServerSideEmitAck(t.Context(), c.event, "x")
		var values []string
		for a := range answers.All {
			values = append(values, string(a.Value))
		}
		slices.Sort(values)
		got := ""
		for _, v := range values {
			got += v + " "
		}
		for _, m := range answers.Missing() {
			why, _, _ := strings.Cut(m.Why.Error(), "\n")
			got += m.Node.Name + ": " + why + " "
		}
		if got != c.want || answers.Err() != nil {
			t.Errorf("%s: got %q, %v, want %q", name, got, answers.Err(), c.want)
		}
	}
	for len(handled) > 0 {
		<-handled
	}
	missing, err := hubs[1].Emitter().ServerSideEmit(t.Context(), "ping", "x")
	if err != nil || missing != nil || <-handled != "a" {
		t.Errorf("missing %v, %v", missing, err)
	}
}

// However many sockets there are, pages come as they are taken, and neither side holds more than a few.
func TestManySocketsComeInPages(t *testing.T) {
	n := long.Or(20_000, 100_000)
	hubs := several(t, 2, Options{})
	for range n {
		p := dialWith(t, hubs[1], newWireOf(4))
		p.say("0")
		p.joined("/")
	}
	before := heap()
	sockets := hubs[0].Emitter().FetchSockets(t.Context(), Everyone, FetchOptions{Rooms: true})
	seen := make(map[uint32]struct{}, n)
	most := uint64(0)
	for s := range sockets.All {
		if seen[placeOf(s.ID)] = struct{}{}; len(seen)%5000 == 0 {
			most = max(most, heap()-before)
		}
	}
	if len(seen) != n || sockets.Err() != nil || sockets.Missing() != nil {
		t.Errorf("found %d of %d, %v, missing %v", len(seen), n, sockets.Err(), sockets.Missing())
	}
	t.Logf("%d sockets: at most %d KiB are held", n, most>>10)
	if most > 8<<20 {
		t.Errorf("%d KiB are held on the way", most>>10)
	}
}

// heap is how much of it is in use.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// deafBroker is that of a node that neither says nor hears anything, and is still counted.
type deafBroker struct {
	broker.Broker
	deaf atomic.Bool
}

func (b *deafBroker) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	if b.deaf.Load() {
		return make([]broker.Receipt, len(msgs)), broker.ErrUnavailable
	}
	return b.Broker.Publish(ctx, msgs...)
}

func (b *deafBroker) Run(ctx context.Context, h broker.Handler) error {
	deliver := h.Deliver
	h.Deliver = func(m broker.Message) {
		if !b.deaf.Load() {
			deliver(m)
		}
	}
	return b.Broker.Run(ctx, h)
}

func TestACallWithADeadNodeEndsAndNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memory.NewBus()
		a := start(t, bus.Broker(), Options{Node: "a"})
		deaf := &deafBroker{Broker: bus.Broker()}
		b := start(t, deaf, Options{Node: "b"})
		_, s := everywhere(t, []*Hub{a, b}, 1)
		waitFor(t, func() bool { list, _ := a.Members(); return len(list) == 2 }, "b is no member")
		deaf.deaf.Store(true) // as if it were frozen: still counted, and silent
		began := time.Now()
		sockets := a.Emitter().FetchSockets(t.Context(), Everyone, FetchOptions{})
		got := ids(slices.Collect(sockets.All))
		missing := sockets.Missing()
		if !slices.Equal(got, idsOf(s[0])) || len(missing) != 1 || missing[0].Node.Name != "b" || !errors.Is(missing[0].Why, cluster.ErrGone) {
			t.Errorf("got %q, missing %v", got, missing)
		}
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("it took %v", took)
		}
		deaf.deaf.Store(false)
	})
}

func TestANodeWhoseAnswerCannotBeReadIsMissing(t *testing.T) {
	bus := memory.NewBus()
	a, b := start(t, bus.Broker(), Options{Node: "a"}), start(t, bus.Broker(), Options{Node: "b"})
	_, s := everywhere(t, []*Hub{a, b}, 1)
	waitFor(t, func() bool { list, _ := a.Members(); return len(list) == 2 }, "b is no member")
	says := func(topic byte, page []byte) {
		b.cluster.Handle(topic, func(ctx context.Context, q *cluster.Request) error { return q.Send(ctx, page) })
	}
	says(topicFetch, append(s[1].appendRemote(nil, 0), 200))
	says(topicAck, append(appendAck(nil, s[1].ID(), ackGone, nil), 200))
	says(topicJoin, []byte{200}) // a number that does not end
	lost := func(what string, missing []cluster.Missing) {
		t.Helper()
		if len(missing) != 1 || missing[0].Node.Name != "b" || !errors.Is(missing[0].Why, cluster.ErrUnreadable) {
			t.Errorf("%s: missing %v", what, missing)
		}
	}

	fetched := a.Emitter().FetchSockets(t.Context(), Everyone, FetchOptions{})
	var list []string
	for x := range fetched.All {
		list = append(list, x.ID)
	}
	if slices.Sort(list); !slices.Equal(list, idsOf(s...)) {
		t.Errorf("found %q", list)
	}
	lost("fetch", fetched.Missing())

	asked := a.Emitter().EmitAck(t.Context(), s[1].Target(), "hi")
	records := slices.Collect(asked.All)
	if len(records) != 1 || records[0].ID != s[1].ID() || !errors.Is(records[0].Err, ErrDisconnected) {
		t.Errorf("records: %v", records)
	}
	lost("ack", asked.Missing())

	changed, err := a.Emitter().Join(t.Context(), Everyone, Room("r"))
	if err != nil || changed.Sockets != 1 || len(changed.Nodes) != 1 || changed.Nodes[0].Name != "a" {
		t.Errorf("changed %+v, %v", changed, err)
	}
	lost("join", changed.Missing)
}
