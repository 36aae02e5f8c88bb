package sim

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/simbroker"
)

const (
	drainWindow = 300 * time.Millisecond
	hookTimeout = 10 * time.Second
	drainLimit  = drainWindow + hookTimeout + 5*time.Second // that Hub.Run promises
	joinTimeout = 45 * time.Second
	maxAcks     = 4 // that are awaited from one socket
)

// node is one process with a hub in it.
type node struct {
	w       *world
	name    string
	hub     *hub.Hub
	peer    *simbroker.Peer // nil in a run on the memory broker
	watch   *watch          // nil unless in a run on the memory broker
	broker  broker.Broker
	cancel  context.CancelFunc
	ended   chan struct{} // closed when Run has returned
	clock   clock
	expiry  expiries
	guests  guests
	network *network // with the real transport
	born    time.Time
	silent  bool // it is cut off; the goroutine of Run alone uses it

	mu       sync.Mutex
	stopping bool  // guarded by mu
	dead     bool  // guarded by mu; killed
	err      error // guarded by mu; of Run
	gaps     uint64
	told     time.Time       // guarded by mu; when it was told to stop
	clients  int             // guarded by mu; then
	shut     []time.Duration // guarded by mu; after that, when it closed connections
}

// start starts another node.
func (w *world) start() *node {
	n := &node{w: w, name: fmt.Sprintf("node-%d", len(w.nodes)), ended: make(chan struct{}), born: time.Now()}
	n.broker = w.broker(n.name, n)
	if w.chance(3) {
		n.clock.off = w.upTo(2*time.Hour) - time.Hour
	}
	if w.keys != nil {
		n.clock.off = w.upTo(clockSpread) - clockSpread/2
	}
	h, err := hub.New(n.broker, n.options())
	if err != nil {
		w.violate("New: %v", err)
		return nil
	}
	n.hub = h
	if err := w.crowd.attend(n); err != nil {
		w.violate("presence: %v", err)
		return nil
	}
	n.serve(h.Of("/"))
	n.serve(h.Of("/b"))
	n.serve(h.Match(func(name string) bool { return strings.HasPrefix(name, "/dyn-") }))
	n.run()
	w.nodes = append(w.nodes, n)
	return n
}

func (n *node) options() hub.Options {
	w := n.w
	return hub.Options{
		Node:        n.name,
		Key:         w.keysOf(),
		Logger:      slog.New(slog.DiscardHandler),
		DrainWindow: drainWindow,
		HookTimeout: hookTimeout,
		Devices:     w.devices,
		Time:        n.clock.now,
		Limits:      hub.Limits{Events: 8, Acks: maxAcks},
		OnGap: func(g broker.Gap) {
			n.mu.Lock()
			n.gaps++
			n.mu.Unlock()
			w.book.Gap(n.name, g)
		},
	}
}

// run runs the hub until the node is stopped or killed, and sees what is left then.
func (n *node) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	unlisten := func() {}
	if n.w.real {
		unlisten = n.listen()
	}
	n.w.readers.Go(func() {
		defer close(n.ended)
		err := n.hub.Run(ctx)
		n.bury()
		if text := n.guests.unfinished(); text != "" && !n.isDead() {
			n.w.violate("Run of %s has returned, and %s", n.name, text)
		}
		if left := n.hub.Stats().Connections; left > 0 && !n.isDead() {
			n.w.violate("Run of %s has returned, and %d connections are left", n.name, left)
		}
		n.mu.Lock()
		n.err = err
		n.mu.Unlock()
		unlisten()
		if n.network != nil {
			n.network.Close()
		}
	})
}

// broker returns a node's broker, or with a nil node that of a worker, which never runs it.
func (w *world) broker(name string, n *node) broker.Broker {
	var b broker.Broker
	if w.cluster != nil {
		p := w.cluster.Open(name)
		if n != nil {
			n.peer = p
		}
		b = p
	} else {
		k := &watch{Broker: w.bus.Broker(), w: w, rng: w.fork(), subs: make(map[string]bool)}
		if n != nil {
			n.watch = k
		}
		b = k
	}
	if w.plan.Broker != nil {
		b = w.plan.Broker(b)
	}
	b = &stutter{Broker: b, rng: w.fork()}
	if w.keys != nil {
		b = newStranger(b, &w.rumour, w.fork())
	}
	return b
}

func wait(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (n *node) ending() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.stopping || n.dead
}

func (n *node) isDead() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dead
}

// stop begins a drain.
func (n *node) stop() {
	n.w.book.Drain(n.name)
	n.w.mu.Lock()
	n.w.stops++
	n.w.mu.Unlock()
	n.mu.Lock()
	n.stopping = true
	n.told, n.clients = time.Now(), n.hub.Stats().Connections
	n.mu.Unlock()
	n.cancel()
}

// draining is for how long the node has been stopping; 0: it is not.
func (n *node) draining() time.Duration {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.told.IsZero() {
		return 0
	}
	return time.Since(n.told)
}

// closes notes that the node closes a connection because it stops.
func (n *node) closes() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.shut = append(n.shut, time.Since(n.told))
}

// pace looks at how the node spread the end of its connections over the window.
func (n *node) pace() {
	n.mu.Lock()
	defer n.mu.Unlock()
	early := 0
	for _, d := range n.shut {
		if d < drainWindow/2 {
			early++
		}
	}
	if most := n.clients/2 + n.clients/6 + 1; early > most && len(n.shut) <= n.clients {
		n.w.violate("%s closed %d of %d connections in the first half of its window", n.name, early, n.clients)
	}
}

// kill ends the node as kill -9 would, as far as others can see.
func (n *node) kill() {
	n.mu.Lock()
	n.dead = true
	n.mu.Unlock()
	for _, k := range n.w.wires {
		if k.node == n {
			k.breakOff(hub.ReasonTransportError)
		}
	}
	n.bury()
	if n.peer != nil {
		n.peer.Kill()
	} else {
		n.broker.Close()
	}
	n.cancel()
}

// bury notes down the gap that a node cannot report any more.
func (n *node) bury() {
	if n.peer == nil {
		return
	}
	if g := n.peer.Unreported(); !g.To.IsZero() {
		n.w.book.Gap(n.name, g)
	}
}

// subscriptions are what the broker knows of the node.
func (n *node) subscriptions() map[string]bool {
	if n.peer != nil {
		return n.peer.Subscriptions()
	}
	return n.watch.subscriptions()
}

// watch is a peer of the memory broker whose calls take their time, and which keeps a list.
type watch struct {
	broker.Broker
	w *world

	mu   sync.Mutex
	rng  *rand.Rand      // guarded by mu
	subs map[string]bool // guarded by mu
}

func (k *watch) travel() {
	k.mu.Lock()
	var d time.Duration
	if k.rng.IntN(3) > 0 {
		d = time.Duration(k.rng.Int64N(int64(3 * time.Millisecond)))
	}
	k.mu.Unlock()
	if d > 0 {
		time.Sleep(d) // of fake time
	}
}

func (k *watch) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	k.travel()
	reach, err := k.Broker.Publish(ctx, msgs...)
	k.travel()
	return reach, err
}

func (k *watch) Subscribe(ctx context.Context, subjects ...string) []error {
	k.travel()
	err := k.Broker.Subscribe(ctx, subjects...)
	if err == nil {
		k.note(subjects, true)
	}
	k.travel()
	return err
}

func (k *watch) Unsubscribe(ctx context.Context, subjects ...string) []error {
	k.travel()
	err := k.Broker.Unsubscribe(ctx, subjects...)
	k.note(subjects, false)
	k.travel()
	return err
}

func (k *watch) note(subjects []string, there bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, s := range subjects {
		if there {
			k.subs[s] = true
		} else {
			delete(k.subs, s)
		}
	}
}

func (k *watch) subscriptions() map[string]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := make(map[string]bool, len(k.subs))
	for s := range k.subs {
		all[s] = true
	}
	return all
}

// In the second byte of the hub's messages.
const (
	kindEvent   = 1
	kindCluster = 3
)

// stutter is a broker that says some things twice that may be said twice: that it is well, and what nodes
// say, ask and answer. It borrows events, and lends every other one.
type stutter struct {
	broker.Broker

	events atomic.Int64

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

func (s *stutter) again() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rng.IntN(3) == 0
}

func (s *stutter) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	kept := slices.Clone(msgs)
	for i := range kept {
		kept[i] = kept[i].Own()
	}
	return s.Broker.Publish(ctx, kept...)
}

func (s *stutter) Run(ctx context.Context, h broker.Handler) error {
	deliver, state := h.Deliver, h.State
	h.Deliver = func(m broker.Message) {
		if len(m.Data) > 1 && m.Data[1] == kindEvent && s.events.Add(1)%2 == 0 {
			m.Data, m.Lent = bytes.Clone(m.Data), true
			deliver(m)
			clear(m.Data)
			return
		}
		deliver(m)
		if len(m.Data) > 1 && m.Data[1] == kindCluster && s.again() {
			deliver(m)
		}
	}
	if state == nil { // of a worker
		state = func(error) {}
	}
	h.State = func(err error) {
		state(err)
		if s.again() {
			state(err)
		}
	}
	return s.Broker.Run(ctx, h)
}
