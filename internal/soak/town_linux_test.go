package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tether/cluster"
	"tether/hub"
	"tether/internal/backend"
	wire "tether/internal/client"
	"tether/internal/faultproxy"
	"tether/internal/ledger"
	"tether/internal/long"
	"tether/presence"
	"tether/transport"
)

// A town is a cluster whose nodes fail, one after the other, while users come and go, and while all kinds of
// questions are asked. Its first node, and an emitter without a hub that asks, do not fail.

// visit is what a client says of itself.
type visit struct {
	User  string   `json:"user"`
	Rooms []string `json:"rooms,omitempty"`
	Shown bool     `json:"shown,omitempty"` // in the lobby
	Watch bool     `json:"watch,omitempty"` // the lobby
}

// change is that a user has come, or gone, as a node tells it.
type change struct {
	User, ID string
	Online   bool
	At       time.Time
}

const (
	lobby     = "lobby"
	residence = "residents" // the room of the clients that stay
)

// settleTown makes a hub a node of a town. Its grace is for a device that comes on one node while another goes on another: that
// the one has come may be known later than that the other has gone.
func settleTown(h *hub.Hub, tell func(change)) error {
	p, err := presence.New(h, presence.Options{
		Grace: time.Second, RoomInterval: 20 * time.Millisecond, Logger: slog.New(slog.DiscardHandler),
		OnChange: func(_ context.Context, e presence.Event) { tell(change{e.User.Name(), e.ID, e.Online, time.Now()}) },
	})
	if err != nil {
		return err
	}
	root := h.Of("/")
	root.OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var v visit
		if err := json.Unmarshal(s.Handshake().Auth, &v); err != nil {
			return err
		}
		for _, r := range v.Rooms {
			if err := s.Join(ctx, hub.Room(r)); err != nil {
				return err
			}
		}
		if v.Watch {
			return p.WatchRoom(ctx, s, hub.Room(lobby))
		}
		if v.Shown {
			return p.Enter(ctx, s, hub.Room(lobby), v.User, nil)
		}
		return nil
	})
	root.OnServerSide("who", func(context.Context, *hub.Message) (any, error) { return h.Node(), nil })
	return nil
}

// place is a node of the town.
type place struct {
	name     string
	proxy    *faultproxy.Proxy // of a child
	troubles atomic.Int64      // odd while something is wrong with it

	mu    sync.Mutex
	addr  string         // guarded by mu
	tag   string         // guarded by mu
	child *child         // guarded by mu; nil: it is node
	node  *node          // guarded by mu
	dead  *atomic.Bool   // guarded by mu; of node: what it tells does not count
	stay  []*wire.Client // guarded by mu; its residents
}

// mark is a number that changes when something is wrong with the place, and ok reports whether nothing is.
func (p *place) mark() (mark int64, ok bool) {
	mark = p.troubles.Load()
	return mark, mark%2 == 0
}

func (p *place) address() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.addr
}

type fault string

const (
	killed fault = "killed"
	frozen fault = "frozen"
	cutOff fault = "cut off"
)

// town is the cluster, and the books.
type town struct {
	*rig
	users  *ledger.Attendance // as the nodes tell
	lobby  *ledger.Attendance // as a client is sent that watches
	worker *hub.Emitter
	places []*place // the first never fails

	steps    atomic.Int64 // of users that came and went as was expected
	troubled atomic.Int64 // of those whose node has failed meanwhile
	extra    atomic.Int64 // rooms and users that were made up

	mu      sync.Mutex
	asked   map[string]int           // guarded by mu; by the kind of the question
	slowest map[string]time.Duration // guarded by mu; the same
	missing int                      // guarded by mu; nodes that answers did not have
}

func newTown(t *testing.T, brokerURL, addr string) *town {
	w := &town{
		rig:   newRig(t, brokerURL, addr, 0, time.Second, hub.Options{}, transport.Options{}),
		users: ledger.NewAttendance(), lobby: ledger.NewAttendance(),
		asked: make(map[string]int), slowest: make(map[string]time.Duration),
	}
	for i := range 3 {
		p := &place{name: fmt.Sprint("node-", i)}
		if addr != "" && i > 0 {
			p.proxy = faultproxy.New(t, addr)
			w.spawn(p)
		} else {
			w.build(p, addr)
		}
		w.places = append(w.places, p)
	}
	b := w.open(nil)
	w.worker = hub.NewEmitter(b, hub.EmitterOptions{})
	t.Cleanup(func() { b.Close() })
	t.Cleanup(running(t, w.worker))
	w.complete()
	for _, p := range w.places {
		w.move(p)
	}
	return w
}

func (w *town) tell(c change) { w.users.Tell(c.User, c.Online, c.ID, c.At) }

// spawn starts a node in a process of its own.
func (w *town) spawn(p *place) {
	u, err := url.Parse(w.urls[0])
	if err != nil {
		w.t.Fatal(err)
	}
	u.Host = p.proxy.Addr()
	gaps := gapsOf(w.book, p.name)
	c := runChild(w.t, func(r report) {
		if gaps(r); r.Change != nil {
			w.tell(*r.Change)
		}
	}, childCommand(w.t, u.String(), townEnv+"="+p.name), func(io.Writer) {})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.child, p.addr, p.tag = c, c.addr, c.tag
}

// build starts a node in this process.
func (w *town) build(p *place, addr string) {
	dead := new(atomic.Bool)
	w.install = func(n *node, h *hub.Hub) error {
		return settleTown(h, func(c change) {
			if !dead.Load() {
				w.tell(c)
			}
		})
	}
	n := w.start(addr, hub.Options{Node: p.name}, transport.Options{})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.node, p.addr, p.dead, p.tag = n, n.addr, dead, n.hub.Emitter().Cluster().Tag()
}

// complete waits until the first node and the worker know all nodes as members, and no others.
func (w *town) complete() {
	w.t.Helper()
	var want []string
	for _, p := range w.places {
		p.mu.Lock()
		want = append(want, p.tag)
		p.mu.Unlock()
	}
	slices.Sort(want)
	for _, n := range []*cluster.Node{w.nodes[0].hub.Emitter().Cluster(), w.worker.Cluster()} {
		must(w.t, "all nodes are members, and no others", func() bool {
			members, err := n.Members()
			var tags []string
			for _, m := range members {
				tags = append(tags, m.Tag)
			}
			slices.Sort(tags)
			return err == nil && slices.Equal(tags, want)
		})
	}
}

// enter connects a client.
func (w *town) enter(p *place, v visit) (*wire.Client, error) {
	ctx, cancel := context.WithTimeout(context.Background(), wait)
	defer cancel()
	return wire.Dial(ctx, wire.Options{URL: "http://" + p.address(), Auth: v, Answer: func(c *wire.Client, e wire.Event) []any { return []any{c.ID} }})
}

const perPlace = 2 // residents

// move has the residents of a place move in, anew.
func (w *town) move(p *place) {
	w.t.Helper()
	p.leave()
	var all []*wire.Client
	for i := range perPlace {
		c, err := w.enter(p, visit{User: fmt.Sprint("resident of ", p.name, " ", i), Rooms: []string{residence}})
		if err != nil {
			w.t.Fatalf("a resident of %s: %v", p.name, err)
		}
		all = append(all, c)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stay = all
}

func (p *place) residents() []*wire.Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stay
}

func (p *place) leave() {
	for _, c := range p.residents() {
		c.Close()
	}
}

// fail has a node fail, and come back.
func (w *town) fail(p *place, f fault) {
	w.t.Helper()
	hold := 7 * time.Second // until all others have given it up
	if soakFor > 0 {
		hold = time.Second + rand.N(7*time.Second)
	}
	p.troubles.Add(1)
	began := time.Now()
	switch f {
	case killed:
		w.kill(p)
	case frozen:
		p.child.cmd.Process.Signal(syscall.SIGSTOP)
		<-time.After(hold)
		p.child.cmd.Process.Signal(syscall.SIGCONT)
	case cutOff:
		p.proxy.Hold(faultproxy.Both)
		<-time.After(hold)
		p.proxy.Heal()
	}
	w.complete()
	// What one node knew is known by two again, and all know all members, when it is over.
	<-time.After(max(3*time.Second, long.Or(0, 10*time.Second-time.Since(began))))
	w.move(p)
	p.troubles.Add(1)
	figure(w.t, "town", "%s was %s; well again after %v", p.name, f, time.Since(began).Round(time.Millisecond))
}

// kill kills a node and starts another one of its name.
func (w *town) kill(p *place) {
	if p.child != nil {
		p.child.cmd.Process.Kill()
		<-p.child.done
		w.spawn(p)
		return
	}
	p.dead.Store(true)
	p.node.broker.Close()
	p.node.server.Close()
	p.node.handler.Close()
	p.node.cancel()
	<-p.node.ended
	w.build(p, "")
}

// live runs the town until all faults are over.
func (w *town) live(faults []fault) {
	unwatch := w.watch()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for i := range long.Or(3, 12) {
		wg.Go(func() { w.flap(fmt.Sprint("user ", i), rand.New(rand.NewPCG(uint64(i), 13)), stop) })
	}
	for _, q := range w.questions() {
		wg.Go(func() { w.keepAsking(q, w.nodes[0].hub.Emitter(), w.places[0].name, stop) })
		wg.Go(func() { w.keepAsking(q, w.worker, "", stop) })
	}
	for i, f := range faults {
		from := w.steps.Load()
		must(w.t, "users come and go", func() bool { return w.t.Failed() || w.steps.Load() >= from+int64(long.Or(5, 20)) })
		if w.t.Failed() {
			break
		}
		w.fail(w.places[1+i%2], f)
	}
	close(stop)
	wg.Wait()
	for _, p := range w.places {
		p.leave()
	}
	unwatch()
	within(long.Limit(ghostTime), func() bool { // all have gone; what is wrong, settle says
		_, faults := w.users.Settle()
		return len(faults) == 0 || w.t.Failed()
	})
}

// TestQuestionsEndAndNobodyIsForgottenWhileNodesFail has nodes killed, frozen and cut off. Every question ends by
// itself, with all that nodes say which are well, each once, and names the others. Of each user the first and
// the last device are told, once, by any node, and in the lobby to those that watch.
func TestQuestionsEndAndNobodyIsForgottenWhileNodesFail(t *testing.T) {
	long.Alone(t)
	for _, name := range long.Or([]string{"redis"}, []string{"memory", "redis", "nats"}) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			repeat(t, func(t *testing.T) {
				brokerURL, addr, faults := "memory://", "", long.Or([]fault{killed}, []fault{killed, killed})
				if name != "memory" {
					s := backends[name](t)
					brokerURL, addr = s.URL, s.Addr
					if faults = long.Or([]fault{killed}, []fault{killed, frozen, cutOff}); s.Kind == backend.StandIn {
						faults = slices.DeleteFunc(faults, func(f fault) bool { return f == frozen })
					}
				}
				still := stood()
				w := newTown(t, brokerURL, addr)
				w.live(faults)
				if stood := still(); !t.Failed() { // else not all have been told to go
					w.settle(stood)
				}
			})
		})
	}
}
