package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/broker/redis"
	"tether/clientjs"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/interop/browser"
	"tether/internal/long"
	"tether/transport"
)

// tabPage keeps what happens to its socket. Its events are numbers of several sequences; ticks says whether timers run.
const tabPage = `<!doctype html><link rel="icon" href="data:,"><script src="/socket.io/socket.io.min.js"></script><script>
const way = location.hash.slice(1), connects = [], wrong = [], next = {};
let ticks = 0;
setInterval(() => ticks++, 10);
const socket = io("/tab", {
  auth: { recovery: true }, transports: way === "default" ? undefined : [way],
  timeout: 2000, reconnectionDelay: 50, reconnectionDelayMax: 200,
});
socket.on("connect", () => connects.push({ id: socket.id, recovered: socket.recovered }));
socket.on("x", (sequence, n) => {
  if (n !== (next[sequence] ?? 0)) wrong.push([sequence, next[sequence], n]);
  next[sequence] = n + 1;
});
</script>`

// tab is a page in Chromium whose client goes to node A first. Its connections go through front, which the page knows,
// and from there by the path of a node.
type tab struct {
	nodes []*node
	paths []*faultproxy.Proxy
	front *faultproxy.Proxy
	page  *browser.Page

	heartbeat, window time.Duration
	emitted           atomic.Int64 // numbers
	expired           chan string  // IDs of sockets
	id                string       // of the socket that was lost last
}

// beat is as short as a busy machine allows.
const beat = time.Second

// mishaps are what a page goes through. Heartbeat and window are those of the hub where they matter; with a window the
// page is away until its session has expired.
var mishaps = []struct {
	name              string
	happen            func(p *tab, t *testing.T)
	nodes             int
	redis             bool
	heartbeat, window time.Duration
}{
	{name: "offline", happen: (*tab).goOffline, nodes: 1},
	{name: "offline-too-long", happen: (*tab).goOffline, nodes: 1, heartbeat: beat, window: time.Millisecond},
	{name: "cut", happen: (*tab).isCut, nodes: 1},
	{name: "frozen", happen: (*tab).freeze, nodes: 1, heartbeat: beat},
	{name: "frozen-too-long", happen: (*tab).freeze, nodes: 1, heartbeat: beat, window: time.Millisecond},
	{name: "switched", happen: (*tab).switchNetwork, nodes: 3},
	{name: "switched-redis", happen: (*tab).switchNetwork, nodes: 3, redis: true},
	{name: "silent", happen: (*tab).fallSilent, nodes: 2, heartbeat: beat},
}

// TestAPageComesBackToItsSession has pages in Chromium, with the client as npm publishes it, that lose their connection
// in the ways of browsers while numbers are emitted to them.
func TestAPageComesBackToItsSession(t *testing.T) {
	t.Parallel()
	chromium, err := browser.Find()
	need(t, err)
	b := browser.Start(t, chromium)
	for _, m := range mishaps {
		for _, way := range long.Or(allTransports[1:], allTransports) {
			t.Run(m.name+"/"+way, func(t *testing.T) {
				t.Parallel()
				p := &tab{heartbeat: m.heartbeat, window: m.window, expired: make(chan string, 64)}
				p.serve(t, m.nodes, m.redis)
				// A name of its own is a site of its own, with a process of its own: offline is a matter of processes.
				_, port, _ := net.SplitHostPort(p.front.Addr())
				p.page = b.Open(t, fmt.Sprintf("http://%s-%s.localhost:%s/page#%[2]s", m.name, way, port))
				p.page.Wait(t, `socket.connected && (way === "polling" || socket.io.engine.transport.name === "websocket")`)
				stop := p.count(t)
				p.page.Wait(t, fmt.Sprintf("Object.keys(next).length === %d", 2*m.nodes))
				m.happen(p, t)
				counts := stop()
				if m.window > 0 {
					p.wantExpired(t)
				} else {
					p.wantAll(t, counts)
				}
				p.leave(t)
			})
		}
	}
}

// serve starts nodes, and what leads to them.
func (p *tab) serve(t *testing.T, nodes int, overRedis bool) {
	t.Helper()
	bus, at := memory.NewBus(), &url.URL{}
	if overRedis {
		at, _ = url.Parse(backend.Redis(t).URL) // which is well formed
		at.RawQuery = url.Values{"prefix": {t.Name()}}.Encode()
	}
	for i := range nodes {
		s := setup{
			name: string(rune('A' + i)), bus: bus, page: tabPage,
			recovery:  hub.Recovery{On: true, Window: p.window, SessionBytes: 16 << 20},
			transport: transport.Options{PingInterval: p.heartbeat, PingTimeout: p.heartbeat, Client: clientjs.Handler()},
			install:   func(h *hub.Hub) { p.install(t, h) },
		}
		if overRedis {
			var err error
			if s.broker, err = redis.Open(t.Context(), at); err != nil {
				t.Fatal(err)
			}
		}
		n := serve(t, s)
		p.nodes = append(p.nodes, n)
		p.paths = append(p.paths, faultproxy.New(t, n.addr))
	}
	acquainted(t, p.nodes)
	p.front = faultproxy.New(t, p.paths[0].Addr())
}

// install gives a new socket a room and data, which it has to have when it comes back.
func (p *tab) install(t *testing.T, h *hub.Hub) {
	ns := h.Of("/tab")
	ns.OnConnect(func(ctx context.Context, s *hub.Socket) error {
		if !s.Recovered() {
			s.SetData(map[string]string{"theme": "dark"})
			return s.Join(ctx, hub.Room("r"))
		}
		data, err := json.Marshal(s.Data())
		if want := []hub.Target{s.Target(), hub.Room("r")}; err != nil || string(data) != `{"theme":"dark"}` || !reflect.DeepEqual(s.Rooms(), want) {
			t.Errorf("it comes back with the data %s, %v and the rooms %v", data, err, s.Rooms())
		}
		return nil
	})
	ns.OnUnrecovered(func(s *hub.Socket, r hub.Reason) {
		if r == "expired" {
			p.expired <- s.ID()
		}
	})
}

// count emits numbers from each node to the page's room and to its socket, until stop is called, which returns how many
// of each sequence.
func (p *tab) count(t *testing.T) (stop func() map[string]int) {
	t.Helper()
	id := p.page.Eval(t, "connects[0].id").(string)
	ctx, cancel := context.WithCancel(t.Context())
	var emitting sync.WaitGroup
	t.Cleanup(func() { cancel(); emitting.Wait() })
	counts := make([]int, len(p.nodes))
	for i, n := range p.nodes {
		emitting.Go(func() { // stop waits, and so does the cleanup
			tick := time.NewTicker(20 * time.Millisecond)
			defer tick.Stop()
			for ended := 0; ended < 5; counts[i]++ { // some come when all is well again
				for name, to := range map[string]hub.Target{" room": hub.Room("r"), " socket": hub.SocketID(id)} {
					if _, err := n.hub.Emitter().In("/tab").Emit(context.Background(), to, "x", n.hub.Node()+name, counts[i]); err != nil {
						t.Errorf("emit: %v", err)
						return
					}
				}
				p.emitted.Add(1)
				<-tick.C
				if ctx.Err() != nil {
					ended++
				}
			}
		})
	}
	return func() map[string]int {
		cancel()
		emitting.Wait()
		all := map[string]int{}
		for i, n := range p.nodes {
			all[n.hub.Node()+" room"], all[n.hub.Node()+" socket"] = counts[i], counts[i]
		}
		return all
	}
}

// eventually looks until something is true.
func eventually(t *testing.T, what string, met func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !met(); time.Sleep(5 * time.Millisecond) { // between two looks
		if time.Now().After(deadline) {
			t.Fatalf("it does not become true that %s", what)
		}
	}
}

// missSome returns when some numbers more have been emitted.
func (p *tab) missSome(t *testing.T) {
	t.Helper()
	enough := p.emitted.Load() + 20
	eventually(t, "numbers are emitted", func() bool { return p.emitted.Load() >= enough })
}

// stayAway returns when the page, which cannot come back, has missed something, and has been missed: by the heartbeat, or
// for longer than the window.
func (p *tab) stayAway(t *testing.T) {
	t.Helper()
	p.missSome(t)
	p.id = p.page.Eval(t, "connects.at(-1).id").(string)
	for late := time.After(patience); p.window > 0; {
		select {
		case id := <-p.expired:
			if id == p.id {
				return
			}
		case <-late:
			t.Fatal("the session does not expire")
		}
	}
	if p.heartbeat > 0 {
		eventually(t, "the node misses its client", func() bool { return p.nodes[0].hub.Stats().Sockets == 0 })
	}
}

// goOffline has the network go away, and the browser notice.
func (p *tab) goOffline(t *testing.T) {
	p.page.Offline(t, true)
	p.page.Wait(t, "!navigator.onLine && !socket.connected")
	p.stayAway(t)
	p.page.Offline(t, false)
}

// isCut has the connection reset, and nothing go through for a while. The browser believes that it is online.
func (p *tab) isCut(t *testing.T) {
	p.front.Refuse()
	p.front.Cut()
	p.page.Wait(t, "navigator.onLine && !socket.connected")
	p.stayAway(t)
	p.front.Heal()
}

// freeze has the browser freeze the tab.
func (p *tab) freeze(t *testing.T) {
	p.page.Freeze(t, true)
	before := p.page.Eval(t, "ticks")
	p.stayAway(t)
	if after := p.page.Eval(t, "ticks"); after != before {
		t.Errorf("timers run in a frozen page: %v, %v", before, after)
	}
	p.page.Freeze(t, false)
}

// switchNetwork has the old link go dead without a word, and the browser notice; the new one leads to another node,
// while the first believes that it has its client.
func (p *tab) switchNetwork(t *testing.T) {
	p.paths[0].Swallow(faultproxy.Both)
	p.page.Offline(t, true)
	p.page.Wait(t, "!socket.connected")
	p.front.Lead(p.paths[1].Addr())
	p.missSome(t)
	if s := p.nodes[0].hub.Stats(); s.Sockets != 1 || s.Parked != 0 {
		t.Errorf("node A has noticed: %d sockets, %d sessions wait", s.Sockets, s.Parked)
	}
	p.page.Offline(t, false)
	p.hasMoved(t)
}

// fallSilent is the same without the browser noticing anything: what finds it is the missing heartbeat.
func (p *tab) fallSilent(t *testing.T) {
	p.paths[0].Swallow(faultproxy.Both)
	p.front.Lead(p.paths[1].Addr())
	p.hasMoved(t)
}

// hasMoved returns when the page is connected to node B. Then node A hears that the old link is gone.
func (p *tab) hasMoved(t *testing.T) {
	t.Helper()
	eventually(t, "the page is at node B", func() bool { return p.nodes[1].hub.Stats().Connected > 0 })
	p.paths[0].Cut()
}

// wantAll checks that the page has the socket that it had first, and has got every number of each sequence.
func (p *tab) wantAll(t *testing.T, counts map[string]int) {
	t.Helper()
	p.page.Wait(t, "connects.length > 1 && socket.connected")
	if others := p.page.Eval(t, "connects.slice(1).filter((c) => !c.recovered || c.id !== connects[0].id).length"); others != 0.0 {
		t.Fatalf("it comes back %v times with another socket: %v", others, p.page.Eval(t, "JSON.stringify(connects)"))
	}
	want, _ := json.Marshal(counts) // numbers always can be
	p.page.Wait(t, fmt.Sprintf("wrong.length > 0 || Object.entries(%s).every(([sequence, n]) => next[sequence] >= n)", want))
	if wrong := p.page.Eval(t, "JSON.stringify(wrong)"); wrong != "[]" {
		t.Errorf("sequences with what should have come, and what has: %.500s", wrong)
	}
	t.Logf("%s, %v connects", want, p.page.Eval(t, "connects.length"))
}

// wantExpired checks that the page has another socket, and that the node says why.
func (p *tab) wantExpired(t *testing.T) {
	t.Helper()
	p.page.Wait(t, fmt.Sprintf("socket.connected && socket.id !== %q", p.id))
	if p.page.Eval(t, "socket.recovered") != false {
		t.Error("another socket is recovered")
	}
	s := p.nodes[0].hub.Stats()
	if others := s.UnrecoveredOverflowed + s.UnrecoveredUnknown + s.UnrecoveredRefused + s.UnrecoveredNodeLost + s.UnrecoveredGap + s.UnrecoveredQuestion; s.UnrecoveredExpired == 0 || others > 0 {
		t.Errorf("the node counts %d as expired, and %d others", s.UnrecoveredExpired, others)
	}
}

// leave ends the session: a node that ends would wait for another one to take it. If a node misses the client just now it
// does not hear of that, and is told.
func (p *tab) leave(t *testing.T) {
	t.Helper()
	p.page.Eval(t, "void socket.disconnect()")
	looks := 0
	eventually(t, "no session is left", func() bool {
		left := 0
		for _, n := range p.nodes {
			s := n.hub.Stats()
			left += s.Sockets + s.Parked
		}
		if looks++; looks%200 == 0 {
			p.nodes[0].hub.Emitter().In("/tab").Disconnect(t.Context(), hub.Everyone, true) // what it does is seen
		}
		return left == 0
	})
}
