package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/backend"
	wire "tether/internal/client"
	"tether/internal/long"
	"tether/transport"
)

// guest is a client that loses its connection again and again, and comes back to any node.
type guest struct {
	t    testing.TB
	name string
	rng  *rand.Rand
	*wire.Client
	pid, offset string
	left        []*wire.Client // whose ends the servers have not noticed yet

	next map[string]int // number that comes next, by emitter and room

	visits, recovered int
}

// come connects to a node, or to a proxy before one. It reports whether the client is recovered.
func (g *guest) come(ctx context.Context, addr string) bool {
	return g.comeTo(ctx, func() string { return addr })
}

// comeTo connects to one of several nodes: where says for each attempt to which.
func (g *guest) comeTo(ctx context.Context, where func() string) bool {
	auth := map[string]any{"user": g.name, "recovery": true}
	if g.pid != "" {
		auth["pid"] = g.pid
		if g.offset != "" {
			auth["offset"] = g.offset
		}
	}
	how := []string{wire.WebSocket, wire.WebSocket, wire.Polling, wire.Upgrade}[g.rng.IntN(4)]
	for {
		addr := where()
		dialing, cancel := context.WithTimeout(ctx, 20*time.Second) // as a client does
		c, err := wire.Dial(dialing, wire.Options{URL: "http://" + addr, Transport: how, Auth: auth})
		cancel()
		if err != nil {
			if ctx.Err() != nil {
				g.t.Fatalf("%s cannot connect to %s: %v", g.name, addr, err)
			}
			time.Sleep(20 * time.Millisecond) // as a client does: a drain, a session that is on its way
			continue
		}
		g.Client = c
		g.visits++
		was := g.pid
		g.pid = c.PID
		if c.PID != was {
			return false
		}
		g.recovered++
		return true
	}
}

// leave loses the connection, or leaves it to the server to find that out.
func (g *guest) leave() {
	if g.rng.IntN(3) == 0 {
		g.left = append(g.left, g.Client)
		return
	}
	g.Client.Close()
}

// read reads an event, and checks its number. An unknown number is taken as it is.
func (g *guest) read(ctx context.Context) (ok bool) {
	e, err := g.Next(ctx)
	if err != nil {
		return false
	}
	var offset, stream string
	var number int
	if err := json.Unmarshal(e.Args[len(e.Args)-1], &offset); err != nil {
		g.t.Errorf("%s: an event without a position: %s", g.name, e.Args)
	}
	g.offset = offset
	if e.Name != "n" {
		return true
	}
	json.Unmarshal(e.Args[0], &stream)
	json.Unmarshal(e.Args[1], &number)
	if want, known := g.next[stream]; known && number != want {
		g.t.Errorf("%s got %s number %d, want %d", g.name, stream, number, want)
	}
	g.next[stream] = number + 1
	return true
}

// joinAll has new clients join the room all.
func joinAll(h *hub.Hub) {
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		if s.Recovered() {
			return nil
		}
		return s.Join(ctx, hub.Room("all"))
	})
}

// leaveAll ends guests, and says how often they came back, and how often they were recovered then.
func leaveAll(guests []*guest) (visits, recovered int) {
	for _, g := range guests {
		g.Client.Close()
		for _, c := range g.left {
			c.Close()
		}
		visits, recovered = visits+g.visits-1, recovered+g.recovered
	}
	return visits, recovered
}

// TestClientsComeBackToAnyNode has clients lose their connections, or leave them half open, every few events, and come
// back to any of three nodes while each node emits numbers to each of them, and to all. A client that is told that it is
// recovered has missed nothing, and has got nothing twice or out of order; and everybody is.
func TestClientsComeBackToAnyNode(t *testing.T) {
	long.Beside(t)
	everywhere(t, func(t *testing.T, brokerURL, addr string) {
		r := newRig(t, brokerURL, addr, 3, time.Second, hub.Options{Recovery: hub.Recovery{On: true}}, transport.Options{})
		for _, n := range r.nodes {
			joinAll(n.hub)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		events := scaled(500, 20_000)
		guests := make([]*guest, 12)
		for i := range guests {
			guests[i] = &guest{
				t: t, name: fmt.Sprint("g", i), rng: rand.New(rand.NewPCG(uint64(i), 7)), next: map[string]int{},
			}
			guests[i].come(ctx, r.nodes[i%3].addr)
			for j := range r.nodes {
				guests[i].next[fmt.Sprint(j, " all")], guests[i].next[fmt.Sprint(j, " ", guests[i].name)] = 0, 0
			}
		}
		var done atomic.Int64
		var emitters, readers sync.WaitGroup
		for i, n := range r.nodes {
			emitters.Go(func() {
				for number := range events {
					for _, g := range guests {
						if _, err := n.hub.Emitter().Emit(ctx, hub.User(g.name), "n", fmt.Sprint(i, " ", g.name), number); err != nil {
							t.Error(err)
							return
						}
					}
					if _, err := n.hub.Emitter().Emit(ctx, hub.Room("all"), "n", fmt.Sprint(i, " all"), number); err != nil {
						t.Error(err)
						return
					}
					for int64(number*len(guests)*6) > done.Load()+2000 && ctx.Err() == nil && !t.Failed() {
						time.Sleep(time.Millisecond)
					}
				}
			})
		}
		defer watched(t, func() string { return fmt.Sprintf("%d events have arrived", done.Load()) })()
		for _, g := range guests {
			readers.Go(func() {
				for read, due := 0, g.rng.IntN(300); read < events*6 && !t.Failed(); due-- {
					if due <= 0 {
						g.leave()
						due = g.rng.IntN(300)
						if to := r.nodes[g.rng.IntN(3)]; !g.come(ctx, to.addr) {
							t.Errorf("%s is not recovered by %s after %d visits: %+v", g.name, to.name, g.visits, to.hub.Stats())
							return
						}
					}
					short, cancel := context.WithTimeout(ctx, 10*time.Second)
					if !g.read(short) {
						t.Errorf("%s gets nothing, with %d of %d events: %v", g.name, read, 6*events, g.next)
						cancel()
						return
					}
					cancel()
					read = 0
					for _, n := range g.next {
						read += n
					}
					done.Add(1)
				}
			})
		}
		readers.Wait()
		if t.Failed() {
			cancel()
		}
		emitters.Wait()
		visits, recovered := leaveAll(guests)
		figure(t, "recovery", "%d events, %d of %d visits recovered", done.Load(), recovered, visits)
	})
}

// running runs an emitter without a hub, until end is called.
func running(t *testing.T, worker *hub.Emitter) (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- worker.Run(ctx, func() { close(up) }) }() // end waits for it
	<-up
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run of the worker: %v", err)
		}
	}
}

// A receipt counts the node of a session that waits for its client, from any emitter: the client gets the event when it comes
// back. An emitter that asks is told that no client is connected. A question for the sockets of the user is answered with none.
func TestAReceiptCountsWhoIsWaitedFor(t *testing.T) {
	t.Parallel()
	to := transport.Options{PingInterval: 2 * time.Second, PingTimeout: 3 * time.Second} // a client that goes between two polls is missed then
	for name, open := range map[string]func(testing.TB) *backend.Server{
		"memory": nil, "redis": backends["redis"], "nats": backends["nats"],
		"a stand-in for redis": backend.RedisStandIn,
		"a stand-in for nats":  func(t testing.TB) *backend.Server { return backend.NATSStandIn(t) },
	} {
		t.Run(name, func(t *testing.T) {
			brokerURL, addr := "memory://", ""
			if open != nil {
				s := open(t)
				brokerURL, addr = s.URL, s.Addr
			}
			r := newRig(t, brokerURL, addr, 2, time.Second, hub.Options{Recovery: hub.Recovery{On: true, Window: time.Hour}}, to)
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			g := &guest{t: t, name: "g", rng: rand.New(rand.NewPCG(1, 7)), next: map[string]int{}}
			publishers := r.publishers()
			worker := publishers[len(publishers)-1].emitter
			defer running(t, worker)()
			live := func(story string, want int) (events int) { // unknown is no answer: a busy machine is asked again
				t.Helper()
				for _, p := range publishers {
					must(t, story+": "+p.name+" is answered", func() bool {
						events++
						receipt, err := p.emitter.AskLive().Emit(ctx, hub.User("g"), "live")
						if err != nil || receipt.Nobody() || receipt.Live.Bound != broker.Unknown && receipt.Live.Nodes != want {
							t.Errorf("%s, %s: %+v, %v", story, p.name, receipt, err)
						}
						return receipt.Live.Bound == broker.Exact
					})
				}
				return events
			}
			read := func(events int) {
				t.Helper()
				for range events {
					if !g.read(ctx) {
						t.Fatal("an event is missing")
					}
				}
			}
			g.come(ctx, r.nodes[1].addr)
			read(live("connected", 1))
			g.Client.Close()
			must(t, "the session waits", func() bool { return r.nodes[1].hub.Stats().Parked == 1 })
			missed := live("away", 0)
			for i, p := range publishers {
				receipt, err := p.emitter.Emit(ctx, hub.User("g"), "n", p.name, i)
				if err != nil || receipt.Nodes != 1 {
					t.Errorf("%s: %v, %v", p.name, receipt, err)
				}
				g.next[p.name] = i
				found := p.emitter.FetchSockets(ctx, hub.User("g"), hub.FetchOptions{})
				for s := range found.All {
					t.Errorf("%s finds socket %s on %s", p.name, s.ID, s.Node.Name)
				}
				if found.Err() != nil || len(found.Missing()) > 0 {
					t.Errorf("%s: %v, missing %v", p.name, found.Err(), found.Missing())
				}
				if receipt, err = p.emitter.Emit(ctx, hub.User("nobody"), "n"); err != nil || !receipt.Nobody() {
					t.Errorf("%s, to nobody: %v, %v", p.name, receipt, err)
				}
			}
			if !g.come(ctx, r.nodes[0].addr) {
				t.Error("the client is not recovered")
			}
			read(missed + len(publishers))
			read(live("back", 1))
			other := &guest{t: t, name: "g", rng: rand.New(rand.NewPCG(1, 8)), next: map[string]int{}}
			other.come(ctx, r.nodes[0].addr)
			g.Client.Close()
			must(t, "the session waits again", func() bool { return r.nodes[0].hub.Stats().Parked == 1 })
			live("another one beside it", 1)
			r.nodes[0].hub.Emitter().Disconnect(ctx, hub.User("g"), true)
			for _, p := range publishers {
				must(t, "nobody is waited for", func() bool {
					receipt, err := p.emitter.AskLive().Emit(ctx, hub.User("g"), "n", p.name, 9)
					return err == nil && receipt.Nobody() && receipt.Live.Nobody()
				})
			}
			other.Client.Close()
		})
	}
}
