package follow_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/engine"
	"tether/follow"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
)

func TestWhatItDependsOn(t *testing.T) {
	deptest.Only(t, "tether/follow", "tether/hub", "tether/cluster", "tether/engine", "tether/broker",
		"tether/internal/socketio", "tether/internal/group", "tether/internal/budget", "tether/internal/wire")
}

// rig is a cluster whose nodes follow events.
type rig struct {
	*hubtest.Cluster
	t         *testing.T
	followers []*follow.Follower // one for each node
	options   follow.Options     // of the next
	recovery  bool
}

func newRig(t *testing.T) *rig {
	return &rig{Cluster: hubtest.NewCluster(t), t: t, options: follow.Options{Keys: []string{"key"}}}
}

func (r *rig) setup(b broker.Broker) (*hub.Hub, error) {
	f, err := follow.New(r.options)
	if err != nil {
		return nil, err
	}
	h, err := hub.New(b, hub.Options{
		Node: fmt.Sprint("node", len(r.followers)+1), Tracers: []hub.Tracer{f},
		Greeting: hub.Greeting{Off: true}, Recovery: hub.Recovery{On: r.recovery, All: r.recovery},
	})
	if err != nil {
		return nil, err
	}
	f.Serve(h)
	r.followers = append(r.followers, f)
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var auth struct{ User string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
			return err
		}
		return s.Register(ctx, auth.User)
	})
	return h, nil
}

// ask is what node i is told about the emits of a context.
func (r *rig) ask(i int, n *hubtest.Node, ids []follow.ID) follow.Event {
	r.t.Helper()
	report := r.query(i, n, follow.Query{IDs: ids})
	if len(report.Events) != 1 || len(report.Missing) != 0 {
		r.t.Fatalf("got %+v, want one event, and no node missing", report)
	}
	return report.Events[0]
}

func (r *rig) query(i int, n *hubtest.Node, q follow.Query) *follow.Report {
	r.t.Helper()
	synctest.Wait() // what is on its way comes
	report, err := r.followers[i].Ask(r.t.Context(), n.Hub.Emitter(), q)
	if err != nil {
		r.t.Fatal(err)
	}
	return report
}

// fates are the outcomes on a node, sorted.
func fates(e follow.Event, node string) (all []string) {
	for _, a := range e.Arrivals {
		if a.Node == node {
			for _, c := range a.Clients {
				all = append(all, c.Outcome)
			}
		}
	}
	slices.Sort(all)
	return all
}

func user(id string) map[string]string { return map[string]string{"user": id} }

func TestWhatBecameOfAnEventOnEachNodeAndForEachClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.Node(r.setup), r.Node(r.setup)
		phone, laptop := a.Connect(user("42")), b.Connect(user("42"))
		stuck := b.Connect(user("42"))
		stuck.StopReading()
		ctx, ids := follow.Context(t.Context())
		if _, err := a.Hub.Emitter().Emit(ctx, hub.User("42"), "/users/ping", "secret"); err != nil {
			t.Fatal(err)
		}
		phone.Expect("/users/ping", "secret")
		laptop.Expect("/users/ping", "secret")

		e := r.ask(1, b, ids())
		if e.Name != "/users/ping" || e.By != "node1" || !slices.Equal(e.To, []string{"user:42"}) || !slices.Equal(e.Receipts, []string{"2 nodes took it"}) {
			t.Errorf("got %+v", e)
		}
		if one, two := fates(e, "node1"), fates(e, "node2"); !slices.Equal(one, []string{"written"}) || !slices.Equal(two, []string{"queued", "written"}) {
			t.Errorf("on the nodes: %v, %v", one, two)
		}
		if e.Settled(false) {
			t.Error("it is settled although a client reads nothing")
		}
		if text := fmt.Sprint(e); strings.Contains(text, "secret") {
			t.Errorf("an argument is remembered: %s", text)
		}
		time.Sleep(time.Second)
		stuck.Vanish()
		time.Sleep(2 * time.Minute) // until its heartbeat is missed
		e = r.ask(0, a, ids())
		if two := fates(e, "node2"); !slices.Equal(two, []string{engine.Lost.String(), "written"}) || !e.Settled(false) {
			t.Errorf("after the end of the one that was stuck: %v", two)
		}
		text := (&follow.Report{Events: []follow.Event{e}}).String()
		for _, want := range []string{"/users/ping to user:42, emitted ", " by node1: 2 nodes took it\n", "dropped +", "node2"} {
			if !strings.Contains(text, want) {
				t.Errorf("%q is not in\n%s", want, text)
			}
		}
	})
}

func TestAnEventForNobodyAndOneThatIsNotFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := r.Node(r.setup)
		ctx, ids := follow.Context(t.Context())
		if _, err := n.Hub.Emitter().Emit(ctx, hub.User("nobody"), "x"); err != nil {
			t.Fatal(err)
		}
		e := r.ask(0, n, ids())
		if !slices.Equal(e.Receipts, []string{"nobody is there"}) || len(e.Arrivals) != 0 || !e.Settled(false) {
			t.Errorf("got %+v", e)
		}
		if _, err := n.Hub.Emitter().Emit(ctx, hub.Target{}, "x"); err == nil {
			t.Error("nobody is a target")
		}
		report := r.query(0, n, follow.Query{IDs: ids()})
		if len(report.Events) != 2 || !strings.Contains(report.Events[1].Error, "target") {
			t.Errorf("the error of an emit: %+v", report)
		}
		n.Connect(user("42"))
		if _, err := n.Hub.Emitter().Emit(t.Context(), hub.User("42"), "y"); err != nil {
			t.Fatal(err)
		}
		if report := r.query(0, n, follow.Query{}); len(report.Events) != 2 {
			t.Errorf("an emit is followed that nobody asked for: %+v", report)
		}
	})
}

func TestAcknowledgements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.Node(r.setup), r.Node(r.setup)
		answers, silent := a.Connect(user("42")), b.Connect(user("42"))
		ctx, ids := follow.Context(t.Context())
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		done := make(chan int)
		go func() {
			n := 0
			for range a.Hub.Emitter().EmitAck(ctx, hub.User("42"), "sure?").All {
				n++
			}
			done <- n
		}()
		answers.Expect("sure?").Answer("yes")
		silent.Expect("sure?")
		if n := <-done; n != 2 {
			t.Errorf("%d have answered or not, want 2", n)
		}
		e := r.ask(0, a, ids())
		if one, two := fates(e, "node1"), fates(e, "node2"); !slices.Equal(one, []string{"acknowledged"}) || !slices.Equal(two, []string{engine.Unanswered.String()}) {
			t.Errorf("on the nodes: %v, %v", one, two)
		}
		if c := e.Arrivals[0].Clients[0]; c.Written.IsZero() || c.Acknowledged.IsZero() || !e.Settled(true) {
			t.Errorf("times of what was acknowledged: %+v", c)
		}
	})
}

func TestAClientThatMayComeBackGetsItThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.recovery = true
		n := r.Node(r.setup)
		c := n.Connect(user("42"))
		if _, err := n.Hub.Emitter().Emit(t.Context(), hub.User("42"), "before"); err != nil {
			t.Fatal(err)
		}
		c.Expect("before")
		c.Vanish()
		time.Sleep(time.Minute)
		ctx, ids := follow.Context(t.Context())
		if _, err := n.Hub.Emitter().Emit(ctx, hub.User("42"), "missed"); err != nil {
			t.Fatal(err)
		}
		if got := fates(r.ask(0, n, ids()), "node1"); !slices.Equal(got, []string{engine.Parked.String()}) {
			t.Fatalf("while the client is away: %v", got)
		}
		if !c.ComeBack(n) {
			t.Fatal("the client does not get its session back")
		}
		c.Expect("missed")
		e := r.ask(0, n, ids())
		if got := fates(e, "node1"); !slices.Contains(got, "written") {
			t.Errorf("when it is back: %v", got)
		}
	})
}

func TestStrangersAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		n := r.Node(r.setup)
		n.Connect(user("42"))
		if _, err := follow.New(follow.Options{}); err == nil {
			t.Error("there is a follower without a key")
		}
		stranger, err := follow.New(follow.Options{Keys: []string{"another"}})
		if err != nil {
			t.Fatal(err)
		}
		e := hub.NewEmitter(r.Broker(), hub.EmitterOptions{Tracers: []hub.Tracer{stranger}})
		run(t, e)
		ctx, ids := follow.Context(t.Context())
		if receipt, err := e.Emit(ctx, hub.User("42"), "x"); err != nil || receipt.Nodes != 1 {
			t.Fatal(receipt, err)
		}
		report, err := stranger.Ask(t.Context(), e, follow.Query{IDs: ids()})
		if err != nil || len(report.Missing) != 1 || !strings.Contains(report.Missing[0].Why, "refused") {
			t.Errorf("the stranger is told %+v, %v", report, err)
		}
		if report := r.query(0, n, follow.Query{IDs: ids()}); len(report.Events) != 0 {
			t.Errorf("an emit of a stranger is followed: %+v", report)
		}
		missing, err := stranger.Rule(t.Context(), e, hub.User("42"), time.Minute)
		if err != nil || len(missing) != 1 || !strings.Contains(missing[0].Why, "refused") {
			t.Errorf("a rule of the stranger's: %+v, %v", missing, err)
		}
		if err := stranger.SetKeys([]string{"key"}); err != nil {
			t.Fatal(err)
		}
		if missing, err := stranger.Rule(t.Context(), e, hub.User("42"), time.Minute); err != nil || len(missing) != 0 {
			t.Errorf("with the key: %+v, %v", missing, err)
		}
	})
}

// run runs an emitter without a hub until the test ends.
func run(t *testing.T, e *hub.Emitter) {
	ctx, stop := context.WithCancel(t.Context())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- e.Run(ctx, func() { close(up) }) }()
	<-up
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestARuleAndSampling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a := r.Node(r.setup)
		b := r.Node(r.setup)
		emit := func(n *hubtest.Node, to hub.Target, times int) {
			t.Helper()
			for range times {
				if _, err := n.Hub.Emitter().Emit(t.Context(), to, "x"); err != nil {
					t.Fatal(err)
				}
			}
		}
		count := func(q follow.Query) int { t.Helper(); return len(r.query(1, b, q).Events) }
		if missing, err := r.followers[0].Rule(t.Context(), a.Hub.Emitter(), hub.User("42"), time.Minute); err != nil || len(missing) != 0 {
			t.Fatal(missing, err)
		}
		emit(b, hub.User("42"), 2) // the rule is everywhere
		emit(a, hub.User("42"), 1)
		emit(a, hub.User("43"), 1)
		if n := count(follow.Query{To: hub.User("42")}); n != 3 || count(follow.Query{}) != 3 || count(follow.Query{Limit: 2}) != 2 {
			t.Errorf("%d events to the user are known, want 3, and no other", n)
		}
		time.Sleep(time.Minute)
		emit(b, hub.User("42"), 1)
		if n := count(follow.Query{}); n != 3 {
			t.Errorf("%d are known after the rule has ended, want 3", n)
		}
		time.Sleep(4 * time.Minute)
		if n := count(follow.Query{}); n != 0 {
			t.Errorf("%d are known after five minutes", n)
		}

		r.options.Every = 4
		c := r.Node(r.setup)
		emit(c, hub.User("44"), 8)
		if n := count(follow.Query{}); n != 2 {
			t.Errorf("one in 4 of 8 are %d", n)
		}
	})
}

func TestWhatTheSocketsOfATargetSendIsRemembered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		a, b := r.Node(r.setup), r.Node(r.setup)
		phone, other := b.Connect(user("42")), b.Connect(user("43"))
		query := func(to hub.Target) []follow.Event { t.Helper(); return r.query(0, a, follow.Query{To: to}).Events }
		phone.Emit("before", "secret")
		for _, to := range []hub.Target{hub.User("42"), hub.SocketID(other.ID())} {
			if _, err := r.followers[0].Rule(t.Context(), a.Hub.Emitter(), to, time.Minute); err != nil {
				t.Fatal(err)
			}
		}
		ctx, ids := follow.Context(t.Context())
		if _, err := a.Hub.Emitter().Emit(ctx, hub.User("42"), "emitted"); err != nil {
			t.Fatal(err)
		}
		for range 300 { // more than are remembered
			phone.Emit("typing", "secret")
		}
		phone.Emit("sent", "secret")
		other.Emit("of another", "secret")
		got := query(hub.User("42"))
		last := got[len(got)-1]
		if len(got) != 20 || last.Name != "sent" || last.From != phone.ID() || last.By != "node2" || last.Namespace != "/" || !last.Settled(true) {
			t.Errorf("%d events, the last one %+v", len(got), last)
		}
		if text := (&follow.Report{Events: got}).String(); !strings.Contains(text, "sent of socket:"+phone.ID()+", received ") || strings.Contains(text, "secret") || strings.Contains(text, "another") {
			t.Errorf("got %s", text)
		}
		if e := r.ask(0, a, ids()); e.Name != "emitted" {
			t.Errorf("what clients send has driven out an emit: got %+v", e)
		}
		if got := query(hub.SocketID(other.ID())); len(got) != 1 || got[0].Name != "of another" {
			t.Errorf("of the other socket: got %+v", got)
		}
		time.Sleep(time.Minute)
		phone.Emit("after")
		if got := query(hub.User("42")); got[len(got)-1].Name != "sent" {
			t.Errorf("after the rule has ended: got %+v", got[len(got)-1])
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.options.Events, r.options.Clients = 4, 2
		n := r.Node(r.setup)
		for range 3 {
			n.Connect(user("42"))
		}
		e := n.Hub.Emitter()
		var all []follow.ID
		for range 5 {
			ctx, ids := follow.Context(t.Context())
			if _, err := e.Emit(ctx, hub.User("42"), "x"); err != nil {
				t.Fatal(err)
			}
			all = append(all, ids()...)
			synctest.Wait()
		}
		report := r.query(0, n, follow.Query{IDs: all})
		if len(report.Events) != 4 || report.Events[0].ID != all[1] {
			t.Errorf("%d of 4 events are remembered", len(report.Events))
		}
		a := report.Events[0].Arrivals[0]
		if len(a.Clients) != 2 || a.Sockets != 3 || a.Beyond.Written != 1 || !report.Events[0].Settled(false) {
			t.Errorf("of 3 clients: %+v", a)
		}
		ctx, ids := follow.Context(t.Context())
		for range 21 {
			if _, err := e.Emit(ctx, hub.User("42"), "x"); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(ids()); n != 20 {
			t.Errorf("%d emits of a context are followed, want 20", n)
		}
		if _, err := r.followers[0].Ask(t.Context(), e, follow.Query{Limit: 21}); err == nil {
			t.Error("21 events can be asked about")
		}
		if _, err := r.followers[0].Rule(t.Context(), e, hub.User("42"), time.Hour+1); err == nil {
			t.Error("a rule may be longer than an hour")
		}
		for i := range 65 {
			_, err := r.followers[0].Rule(t.Context(), e, hub.User(fmt.Sprint(i)), time.Hour)
			if (err != nil) != (i == 64) {
				t.Errorf("rule %d: %v", i, err)
			}
		}
	})
}
