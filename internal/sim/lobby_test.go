package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/engine"
	"tether/hub"
	"tether/internal/simbroker"
	"tether/presence"
)

// Rooms of presence are simulated apart from events: small clusters, whose nodes come, go and are cut off, and clients
// that enter rooms, leave them, and watch. What nodes say to each other comes again, late. Each client that watches puts
// together what it is sent. At rest that is what is there, and it is never told what it knows.

// TestRooms is what the mutants below have to fail.
func TestRooms(t *testing.T) {
	eachSeed(t, 40, func(seed uint64) *minutes {
		w := newLobby(seed)
		w.run()
		return &w.minutes
	})
}

// roomMutants are bugs of the rooms of package presence.
var roomMutants = []mutant{
	{
		"who leaves a room is not told to have left", "../presence/room.go",
		"		delete(st.names, at.name)\n	}\n	p.noteLocked(st, at.name, ended)", "		delete(st.names, at.name)\n	}\n	_ = ended",
	}, {
		"who ends stays in the room", "../presence/room.go",
		"	for len(p.seats[s]) > 0 {", "	for len(p.seats[s]) > 9 {",
	}, {
		"who leaves with one device has left with all", "../presence/room.go",
		"o == at }); len(st.names[at.name]) == 0 {", "o == at }); at.name != \"\" {",
	}, {
		"a change that a node has not taken is not told again", "../presence/feed.go",
		"		if len(answer) != len(sent) {\n			return list\n		}", "		if len(answer) != len(sent) {\n			answer = make([]byte, len(sent))\n		}",
	}, {
		"a question that comes again counts as an answer that was taken", "../presence/stay.go",
		"		if f = st.feeds[asker]; f == nil {", "		if f = nil; f == nil {",
	}, {
		"a node that asks again is forgotten, as it did not watch before", "../presence/feed.go",
		"			if answer[i] == fedUnasked && x.asks == f.asks {", "			if answer[i] == fedUnasked {",
	}, {
		"a node that is off the list for a moment is forgotten", "../presence/watch.go",
		"				f.lost, p.dying = time.Now(), true\n", "				p.unfeedLocked(f)\n",
	}, {
		"who has entered is told twice", "../presence/watch.go",
		"		case here && (!was || data != s.data):", "		case here && (true || was || data != s.data):",
	}, {
		"a late answer revives who has left a room", "../presence/take.go",
		"	case x.upto <= t.heard: // late, or doubled\n		return\n", "",
	}, {
		"the members on a node that has died stay", "../presence/watch.go",
		"			for name := range t.names {\n				p.goneLocked(w, name, stateEnded)", "			for name := range t.names {\n				_ = name",
	}, {
		"a new node is not asked who is there", "../presence/watch.go",
		"		if !t.known {\n			p.parts.pushLocked(t)", "		if !t.known && time.Since(w.since) < time.Second {\n			p.parts.pushLocked(t)",
	}, {
		"who watches again is not sent the whole", "../presence/watch.go",
		"	w.watchers[s] = &watcher{joining: true}\n", "	if w.watchers[s] == nil {\n		w.watchers[s] = &watcher{joining: true}\n	}\n",
	}, {
		"new data is not told", "../presence/watch.go",
		"(!was || data != s.data)", "(!was || data == s.data)",
	}, {
		"a refused client is shown", "../presence/room.go",
		"	if at.name == \"\" || !at.socket.Connected() {", "	if at.name == \"\" {",
	},
}

var lobbyRooms = []string{"lobby", "attic"}

// refusedName is that of clients that enter while they connect, and are refused.
const refusedName = "refused"

// lobby is one run. Its goroutine alone uses the fields above mu.
type lobby struct {
	minutes
	rng     *rand.Rand
	grace   time.Duration
	cluster *simbroker.Cluster
	nodes   []*lobbyNode
	jobs    sync.WaitGroup
	readers sync.WaitGroup

	mu     sync.Mutex
	guests []*visitor // guarded by mu
}

type lobbyNode struct {
	name   string
	peer   *simbroker.Peer
	hub    *hub.Hub
	rooms  *presence.Presence
	stop   context.CancelFunc
	ended  chan struct{}
	ending bool
	silent bool
}

func newLobby(seed uint64) *lobby {
	w := &lobby{rng: rand.New(rand.NewPCG(seed, 2)), minutes: minutes{began: time.Now()}}
	w.grace = []time.Duration{-1, 500 * time.Millisecond, 3 * time.Second}[w.rng.IntN(3)]
	bound := []broker.Bound{broker.Exact, broker.AtLeast, broker.Unknown}[w.rng.IntN(3)]
	w.cluster = simbroker.New(simbroker.Options{Seed: seed, Bound: bound})
	for range 1 + w.rng.IntN(3) {
		w.start()
	}
	return w
}

// echo delivers some of what nodes say to each other again, up to four seconds later.
func (w *lobby) echo(b broker.Broker) broker.Broker {
	rng := rand.New(rand.NewPCG(w.rng.Uint64(), 3))
	var mu sync.Mutex
	var late sync.WaitGroup
	return &echoing{Broker: b, late: &late, delivering: func(deliver func(broker.Message)) func(broker.Message) {
		return func(m broker.Message) {
			m = m.Own()
			mu.Lock()
			again, after := rng.IntN(4) == 0, time.Duration(rng.Int64N(int64(4*time.Second)))
			mu.Unlock()
			if again && len(m.Data) > 1 && m.Data[1] == kindCluster {
				late.Go(func() { // Run of the broker waits for it
					time.Sleep(after)
					deliver(m)
				})
			}
			deliver(m)
		}
	}}
}

type echoing struct {
	broker.Broker
	late       *sync.WaitGroup
	delivering func(func(broker.Message)) func(broker.Message)
}

func (e *echoing) Run(ctx context.Context, h broker.Handler) error {
	h.Deliver = e.delivering(h.Deliver)
	err := e.Broker.Run(ctx, h)
	e.late.Wait()
	return err
}

func (w *lobby) start() {
	n := &lobbyNode{name: fmt.Sprint("node-", len(w.nodes)), ended: make(chan struct{})}
	n.peer = w.cluster.Open(n.name)
	quiet := slog.New(slog.DiscardHandler)
	var err error
	if n.hub, err = hub.New(w.echo(n.peer), hub.Options{Node: n.name, Logger: quiet, DrainWindow: -1}); err != nil {
		w.violate("New: %v", err)
		return
	}
	if n.rooms, err = presence.New(n.hub, presence.Options{Grace: w.grace, Logger: quiet}); err != nil {
		w.violate("New: %v", err)
		return
	}
	n.hub.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var a struct {
			N      int
			Refuse bool
		}
		if err := json.Unmarshal(s.Handshake().Auth, &a); err != nil {
			return err
		}
		if a.Refuse {
			_ = n.rooms.Enter(ctx, s, hub.Room("lobby"), refusedName, nil)
			_ = wait(ctx, 2*time.Second)
			return hub.Refuse("no", nil)
		}
		w.mu.Lock()
		g := w.guests[a.N]
		w.mu.Unlock()
		g.socket = s
		return nil
	})
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	w.readers.Go(func() {
		defer close(n.ended)
		_ = n.hub.Run(ctx) // a node that is killed ends in any way
	})
	w.note("%s starts", n.name)
	w.nodes = append(w.nodes, n)
}

func (w *lobby) live() []*lobbyNode {
	return slices.DeleteFunc(slices.Clone(w.nodes), func(n *lobbyNode) bool { return n.ending })
}

func (w *lobby) run() {
	for range 3 {
		for range 60 {
			w.step()
			time.Sleep([]time.Duration{0, time.Millisecond, 100 * time.Millisecond, time.Second}[w.rng.IntN(4)])
		}
		w.checkpoint()
	}
	for _, n := range w.live() {
		n.stop()
	}
	for _, n := range w.nodes {
		<-n.ended
	}
	w.jobs.Wait()
	for _, g := range w.guests {
		g.Close(engine.ReasonTransportClose)
	}
	w.readers.Wait()
	for _, n := range w.nodes {
		n.peer.Close()
	}
}

func (w *lobby) step() {
	live := w.live()
	n := live[w.rng.IntN(len(live))]
	switch at := w.rng.IntN(40); {
	case at < 8:
		w.connect(n, w.rng.IntN(8) == 0)
	case at < 28:
		w.move()
	case at < 30 && len(live) < 4:
		w.start()
	case at < 31 && len(live) > 1:
		w.note("%s is told to stop", n.name)
		n.ending = true
		n.stop()
	case at < 32 && len(live) > 1:
		w.kill(n)
	case at < 34:
		w.note("%s is silent", n.name)
		n.silent = true
		n.peer.Silence()
	case at < 36:
		w.note("%s is cut", n.name)
		n.peer.Cut()
	default:
		w.mend()
	}
}

func (w *lobby) mend() {
	for _, n := range w.live() {
		if n.silent {
			w.note("%s is heard again", n.name)
			n.silent = false
			n.peer.Heal()
		}
	}
}

func (w *lobby) kill(n *lobbyNode) {
	w.note("%s is killed", n.name)
	n.ending = true
	for _, g := range w.guests {
		if g.node == n {
			g.Close(engine.ReasonTransportError)
		}
	}
	n.peer.Kill()
	n.stop()
}

// move has a client do something.
func (w *lobby) move() {
	var in []*visitor
	for _, g := range w.guests {
		if g.in() {
			in = append(in, g)
		}
	}
	if len(in) == 0 {
		return
	}
	g, room := in[w.rng.IntN(len(in))], lobbyRooms[w.rng.IntN(len(lobbyRooms))]
	name, data := fmt.Sprint("name-", w.rng.IntN(5)), w.rng.IntN(3)
	switch at := w.rng.IntN(10); {
	case at < 4:
		g.do("enters "+room+" as "+name, func() { g.enter(room, name, data) })
	case at < 6:
		g.do("leaves "+room, func() { g.leave(room) })
	case at < 8:
		g.do("watches "+room, func() { g.watch(room) })
	case at < 9:
		g.do("watches no more "+room, func() { g.unwatch(room) })
	default:
		w.note("%v hangs up", g)
		g.Close(engine.ReasonTransportClose)
	}
}

// checkpoint mends everything, and compares what clients and nodes know with what is.
func (w *lobby) checkpoint() {
	w.mend()
	time.Sleep(12*time.Second + w.grace)
	w.jobs.Wait()
	synctest.Wait()
	w.note("checkpoint")
	for _, room := range lobbyRooms {
		want := w.truth(room)
		for _, g := range w.guests {
			if g.in() && g.watches(room) {
				w.compare(fmt.Sprint(g), room, g.known(room), want)
			}
		}
		for _, n := range w.live() {
			list, missing, err := presence.InRoom(context.Background(), n.hub.Emitter(), hub.Room(room))
			if err != nil || len(missing) > 0 {
				w.violate("%s is asked who is in %s at rest: %v, %v", n.name, room, missing, err)
			}
			got := make(map[string]string)
			for _, m := range list {
				got[m.Name] = string(m.Data)
			}
			w.compare(n.name, room, got, want)
		}
	}
}

// truth is who is in a room, and the data that the last device has published; of several that have done so at one moment,
// each.
func (w *lobby) truth(room string) map[string][]string {
	all, at := make(map[string][]string), make(map[string]time.Time)
	for _, g := range w.guests {
		s, there := g.seat(room)
		switch {
		case !g.in() || !there || s.at.Before(at[s.name]):
		case s.at.Equal(at[s.name]):
			all[s.name] = append(all[s.name], s.data)
		default:
			all[s.name], at[s.name] = []string{s.data}, s.at
		}
	}
	return all
}

func (w *lobby) compare(who, room string, got map[string]string, want map[string][]string) {
	same := len(got) == len(want)
	for name, data := range got {
		same = same && slices.Contains(want[name], data)
	}
	if !same {
		w.violate("%s knows %v of %s, where %v are", who, got, room, slices.Sorted(maps.Keys(want)))
		w.note("data: %v", want)
	}
}

// visitor is a client and its connection.
type visitor struct {
	w        *lobby
	n        int
	node     *lobbyNode
	socket   *hub.Socket // written before it is connected
	receiver engine.Receiver
	closing  chan struct{}
	turn     chan struct{} // what it does it does one after the other

	mu        sync.Mutex
	connected bool                         // guarded by mu
	reason    engine.Reason                // guarded by mu
	seats     map[string]lobbySeat         // guarded by mu
	watching  map[string]bool              // guarded by mu
	here      map[string]map[string]string // guarded by mu; as it was told, by room; nil before the whole
}

type lobbySeat struct {
	name, data string
	at         time.Time
}

func (w *lobby) connect(n *lobbyNode, refused bool) {
	g := &visitor{
		w: w, node: n, closing: make(chan struct{}), turn: make(chan struct{}, 1),
		seats: make(map[string]lobbySeat), watching: make(map[string]bool), here: make(map[string]map[string]string),
	}
	receiver, err := n.hub.Attach(g, httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket", nil))
	if err != nil {
		return
	}
	g.receiver = receiver
	w.mu.Lock()
	g.n = len(w.guests)
	w.guests = append(w.guests, g)
	w.mu.Unlock()
	w.note("%v connects, refused: %v", g, refused)
	w.readers.Go(func() {
		if err := receiver.Text(fmt.Appendf(nil, `0{"n":%d,"refuse":%v}`, g.n, refused)); err != nil {
			w.violate("%v: %v", g, err)
		}
		<-g.closing
		receiver.Closed(g.reason)
	})
}

func (g *visitor) String() string { return fmt.Sprintf("client %d on %s", g.n, g.node.name) }

// do has the client do something when it has done what it does.
func (g *visitor) do(what string, f func()) {
	g.w.jobs.Go(func() {
		g.turn <- struct{}{}
		g.w.note("%v %s", g, what)
		f()
		<-g.turn
	})
}

func (g *visitor) enter(room, name string, data int) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	s := lobbySeat{name, fmt.Sprint(data), time.Now()}
	if err := g.node.rooms.Enter(ctx, g.socket, hub.Room(room), name, data); err != nil {
		g.w.note("%v has not entered %s: %v", g, room, err)
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.seats[room] = s
}

func (g *visitor) leave(room string) {
	g.socket.Leave(hub.Room(room))
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.seats, room)
}

func (g *visitor) watch(room string) {
	g.forget(room)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	err := g.node.rooms.WatchRoom(ctx, g.socket, hub.Room(room))
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watching[room] = err == nil
}

func (g *visitor) unwatch(room string) {
	g.node.rooms.UnwatchRoom(g.socket, hub.Room(room))
	g.forget(room)
	g.mu.Lock()
	defer g.mu.Unlock()
	g.watching[room] = false
}

// forget has what comes before the next whole mean nothing.
func (g *visitor) forget(room string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.here, room)
}

func (g *visitor) seat(room string) (s lobbySeat, there bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s, there = g.seats[room]
	return s, there
}

func (g *visitor) watches(room string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.watching[room]
}

func (g *visitor) known(room string) map[string]string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return maps.Clone(g.here[room])
}

func (g *visitor) in() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.connected && g.reason == ""
}

// told takes what has changed in a room.
func (g *visitor) told(c presence.RoomChange) {
	g.w.note("%v is told %+v", g, c)
	g.mu.Lock()
	defer g.mu.Unlock()
	if c.Whole {
		g.here[c.Room] = make(map[string]string)
	}
	here := g.here[c.Room]
	if here == nil {
		return
	}
	for _, m := range c.Came {
		if data, was := here[m.Name]; was && data == string(m.Data) {
			g.w.violate("%v is told twice that %s is in %s", g, m.Name, c.Room)
		}
		if m.Name == refusedName {
			g.w.violate("%v is told of a client that was refused", g)
		}
		here[m.Name] = string(m.Data)
	}
	for _, name := range c.Left {
		if _, was := here[name]; !was {
			g.w.violate("%v is told that %s has left %s, and was not there", g, name, c.Room)
		}
		delete(here, name)
	}
}

func (g *visitor) ID() string                       { return "secret" }
func (g *visitor) Transport() string                { return "websocket" }
func (g *visitor) Behind() (<-chan struct{}, error) { return nil, nil }

// SendLogged is for sessions that are recovered, and these nodes have none.
func (g *visitor) SendLogged(*engine.Entry, *engine.Gate, *engine.Log) error {
	return engine.ErrDisconnected
}

func (g *visitor) Send(p *engine.Packet, from *engine.Gate) error {
	if from != nil && from.State() == engine.Ended {
		return engine.ErrDisconnected
	}
	if text, is := bytes.CutPrefix(p.Text(), []byte(`42["presence",`)); is {
		var c presence.RoomChange
		if err := json.Unmarshal(bytes.TrimSuffix(text, []byte("]")), &c); err != nil {
			g.w.violate("%v got %s: %v", g, p.Text(), err)
		}
		g.told(c)
	}
	if bytes.HasPrefix(p.Text(), []byte("40")) {
		g.mu.Lock()
		g.connected = true
		g.mu.Unlock()
	}
	return nil
}

func (g *visitor) Close(r engine.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reason == "" {
		g.reason = r
		close(g.closing)
	}
}
