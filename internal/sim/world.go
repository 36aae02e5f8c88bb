package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/broker/seal"
	"tether/engine"
	"tether/hub"
	"tether/internal/ledger"
	"tether/internal/simbroker"
)

// Plan is what a run is like.
type Plan struct {
	Seed  uint64
	Steps int // default 160

	// Planted faults, between the hub and its ports. Nil: none.
	Broker func(broker.Broker) broker.Broker
	Conn   func(engine.Conn) engine.Conn
}

// Report is what a run has come to.
type Report struct {
	Kind       string // of broker
	Violations []string
	Protocol   []string // what was done, and when
	Counts     ledger.Counts
	Clients    int
	Nodes      int
	Gaps       int
	Time       time.Duration // of the fake clock
}

// world is one run. The goroutine of Run alone uses the fields above mu.
type world struct {
	minutes
	plan       Plan
	rng        *rand.Rand
	forks      uint64
	book       *ledger.Ledger
	crowd      *crowd
	cluster    *simbroker.Cluster // nil in a run on the memory broker
	bus        *memory.Bus        // nil in a run on the simulated one
	devices    hub.Devices
	keys       []seal.Key // nil: none
	rumour     rumour
	nodes      []*node
	wires      []*wire
	clients    []*client
	workers    []*publisher
	users      []string
	questions  int
	gatherings int
	mended     atomic.Bool // nothing is broken, and all have recovered
	many       bool        // rooms
	real       bool        // transport
	disturbed  bool        // something has been broken since the last checkpoint

	readers sync.WaitGroup // clients and nodes, which last
	jobs    sync.WaitGroup // what has been asked for, and ends by itself

	mu       sync.Mutex
	kicks    []*kick                  // guarded by mu
	dialed   []*wire                  // guarded by mu; with the real transport
	rivals   map[string][]rival       // guarded by mu; by user's room
	streams  map[string]chan struct{} // guarded by mu; a token each
	numbered int                      // guarded by mu; clients
	stops    int                      // guarded by mu; nodes that were told to stop
}

// kick is one Emitter.Disconnect that was taken.
type kick struct {
	namespace, room string
	closing         bool      // the connections too
	clients         []*client // that were in the room for certain
	at              ledger.Moment
	from, to        time.Time
	verified        bool
}

func (w *world) nextClient() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.numbered++
	return w.numbered
}

// fork returns randomness of its own for something that has a goroutine of its own.
func (w *world) fork() *rand.Rand {
	w.forks++
	return rand.New(rand.NewPCG(w.plan.Seed, 1<<32+w.forks))
}

func (w *world) chance(one int) bool { return w.rng.IntN(one) == 0 }

func (w *world) upTo(d time.Duration) time.Duration { return time.Duration(w.rng.Int64N(int64(d))) }

func pick[T any](w *world, of []T) T { return of[w.rng.IntN(len(of))] }

// Users and rooms have names that would be trouble if anybody took them for patterns.
var (
	names      = []string{"1", "2", "*", ">", "a.b", "a,b", "é\n", "user:1", "%", strings.Repeat("x", 300)}
	rooms      = []string{"r1", "r2", "r.>", "R1", "r1,r2"}
	namespaces = []string{"/", "/", "/", "/b", "/dyn-1"}
)

// Run runs one plan. It must be called in a bubble of testing/synctest, and leaves no goroutine behind.
func Run(p Plan) Report {
	if p.Steps == 0 {
		p.Steps = 160
	}
	w := &world{
		plan:    p,
		rng:     rand.New(rand.NewPCG(p.Seed, 0)),
		minutes: minutes{began: time.Now()},
		streams: make(map[string]chan struct{}),
		rivals:  make(map[string][]rival),
	}
	kind := w.furnish()
	for i := range p.Steps {
		w.step()
		time.Sleep(w.rest())
		w.look()
		if i%40 == 39 {
			w.checkpoint()
		}
	}
	w.checkpoint()
	w.end()
	counts := w.book.Settle()
	r := Report{
		Kind: kind, Counts: counts, Clients: w.numbered, Nodes: len(w.nodes),
		Violations: append(w.violations, w.book.Faults()...),
		Protocol:   w.protocol, Time: time.Since(w.began),
	}
	for _, n := range w.nodes {
		r.Gaps += w.book.Gaps(n.name)
	}
	return r
}

// furnish chooses what the run is like, and starts it.
func (w *world) furnish() (kind string) {
	latency := 10 * maxHesitation // of all in a room together
	if w.chance(3) {
		kind = "memory"
		w.bus = memory.NewBus()
		if w.chance(3) {
			w.devices = hub.Devices{Max: 2, RefuseNew: w.rng.IntN(2) == 1}
		}
	} else {
		bound := []broker.Bound{broker.Exact, broker.Exact, broker.AtLeast, broker.Unknown}[w.rng.IntN(4)]
		kind = fmt.Sprintf("cluster with receipts of bound %d", bound)
		w.cluster = simbroker.New(simbroker.Options{Seed: w.plan.Seed, Bound: bound})
		latency = simbroker.Patience + simbroker.MaxSlow + 100*time.Millisecond
	}
	w.furnishKeys()
	if w.keys != nil {
		kind += ", keys"
	}
	w.many, w.real = w.chance(12), w.chance(4)
	if w.real {
		kind += ", real transport"
	}
	w.book = ledger.New(latency)
	w.crowd = w.newCrowd()
	w.users = slices.Clone(names)
	w.rng.Shuffle(len(w.users), func(i, j int) { w.users[i], w.users[j] = w.users[j], w.users[i] })
	w.users = w.users[:2+w.rng.IntN(4)]
	for range 1 + w.rng.IntN(3) {
		w.start()
	}
	for i := range 2 {
		name := fmt.Sprintf("worker-%d", i)
		w.workers = append(w.workers, w.work(name))
	}
	defer func() {
		for range 3 + w.rng.IntN(8) {
			w.dial()
		}
	}()
	w.note("seed %d: %s, %d nodes, users %q, devices %+v", w.plan.Seed, kind, len(w.nodes), w.users, w.devices)
	return kind
}

// work starts a worker.
func (w *world) work(name string) *publisher {
	b := w.broker(name, nil)
	e := hub.NewEmitter(b, hub.EmitterOptions{Key: w.keysOf()})
	ctx, stop := context.WithCancel(context.Background())
	up := make(chan struct{})
	w.readers.Go(func() {
		defer b.Close()
		if err := e.Run(ctx, func() { close(up) }); err != nil {
			w.violate("Run of %s: %v", name, err)
		}
	})
	<-up
	return &publisher{name: name, emitter: e, stop: stop}
}

// rest is the time between two steps: often none at all.
func (w *world) rest() time.Duration {
	switch w.rng.IntN(5) {
	case 0:
		return 0
	case 1, 2:
		return w.upTo(2 * time.Millisecond)
	case 3:
		return w.upTo(60 * time.Millisecond)
	}
	return w.upTo(time.Second)
}

func (w *world) live() []*node {
	return slices.DeleteFunc(slices.Clone(w.nodes), (*node).ending)
}

func (w *world) present() []*client {
	return slices.DeleteFunc(slices.Clone(w.clients), func(c *client) bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.over || c.refused || c.kicked || c.quits
	})
}

// checkpoint mends everything, waits until nothing moves, and compares what is with what should be.
func (w *world) checkpoint() {
	w.mend()
	time.Sleep(8 * time.Second) // reconnecting, catching up, noticing what is gone
	w.visit()
	w.mended.Store(true)
	w.jobs.Wait()
	w.crowd.settle()
	for again := true; again; again = w.dismissing() {
		time.Sleep(2 * time.Second)
		synctest.Wait()
	}
	w.note("checkpoint")
	var devices []map[string]int
	for _, n := range w.live() {
		devices = append(devices, w.inspect(n))
		w.inspectMembers(n)
	}
	w.inspectDevices(devices)
	w.crowd.inspect()
	w.verifyKicks()
	w.setDisturbed(false)
	w.mended.Store(false)
}

// end drains all nodes, under fire, and looks at what is left.
func (w *world) end() {
	w.note("end")
	nodes := w.live()
	for _, p := range w.workers {
		w.emit(p, "/", []string{everyone}, nil, 5, false)
	}
	users := 0
	for _, c := range w.clients { // what a node has taken has to arrive, also while it sends them away
		if users < 6 && c.alive() {
			w.emit(pick(w, w.workers), c.namespace, []string{userRoom(c.user)}, nil, 25, false)
			users++
		}
	}
	w.crowd.forgive() // to end all at the same instant is to die together, as far as presence is concerned
	for _, n := range nodes {
		n.stop()
	}
	limit := time.After(drainLimit)
	for _, n := range w.nodes {
		select {
		case <-n.ended:
		case <-limit:
			w.violate("%s has not ended %v after its context", n.name, drainLimit)
			limit = nil
			<-n.ended
		}
	}
	w.jobs.Wait()
	for _, k := range w.wires {
		k.Close(engine.ReasonTransportClose) // only those of killed nodes can still be open
	}
	for _, p := range w.workers {
		p.stop()
	}
	w.readers.Wait()
	for _, n := range w.nodes {
		w.inspectEnd(n)
		n.broker.Close()
	}
	for _, c := range w.clients {
		c.mu.Lock()
		if c.sid != "" && c.greeted == 0 && !c.kicked && !c.wire.isBroken() && (c.left.IsZero() || c.left.Sub(c.known) > maxHesitation) {
			w.violate("%s was never greeted", c)
		}
		c.mu.Unlock()
		w.inspectOver(c)
	}
}
