package sim

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/engine"
	"tether/hub"
	"tether/internal/simbroker"
	"tether/revoke"
)

// Revocations are simulated apart from events: small clusters, whose nodes come, go and are cut off, clients with a
// few tokens, and somebody who revokes them. A token that is revoked is not let in on any node that has confirmed it,
// from the moment in which it is confirmed, nor on one that starts then.

// Nobody who is revoked is in, or comes in.
func TestRevocations(t *testing.T) {
	eachSeed(t, 60, func(seed uint64) *minutes {
		w := newRevokingWorld(seed)
		w.run()
		return &w.minutes
	})
}

// revokingMutants are bugs of package revoke.
var revokingMutants = []mutant{
	{
		"a connect in flight slips through a revocation", "../revoke/list.go",
		"			if r.about(&h) {", "			if s.Connected() && r.about(&h) {",
	}, {
		"a connect in flight is looked at before it is noted down", "../revoke/list.go",
		"	if len(l.sockets) >= 2*l.swept+64 {", "	l.mu.Unlock()\n	time.Sleep(time.Millisecond)\n	l.mu.Lock()\n	if len(l.sockets) >= 2*l.swept+64 {",
	}, {
		"a node that starts later does not know what is revoked", "../revoke/sync.go",
		"		if behind && l.catchUp(ctx) {", "		if behind {",
	}, {
		"a node that starts lets clients in before it has asked", "../revoke/sync.go",
		"	var seen view\n", "	var seen view\n	l.open()\n",
	}, {
		"a node that has missed a rule does not ask for it", "../revoke/sync.go",
		"		behind = seen.behind(l) || behind\n", "		_ = seen.behind\n",
	}, {
		"a revocation is confirmed before it is in force", "../revoke/spread.go",
		"	ended, err := l.take(o.Rule)\n	if err != nil {", "	ended, err := 0, error(nil)\n	time.AfterFunc(5*time.Millisecond, func() { l.take(o.Rule) })\n	if err != nil {",
	}, {
		"rules are told to a node that will not be asked yet", "../revoke/sync.go",
		"		ok = ok && k.Knows\n", "",
	}, {
		"a node that only others know is not asked", "../revoke/spread.go",
		"			others[o.Tag] = cluster.Member{Tag: o.Tag, Name: o.Name}\n", "			_ = o\n",
	}, {
		"an earlier time of revocation replaces a later one", "../revoke/rule.go",
		"old.Before > r.Before", "old.Before < r.Before && old.Before == 1",
	}, {
		"half of the rules are told", "../revoke/sync.go",
		"		left = slices.Collect(maps.Values(l.rules.all))\n", "		left = slices.Collect(maps.Values(l.rules.all))\n		left = left[:len(left)/2]\n",
	},
}

// revokingWorld is one run. Its goroutine alone uses the fields above mu.
type revokingWorld struct {
	minutes
	rng        *rand.Rand
	cluster    *simbroker.Cluster
	worker     *hub.Emitter
	workerPeer *simbroker.Peer
	nodes      []*revokingNode
	most       int // nodes that live at the same time
	jobs       sync.WaitGroup
	readers    sync.WaitGroup
	end        context.CancelFunc // of the worker
	faults     atomic.Int64       // so far
	stops      atomic.Int64       // nodes that were told to stop so far
	troubled   time.Time          // until when a fault may be felt

	mu     sync.Mutex
	guests []*guest // guarded by mu
	orders []*order // guarded by mu
}

// revokingNode is a node with a list.
type revokingNode struct {
	name   string
	peer   *simbroker.Peer
	hub    *hub.Hub
	list   *revoke.List
	stop   context.CancelFunc
	ended  chan struct{}
	ending bool // it is told to, or dead
	silent bool
}

// order is a revocation that has been confirmed.
type order struct {
	rule   revoke.Rule
	began  time.Time
	nodes  []string // by which; nil until then
	at     time.Time
	calm   bool  // nothing was wrong then
	faults int64 // that there had been
	stops  int64 // likewise
}

func (o *order) about(b *badge) bool {
	return (o.rule.User == hub.Target{} || o.rule.User == hub.User(b.User)) && (o.rule.Token == "" || o.rule.Token == b.Token) &&
		(o.rule.Before.IsZero() || time.Unix(b.Issued, 0).Before(o.rule.Before))
}

// fitting is a badge that the order is about.
func (o *order) fitting() badge {
	b := badge{User: "0", Token: "t0"}
	if o.rule.User != (hub.Target{}) {
		b.User = o.rule.User.Name()
	}
	if o.rule.Token != "" {
		b.Token = o.rule.Token
	}
	return b
}

// badge is what a client connects with.
type badge struct {
	User   string        `json:"user"`
	Token  string        `json:"token"`
	Issued int64         `json:"issued"`
	Pause  time.Duration `json:"pause"` // of the hook, before it registers
	Linger time.Duration `json:"linger"`
}

func newRevokingWorld(seed uint64) *revokingWorld {
	w := &revokingWorld{rng: rand.New(rand.NewPCG(seed, 1)), minutes: minutes{began: time.Now()}}
	bound := []broker.Bound{broker.Exact, broker.AtLeast, broker.Unknown}[w.rng.IntN(3)]
	w.cluster = simbroker.New(simbroker.Options{Seed: seed, Bound: bound})
	b := w.cluster.Open("worker")
	w.worker, w.workerPeer = hub.NewEmitter(b, hub.EmitterOptions{}), b
	ctx, cancel := context.WithCancel(context.Background())
	w.end = cancel
	up := make(chan struct{})
	w.readers.Go(func() {
		defer b.Close()
		_ = w.worker.Run(ctx, func() { close(up) }) // it ends with ctx
	})
	<-up
	w.most = []int{1, 1, 3, 5}[w.rng.IntN(4)]
	for range min(w.most, 1+w.rng.IntN(3)) {
		w.start()
	}
	return w
}

func (w *revokingWorld) start() {
	n := &revokingNode{name: fmt.Sprint("node-", len(w.nodes)), ended: make(chan struct{})}
	n.peer = w.cluster.Open(n.name)
	var err error
	if n.hub, err = hub.New(n.peer, hub.Options{Node: n.name, Logger: slog.New(slog.DiscardHandler), DrainWindow: -1}); err != nil {
		w.violate("New: %v", err)
		return
	}
	if n.list, err = revoke.New(n.hub, revoke.Options{Logger: slog.New(slog.DiscardHandler)}); err != nil {
		w.violate("New: %v", err)
		return
	}
	n.hub.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var b badge
		if err := json.Unmarshal(s.Handshake().Auth, &b); err != nil {
			return err
		}
		if err := wait(ctx, b.Pause); err != nil {
			return err
		}
		if err := n.list.Register(ctx, s, revoke.Token{User: hub.User(b.User), ID: b.Token, Issued: time.Unix(b.Issued, 0)}); err != nil {
			return err
		}
		return wait(ctx, b.Linger)
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

func (w *revokingWorld) live() []*revokingNode {
	return slices.DeleteFunc(slices.Clone(w.nodes), func(n *revokingNode) bool { return n.ending })
}

func (w *revokingWorld) run() {
	for range 3 {
		for range 40 {
			w.step()
			time.Sleep([]time.Duration{0, time.Millisecond, 20 * time.Millisecond, time.Second}[w.rng.IntN(4)])
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
	w.end()
	w.readers.Wait()
	for _, n := range w.nodes {
		n.peer.Close()
	}
}

func (w *revokingWorld) step() {
	live := w.live()
	switch at := w.rng.IntN(21); {
	case at < 9:
		w.connect(live[w.rng.IntN(len(live))], w.badge(), time.Now().After(w.troubled))
	case at < 13:
		w.revoke(live)
	case at < 15 && len(live) < w.most:
		w.start()
		if w.rng.IntN(2) == 0 { // not all know the new one yet
			time.Sleep(time.Duration(w.rng.Int64N(int64(15 * time.Millisecond))))
			w.revoke(w.live())
		}
	case at < 16 && len(live) > 1:
		n := live[w.rng.IntN(len(live))]
		if !slices.ContainsFunc(live, func(o *revokingNode) bool { return o != n && !o.silent && o.list.Ready() == nil }) {
			w.fault(8 * time.Second) // a rule may go with it
		}
		w.note("%s is told to stop", n.name)
		w.stops.Add(1)
		n.ending = true
		n.stop()
	case at < 17 && len(live) > 1:
		w.fault(8 * time.Second)
		w.kill(live[w.rng.IntN(len(live))])
	case at < 18:
		n := live[w.rng.IntN(len(live))]
		w.fault(time.Hour)
		w.note("%s is silent", n.name)
		n.silent = true
		n.peer.Silence()
	case at < 19:
		n := live[w.rng.IntN(len(live))]
		w.fault(8 * time.Second)
		w.note("%s is cut", n.name)
		n.peer.Cut()
	case at < 20 && len(live) <= w.most:
		w.blink(live)
	default:
		w.mend()
	}
}

// fault notes that something is wrong, and may be felt for as long.
func (w *revokingWorld) fault(d time.Duration) {
	w.faults.Add(1)
	if until := time.Now().Add(d); until.After(w.troubled) {
		w.troubled = until
	}
}

func (w *revokingWorld) mend() {
	for _, n := range w.live() {
		if n.silent {
			w.note("%s is heard again", n.name)
			n.silent = false
			n.peer.Heal()
		}
	}
	w.troubled = time.Now().Add(10 * time.Second)
}

func (w *revokingWorld) kill(n *revokingNode) {
	w.note("%s is killed", n.name)
	n.ending = true
	w.mu.Lock()
	guests := slices.Clone(w.guests)
	w.mu.Unlock()
	for _, g := range guests {
		if g.node == n {
			g.Close(engine.ReasonTransportError)
		}
	}
	n.peer.Kill()
	n.stop()
}

func (w *revokingWorld) badge() badge {
	b := badge{User: fmt.Sprint(w.rng.IntN(4)), Token: fmt.Sprint("t", w.rng.IntN(12)), Issued: w.began.Unix() + w.rng.Int64N(20)}
	if w.rng.IntN(3) == 0 {
		b.Pause = time.Duration(w.rng.Int64N(int64(30 * time.Millisecond)))
	}
	if w.rng.IntN(2) == 0 {
		b.Linger = time.Duration(w.rng.Int64N(int64(30 * time.Millisecond)))
	}
	return b
}

// blink has all nodes be silent while the worker revokes something, and then the worker too. Meanwhile a node starts,
// which knows nobody. When it has met the others it has all their rules; they get that one afterwards, and they alone
// know of the node.
func (w *revokingWorld) blink(live []*revokingNode) {
	w.fault(15 * time.Second)
	w.note("all are silent for a while")
	for _, n := range live {
		n.silent = true
		n.peer.Silence()
	}
	pause := func(least, more time.Duration) { time.Sleep(least + time.Duration(w.rng.Int64N(int64(more)))) }
	pause(0, time.Second)
	o := w.order()
	w.put(o, live, "the worker", func(ctx context.Context) (hub.Changed, error) { return revoke.Everywhere(ctx, w.worker, o.rule) })
	pause(time.Millisecond, 100*time.Millisecond)
	w.workerPeer.Silence()
	w.start()
	w.connect(w.nodes[len(w.nodes)-1], o.fitting(), false)
	pause(time.Second, 2*time.Second)
	w.mend()
	pause(0, 2500*time.Millisecond)
	w.workerPeer.Heal()
	w.checkpoint() // what goes wrong next would have the node ask again
}

// order is one that nobody has been given yet.
func (w *revokingWorld) order() *order {
	o := &order{faults: w.faults.Load(), stops: w.stops.Load()}
	switch w.rng.IntN(5) {
	case 0:
		o.rule = revoke.Rule{User: hub.User(fmt.Sprint(w.rng.IntN(3))), Before: time.Unix(w.began.Unix()+w.rng.Int64N(20), 0)}
	case 1:
		o.rule = revoke.Rule{Before: time.Unix(w.began.Unix()+w.rng.Int64N(5), 0)}
	default:
		o.rule = revoke.Rule{Token: fmt.Sprint("t", w.rng.IntN(10))}
	}
	return o
}

// revoke revokes something, from a node or from the worker.
func (w *revokingWorld) revoke(live []*revokingNode) {
	o := w.order()
	by, ask := "the worker", func(ctx context.Context) (hub.Changed, error) { return revoke.Everywhere(ctx, w.worker, o.rule) }
	if w.rng.IntN(2) == 0 {
		n := live[w.rng.IntN(len(live))]
		by, ask = n.name, func(ctx context.Context) (hub.Changed, error) { return n.list.Revoke(ctx, o.rule) }
	}
	w.put(o, live, by, ask)
}

// put gives an order.
func (w *revokingWorld) put(o *order, live []*revokingNode, by string, ask func(ctx context.Context) (hub.Changed, error)) {
	w.note("%s revokes %+v", by, o.rule)
	o.calm = time.Now().After(w.troubled)
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		o.began = time.Now()
		c, err := ask(ctx)
		if took := time.Since(o.began); o.calm && took > 7*time.Second && w.faults.Load() == o.faults {
			w.violate("to revoke %+v took %s %v", o.rule, by, took)
		}
		if err != nil {
			return
		}
		for _, n := range c.Nodes {
			o.nodes = append(o.nodes, n.Name)
		}
		o.at = time.Now()
		w.note("%+v is confirmed by %v, not by %v", o.rule, o.nodes, c.Missing)
		w.mu.Lock()
		w.orders = append(w.orders, o)
		w.mu.Unlock()
		for _, d := range []time.Duration{time.Nanosecond, 100 * time.Millisecond, time.Second} {
			time.Sleep(d)
			for _, n := range live { // somebody tries at once, also where the order has not come
				w.connect(n, o.fitting(), o.calm)
			}
			w.allOut(o)
		}
	})
}

// allOut checks that nobody whom an order is about is in, if nothing has gone wrong meanwhile.
func (w *revokingWorld) allOut(o *order) {
	w.mu.Lock()
	guests := slices.Clone(w.guests)
	w.mu.Unlock()
	for _, g := range guests {
		if o.calm && o.about(&g.badge) && g.in() && o.faults == w.faults.Load() && o.stops == w.stops.Load() {
			w.violate("%v is in, %v after %+v was confirmed by %v", g, time.Since(o.at), o.rule, o.nodes)
		}
	}
}

// letIn checks a client that has just been told that it is connected.
func (w *revokingWorld) letIn(g *guest) {
	w.mu.Lock()
	orders := slices.Clone(w.orders)
	w.mu.Unlock()
	for _, o := range orders {
		if !o.about(&g.badge) || !o.at.Before(g.asked) {
			continue
		}
		if slices.Contains(o.nodes, g.node.name) {
			w.violate("%v is let in, and %s has confirmed %+v", g, g.node.name, o.rule)
		} else if g.calm && o.calm && o.faults == w.faults.Load() && len(o.nodes) > 0 {
			w.violate("%v is let in, and %+v had been confirmed by %v", g, o.rule, o.nodes)
		}
	}
}

// checkpoint mends everything, and looks at which clients are in.
func (w *revokingWorld) checkpoint() {
	w.mend()
	time.Sleep(12 * time.Second)
	w.jobs.Wait()
	synctest.Wait()
	w.troubled = time.Now()
	w.note("checkpoint")
	live := w.live()
	w.mu.Lock()
	guests, orders := slices.Clone(w.guests), slices.Clone(w.orders)
	w.mu.Unlock()
	for i, o := range orders {
		known := slices.ContainsFunc(live, func(n *revokingNode) bool { return slices.Contains(o.nodes, n.name) })
		for _, g := range guests {
			if known && g.in() && o.about(&g.badge) {
				w.violate("%v is in at rest, and %+v had been confirmed by %v", g, o.rule, o.nodes)
			}
		}
		if known { // now all know it
			all := *o
			all.calm, all.faults, all.at, all.nodes = true, w.faults.Load(), time.Now(), nil
			for _, n := range live {
				all.nodes = append(all.nodes, n.name)
			}
			orders[i] = &all
		}
	}
	w.mu.Lock()
	w.orders = orders
	w.guests = slices.DeleteFunc(w.guests, func(g *guest) bool { return !g.in() })
	w.mu.Unlock()
}

// guest is a client with a badge, and its connection.
type guest struct {
	w        *revokingWorld
	node     *revokingNode
	badge    badge
	asked    time.Time
	calm     bool // nothing was wrong then
	receiver engine.Receiver
	closing  chan struct{}

	mu        sync.Mutex
	connected bool // guarded by mu
	reason    engine.Reason
}

func (w *revokingWorld) connect(n *revokingNode, b badge, calm bool) {
	g := &guest{w: w, node: n, badge: b, calm: calm, closing: make(chan struct{})}
	r := httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket", nil)
	receiver, err := n.hub.Attach(g, r)
	if err != nil {
		return
	}
	g.receiver = receiver
	w.mu.Lock()
	w.guests = append(w.guests, g)
	w.mu.Unlock()
	w.note("%v connects", g)
	g.asked = time.Now()
	text, _ := json.Marshal(b)
	w.readers.Go(func() {
		if err := receiver.Text(append([]byte("0"), text...)); err != nil {
			w.violate("%v: %v", g, err)
		}
		<-g.closing
		receiver.Closed(g.reason)
	})
}

func (g *guest) String() string { return fmt.Sprintf("%+v on %s", g.badge, g.node.name) }

func (g *guest) in() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.connected && g.reason == ""
}

func (g *guest) ID() string                       { return "secret" }
func (g *guest) Transport() string                { return "websocket" }
func (g *guest) Behind() (<-chan struct{}, error) { return nil, nil }

// SendLogged is for sessions that are recovered, and these nodes have none.
func (g *guest) SendLogged(*engine.Entry, *engine.Gate, *engine.Log) error {
	return engine.ErrDisconnected
}

func (g *guest) Send(p *engine.Packet, from *engine.Gate) error {
	if from != nil && from.State() == engine.Ended {
		return engine.ErrDisconnected
	}
	if bytes.HasPrefix(p.Text(), []byte("40")) {
		g.mu.Lock()
		g.connected = true
		g.mu.Unlock()
		g.w.letIn(g)
	}
	return nil
}

func (g *guest) Close(r engine.Reason) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.reason == "" {
		g.reason = r
		close(g.closing)
	}
}
