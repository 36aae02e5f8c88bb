package adminui

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/cluster"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
)

func TestWhatItDependsOn(t *testing.T) { deptest.OnHub(t, "tether/adminui") }

const password = "a password of operators"

var good = map[string]string{"username": "admin", "password": password}

// node is a node with the UI. Its clients are in a room of their user's.
func node(c *hubtest.Cluster, o Options) *hubtest.Node { return nodeWith(c, o, new([]*UI)) }

// nodeWith adds the UI to a list.
func nodeWith(c *hubtest.Cluster, o Options, uis *[]*UI) *hubtest.Node {
	return c.Node(func(b broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(b, hub.Options{DrainWindow: -1, Greeting: hub.Greeting{Off: true}, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
			s.SetData("secret")
			return s.Register(ctx, "42")
		})
		h.Of("/").On("/orders", func(context.Context, *hub.Socket, *hub.Message) error { return nil })
		o.Password, o.Logger = password, slog.New(slog.DiscardHandler)
		u, err := New(h, o)
		*uis = append(*uis, u)
		return h, err
	})
}

func page(n *hubtest.Node, auth any) *hubtest.Client {
	return n.Dial(hubtest.Handshake{Namespace: "/admin", Auth: auth})
}

// stats are server_stats, as a page reads them.
type stats struct {
	ServerID, Hostname                string
	PID                               int
	Uptime                            float64
	ClientsCount, PollingClientsCount int
	Namespaces                        []sockets
	AggregatedEvents                  []struct {
		Timestamp int64
		Type      string
		Count     int
	}
}

// heard are the stats that come next, of n servers, by the names of the nodes.
func heard(c *hubtest.Client, n int) map[string]stats {
	all := map[string]stats{}
	for range n {
		var s stats
		c.Expect("server_stats").Decode(0, &s)
		name, _, _ := strings.Cut(s.ServerID, "#")
		all[name] = s
	}
	return all
}

func features(c *hubtest.Client) []string {
	var config struct{ SupportedFeatures []string }
	c.Expect("config").Decode(0, &config)
	slices.Sort(config.SupportedFeatures)
	return config.SupportedFeatures
}

func TestOnlyOperatorsGetIn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := node(c, Options{}), node(c, Options{})
		for _, auth := range []any{
			nil, map[string]any{}, map[string]any{"sessionId": nil}, map[string]any{"password": 1},
			map[string]string{"username": "admin", "password": password + "x"}, map[string]string{"username": "admin", "password": ""},
			map[string]string{"username": "root", "password": password}, map[string]string{"sessionId": "AAAA"},
			map[string]string{"sessionId": strings.Repeat("A", 64)},
		} {
			a.ExpectRefusalOf(hubtest.Handshake{Namespace: "/admin", Auth: auth}, "invalid credentials")
		}
		var session string
		p := page(a, good)
		p.Expect("session").Decode(0, &session)
		p.Close()
		back := page(b, map[string]string{"sessionId": session}) // on any node
		back.Expect("config")
		back.Refute("session")
	})
}

func TestANewPasswordEndsSessionsAndOpenPages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var uis []*UI
		c := hubtest.NewCluster(t)
		a, b := nodeWith(c, Options{}, &uis), nodeWith(c, Options{}, &uis)
		open := page(a, good)
		var session string
		open.Expect("session").Decode(0, &session)
		open.Expect("config")
		if err := uis[0].SetPassword(password); err != nil { // the same again
			t.Fatal(err)
		}
		open.Expect("server_stats") // it stays
		if err := uis[0].SetPassword(""); err == nil {
			t.Error("there is no password")
		}
		for _, u := range uis {
			if err := u.SetPassword("another password"); err != nil {
				t.Fatal(err)
			}
		}
		open.ExpectEnd(hub.ReasonServerDisconnect)
		for _, n := range []*hubtest.Node{a, b} {
			for _, auth := range []any{good, map[string]string{"sessionId": session}} {
				n.ExpectRefusalOf(hubtest.Handshake{Namespace: "/admin", Auth: auth}, "invalid credentials")
			}
			page(n, map[string]string{"username": "admin", "password": "another password"}).Expect("session")
		}
	})
}

func TestASessionIsGoodForADay(t *testing.T) {
	g, other, root := newGuard("admin", password), newGuard("admin", password+"x"), newGuard("root", password)
	now := time.Now()
	session := g.session(now)
	if session == g.session(now) {
		t.Error("two sessions are the same")
	}
	for _, c := range []struct {
		name string
		g    *guard
		text string
		at   time.Time
		want bool
	}{
		{"at once", g, session, now, true},
		{"in time", g, session, now.Add(sessionTime - 2*time.Second), true},
		{"too late", g, session, now.Add(sessionTime), false},
		{"with another password", other, session, now, false},
		{"of another name", root, session, now, false},
		{"changed", g, "B" + session[1:], now, false},
		{"cut", g, session[:len(session)-1], now, false},
		{"longer", g, session + "A", now, false},
		{"none", g, "", now, false},
	} {
		if got := c.g.isSession(c.text, c.at); got != c.want {
			t.Errorf("a session %s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestPagesSeeAllNodes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		figures := Engine{Opened: 7, Closed: 1, BytesIn: 10, BytesOut: 20}
		a, b, dead := node(c, Options{Engine: func() Engine { return figures }}), node(c, Options{}), node(c, Options{})
		client := b.Connect(nil)
		p := page(a, good)
		if got, want := features(p), []string{"AGGREGATED_EVENTS", "DISCONNECT", "JOIN", "LEAVE", "MDISCONNECT", "MJOIN", "MLEAVE"}; !slices.Equal(got, want) {
			t.Errorf("the page can %q, want %q", got, want)
		}
		first := heard(p, 3)
		if s := first[b.Hub.Node()]; s.ClientsCount != 1 || s.PID == 0 || s.Uptime < 1 || !slices.Equal(s.Namespaces, []sockets{{"/", 1}, {"/admin", 0}}) {
			t.Errorf("of b: got %+v", s)
		}
		if s := first[a.Hub.Node()]; len(s.AggregatedEvents) != 0 || !slices.Equal(s.Namespaces, []sockets{{"/", 0}, {"/admin", 1}}) {
			t.Errorf("of a, at first: got %+v", s)
		}
		figures = Engine{Opened: 9, Closed: 1, BytesIn: 110, BytesOut: 20}
		client.Emit("/orders")
		dead.Kill()
		next := heard(p, 2)
		if _, is := next[dead.Hub.Node()]; is {
			t.Error("a node that was killed says how it is")
		}
		got := map[string]int{}
		for name, s := range next {
			for _, e := range s.AggregatedEvents {
				got[name+e.Type] = e.Count
			}
		}
		if got[a.Hub.Node()+"rawConnection"] != 2 || got[a.Hub.Node()+"bytesIn"] != 100 || got[b.Hub.Node()+"packetsIn"] != 1 {
			t.Errorf("what has happened since: got %v", got)
		}
		if n := got[a.Hub.Node()+"rawDisconnection"] + got[a.Hub.Node()+"bytesOut"]; n != 0 {
			t.Errorf("what has not happened: got %v", got)
		}
		p.Refute("all_sockets")
	})
}

func TestNobodyIsAskedWhileNoPageIsOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := node(c, Options{Development: true}), node(c, Options{Development: true})
		asked := func() cluster.Outcomes { return a.Hub.Stats().Questions }
		b.Connect(nil)
		time.Sleep(10 * every)
		before := asked()
		p := page(a, good)
		heard(p, 2)
		p.Close()
		time.Sleep(every)
		if asked() == before { // else this would prove nothing
			t.Error("the open page has asked nobody")
		}
		before = asked()
		time.Sleep(10 * every)
		if got := asked(); got != before {
			t.Errorf("while no page was open somebody was asked: %+v, before %+v", got, before)
		}
	})
}

func TestCommandsReachSocketsOfAnyNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := node(c, Options{}), node(c, Options{})
		one, two := b.Connect(nil), b.Connect(nil)
		p := page(a, good)
		emits := func(want bool) {
			t.Helper()
			synctest.Wait()
			a.Hub.Emitter().Emit(t.Context(), hub.Room("vip"), "hello")
			if want {
				one.Expect("hello")
			}
			one.Refute("hello")
			two.Refute("hello")
		}
		p.Emit("join", "/", "vip", one.ID())
		emits(true)
		p.Emit("leave", "/", "vip", one.ID())
		emits(false)
		p.Emit("join", "/", "vip", "user:42")
		p.Emit("leave", "/", "vip", two.ID())
		emits(true)
		p.Emit("leave", "/", "vip") // all of the namespace, as the button of a room does
		emits(false)
		p.Call("join", "/elsewhere", "vip", one.ID()).ExpectRefusal("pages do not show this namespace")
		p.Emit("_disconnect", "/", false, one.ID())
		one.ExpectEnd(hub.ReasonServerDisconnect)
		synctest.Wait()
		if n := b.Hub.Of("/").Len(); n != 1 {
			t.Errorf("%d sockets are left, want 1", n)
		}
		p.Emit("_disconnect", "/", true)
		two.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

func TestAPageThatOnlyReadsHasNoCommands(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(hubtest.NewCluster(t), Options{ReadOnly: true})
		client := n.Connect(nil)
		p := page(n, good)
		if got := features(p); !slices.Equal(got, []string{"AGGREGATED_EVENTS"}) {
			t.Errorf("the page can %q", got)
		}
		p.Emit("_disconnect", "/", true, client.ID())
		p.Emit("join", "/", "vip", client.ID())
		synctest.Wait()
		if n.Hub.Of("/").Len() != 1 || n.Hub.Stats().Rooms > 4 {
			t.Error("a page that only reads has disconnected or moved a client")
		}
	})
}

func TestNamesOfTargets(t *testing.T) {
	targets := []hub.Target{
		hub.Room("tea"), hub.Room("user:42"), hub.User("42"), hub.User("a:b"), hub.Room("room:tea"), hub.Room("chat:7"),
		hub.Kind("admin-user").User("7"), hub.Kind("a:b%").User("c:d"), hub.Room("kind:a:b"), hub.Room("kind:"), hub.Room("user:"),
		hub.Kind("room").User("x"), hub.Room(":"),
	}
	seen := map[string]hub.Target{}
	for _, want := range targets {
		name := nameOf(want)
		if got := targetNamed(name); got != want {
			t.Errorf("%s is called %q, which is %s", want, name, got)
		}
		if other, is := seen[name]; is {
			t.Errorf("%s and %s are both called %q", want, other, name)
		}
		seen[name] = want
	}
	for name, want := range map[string]hub.Target{"tea": hub.Room("tea"), "user:42": hub.User("42"), "chat:7": hub.Room("chat:7"), "": {}} {
		if got := targetNamed(name); got != want {
			t.Errorf("%q is %s, want %s", name, got, want)
		}
	}
}

func TestOptionsThatAreWrong(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{}, "Password"},
		{Options{Password: password, Namespace: "/"}, "Namespaces"},
		{Options{Password: password, MaxSockets: -1}, "MaxSockets"},
		{Options{Password: password, MaxSockets: MostSockets + 1}, "MaxSockets"},
	} {
		if _, err := New(nil, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: got %v", c.o, err)
		}
	}
}

// socket is what a page is told of a socket.
type socket struct {
	ID, ClientID, Transport, NSP string
	Rooms                        []string
	Handshake                    struct {
		Address string
		Issued  int64
		Headers map[string]string
	}
}

func all(t *testing.T, c *hubtest.Client) map[string]socket {
	t.Helper()
	var list []socket
	var text json.RawMessage
	e := c.Expect("all_sockets")
	e.Decode(0, &list)
	if e.Decode(0, &text); strings.Contains(string(text), "secret") {
		t.Errorf("what pages do not get is in %s", text)
	}
	sockets := map[string]socket{}
	for _, s := range list {
		sockets[s.ID] = s
	}
	return sockets
}

// told waits until a page is told that, with the time of it.
func told(t *testing.T, p *hubtest.Client, event string, wants ...any) {
	t.Helper()
	var at time.Time
	e := p.Expect(event, append(wants, &at)...)
	if age := time.Since(at); age < 0 || age > 2*every {
		t.Errorf("%s is dated %v, %v ago", e, at, age)
	}
}

func TestInDevelopmentPagesListSockets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := node(c, Options{Development: true}), node(c, Options{Development: true})
		one := b.Dial(hubtest.Handshake{Header: http.Header{"Cookie": {"secret"}}, Query: url.Values{"token": {"secret"}}, Auth: map[string]string{"token": "secret"}})
		p := page(a, good)
		if got := features(p); slices.Contains(got, "ALL_EVENTS") {
			t.Errorf("before there is a list the page can %q", got)
		}
		list := all(t, p)
		if got := features(p); !slices.Contains(got, "ALL_EVENTS") {
			t.Errorf("with the list the page can %q", got)
		}
		s := list[one.ID()]
		if len(list) != 2 || s.NSP != "/" || s.ClientID == "" || s.Transport != "websocket" || s.Handshake.Address == "" || s.Handshake.Issued == 0 ||
			!slices.Equal(s.Rooms, []string{one.ID(), "user:42"}) || list[p.ID()].NSP != "/admin" {
			t.Errorf("got %+v", list)
		}

		two := b.Connect(map[string]string{"token": "secret"})
		var connected socket
		e := p.Expect("socket_connected")
		if e.Decode(0, &connected); connected.ID != two.ID() || strings.Contains(e.String(), "secret") {
			t.Errorf("got %s, want %s", e, two.ID())
		}
		if err := b.Hub.Socket(two.ID()).Join(t.Context(), hub.Room("tea")); err != nil {
			t.Fatal(err)
		}
		told(t, p, "room_joined", "/", "tea", two.ID())
		b.Hub.Socket(two.ID()).Leave(hub.Room("tea"))
		told(t, p, "room_left", "/", "tea", two.ID())

		two.Emit("/orders", "secret")
		a.Hub.Emitter().Emit(t.Context(), hub.SocketID(two.ID()), "/orders/new", "secret")
		told(t, p, "event_received", "/", two.ID(), []string{"/orders"})
		told(t, p, "event_sent", "/", two.ID(), []string{"/orders/new"})

		two.Disconnect()
		told(t, p, "room_left", "/", two.ID(), two.ID())
		told(t, p, "room_left", "/", "user:42", two.ID())
		told(t, p, "socket_disconnected", "/", two.ID(), "client namespace disconnect")
		time.Sleep(10 * every)
		p.Refute("socket_disconnected")
		p.Refute("socket_connected")
	})
}

// TestPagesListSocketsUpToALimit, and say that there is no list with one more.
func TestPagesListSocketsUpToALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(hubtest.NewCluster(t), Options{Development: true, MaxSockets: 5})
		for range 4 {
			n.Connect(nil)
		}
		p := page(n, good) // the fifth
		features(p)
		if got := len(all(t, p)); got != 5 || !slices.Contains(features(p), "ALL_EVENTS") {
			t.Errorf("at the limit: %d sockets", got)
		}
		sixth := n.Connect(nil)
		if slices.Contains(features(p), "ALL_EVENTS") {
			t.Error("past the limit the page lists sockets")
		}
		p.Refute("socket_connected")
		time.Sleep(3 * every)
		p.Refute("all_sockets")
		sixth.Close()
		if got := len(all(t, p)); got != 5 || !slices.Contains(features(p), "ALL_EVENTS") {
			t.Errorf("back at the limit: %d sockets", got)
		}
	})
}

// TestSocketsOfASilentNodeStayInTheList until it is known that it is gone.
func TestSocketsOfASilentNodeStayInTheList(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := hubtest.NewCluster(t)
		a, b := node(c, Options{Development: true}), node(c, Options{Development: true})
		one := b.Connect(nil)
		p := page(a, good)
		all(t, p)
		b.Silence()
		time.Sleep(every + answerTime) // it has not answered, and may be alive
		p.Refute("socket_disconnected")
		told(t, p, "socket_disconnected", "/", one.ID(), "unknown")
	})
}

func TestChangesBeyondALimitAreToldAnew(t *testing.T) {
	before, now := view{}, view{}
	for i := range maxChanges / 2 { // each leaves a room, and is disconnected
		id := fmt.Sprint(i)
		before[id] = &listed{ID: id, Rooms: []string{id}}
	}
	why := func(string) string { return "" }
	if changes, small := changesOf(before, now, why); len(changes) != maxChanges || !small {
		t.Errorf("%d changes: told one by one: %v", len(changes), small)
	}
	now["new"] = &listed{ID: "new"}
	if changes, small := changesOf(before, now, why); len(changes) != maxChanges+1 || small {
		t.Errorf("%d changes: told one by one: %v", len(changes), small)
	}
}

func TestPagesAreToldTheLatestEventsOnly(t *testing.T) {
	now := time.Now()
	var events []note
	for i := range maxEvents + 1 { // the latest first
		events = append(events, note{At: now.Add(-time.Duration(i) * time.Second), Socket: fmt.Sprint(i)})
	}
	got := messagesOf(events)
	if len(got) != maxEvents || got[0].args[1] != fmt.Sprint(maxEvents-1) || got[maxEvents-1].args[1] != "0" {
		t.Errorf("%d are told, from %v to %v", len(got), got[0].args, got[len(got)-1].args)
	}
}

func FuzzNamesOfTargets(f *testing.F) {
	for _, name := range []string{"", "tea", "room:tea", "user:42", "kind:a%3Ab:c", "kind::", "AAAAAAAAAAAAAAAAAAAA"} {
		f.Add(name)
	}
	f.Fuzz(func(t *testing.T, text string) {
		for _, want := range []hub.Target{targetNamed(text), hub.Room(text), hub.User(text), hub.Kind(text).User(text)} {
			if want == (hub.Target{}) {
				continue
			}
			if got := targetNamed(nameOf(want)); got != want {
				t.Errorf("%s is called %q, which is %s", want, nameOf(want), got)
			}
		}
	})
}

func TestANodeKeepsItsLatestNotes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := node(hubtest.NewCluster(t), Options{Development: true})
		client := n.Connect(nil)
		s := n.Hub.Socket(client.ID())
		var all notes
		all.take("event_sent", s, "nobody has asked yet")
		if _, next := all.since(0, false); next != 0 {
			t.Error("it takes notes for nobody")
		}
		for i := range maxNotes + 2 {
			all.take("event_sent", s, strings.Repeat("x", i))
		}
		got, next := all.since(0, true)
		if len(got) != maxNotes || next != maxNotes+2 || len(got[0].Text) != 2 || len(got[maxNotes-1].Text) != noteBytes {
			t.Errorf("%d notes, the next is %d", len(got), next)
		}
		if got, _ := all.since(next-1, true); len(got) != 1 {
			t.Errorf("%d notes are new, want 1", len(got))
		}
		if got, _ := all.since(next+1, true); got != nil { // the node has been started again
			t.Errorf("got %d notes", len(got))
		}
		time.Sleep(noteTime + time.Second)
		all.take("event_sent", s, "nobody asks any more")
		if _, again := all.since(next, true); again != next {
			t.Error("it takes notes for nobody")
		}
	})
}
