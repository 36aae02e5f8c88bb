package sim

import (
	"context"
	"errors"
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
	plan       Plan
	rng        *rand.Rand
	forks      uint64
	began      time.Time
	book       *ledger.Ledger
	cluster    *simbroker.Cluster // nil in a run on the memory broker
	bus        *memory.Bus        // nil in a run on the simulated one
	devices    hub.Devices
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

	mu         sync.Mutex
	kicks      []*kick                  // guarded by mu
	dialed     []*wire                  // guarded by mu; with the real transport
	rivals     map[string][]rival       // guarded by mu; by user's room
	violations []string                 // guarded by mu
	protocol   []string                 // guarded by mu
	streams    map[string]chan struct{} // guarded by mu; a token each
	numbered   int                      // guarded by mu; clients
}

// publisher is somebody who emits.
type publisher struct {
	name    string
	node    *node // nil: a worker without a hub
	emitter *hub.Emitter
	stop    context.CancelFunc // of a worker
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

const maxViolations = 20

func (w *world) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	w.note("VIOLATION: %s", text)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.violations) < maxViolations {
		w.violations = append(w.violations, text)
	}
}

func (w *world) note(format string, args ...any) {
	at := time.Since(w.began)
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.protocol) < 2000 {
		w.protocol = append(w.protocol, fmt.Sprintf("%9.3fs  ", at.Seconds())+fmt.Sprintf(format, args...))
	}
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
		began:   time.Now(),
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
			w.devices = hub.Devices{Max: 2, Exceed: hub.OnExceed(w.rng.IntN(2))}
		}
	} else {
		bound := []broker.Bound{broker.Exact, broker.Exact, broker.AtLeast, broker.Unknown}[w.rng.IntN(4)]
		kind = fmt.Sprintf("cluster with receipts of bound %d", bound)
		w.cluster = simbroker.New(simbroker.Options{Seed: w.plan.Seed, Bound: bound})
		latency = simbroker.Patience + simbroker.MaxSlow + 100*time.Millisecond
	}
	w.many, w.real = w.chance(12), w.chance(4)
	if w.real {
		kind += ", real transport"
	}
	w.book = ledger.New(latency)
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
	e := hub.NewEmitter(b, hub.EmitterOptions{})
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

// publisherOf is who emits next: a worker, or a node that lives.
func (w *world) publisherOf() *publisher {
	if live := w.live(); len(live) > 0 && w.chance(2) {
		n := pick(w, live)
		return &publisher{name: n.name, node: n, emitter: n.hub.Emitter()}
	}
	return pick(w, w.workers)
}

// token returns the token of a stream, so that its messages are published one after the other.
func (w *world) token(stream string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.streams[stream]
	if t == nil {
		t = make(chan struct{}, 1)
		w.streams[stream] = t
	}
	return t
}

// emit emits n events to one room, or to the union of several, one after the other.
func (w *world) emit(p *publisher, namespace string, to, except []string, n int, binary bool) {
	calm := !w.disturbed
	w.jobs.Go(func() {
		full := func(list []string) (names []string, out []hub.Target) {
			for _, r := range list {
				names = append(names, namespace+","+r)
				out = append(out, target(r))
			}
			return names, out
		}
		names, targets := full(to)
		excepted, exceptions := full(except)
		e := p.emitter.In(namespace)
		if len(exceptions) > 0 {
			e = e.Except(exceptions...)
		}
		token := w.token(p.name + names[0])
		for range n {
			token <- struct{}{}
			w.emitOne(e, p, names, excepted, targets, binary, calm)
			<-token
		}
	})
}

func (w *world) emitOne(e *hub.Emitter, p *publisher, names, excepted []string, to []hub.Target, binary, calm bool) {
	m := w.book.Send(p.name, names, excepted)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	args := []any{m.Mark}
	if binary {
		args = append(args, attachment(m.Mark))
	}
	began := time.Now()
	var receipt hub.Receipt
	var err error
	if len(to) == 1 {
		receipt, err = e.Emit(ctx, to[0], "n", args...)
	} else {
		receipt, err = e.EmitUnion(ctx, to, "n", args...)
	}
	w.book.Sent(m, receipt, err)
	if took := time.Since(began); took > simbroker.PublishFails+100*time.Millisecond {
		w.violate("%v took %v", m, took)
	}
	if err == nil {
		return
	}
	if !errors.Is(err, broker.ErrUnavailable) && !errors.Is(err, broker.ErrClosed) {
		w.violate("%v: %v", m, err)
	}
	if calm && !w.wasDisturbed() && (p.node == nil || !p.node.ending()) {
		w.violate("%v failed although nothing was wrong: %v", m, err)
	}
}

// checkpoint mends everything, waits until nothing moves, and compares what is with what should be.
func (w *world) checkpoint() {
	w.mend()
	time.Sleep(8 * time.Second) // reconnecting, catching up, noticing what is gone
	w.visit()
	w.mended.Store(true)
	w.jobs.Wait()
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
