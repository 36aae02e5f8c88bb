package sim

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/hub"
	"tether/internal/simbroker"
)

// Recovery is simulated apart from other events, as revocation is: small clusters, whose nodes come, go, are killed and
// cut off, and clients that lose their connections all the time and come back to any node. Each session has an
// account: see account.

// A client that is told that it is recovered has its ID, its rooms and its data, and nothing is missing, doubled or
// out of order; one that is told that it is not was given a reason that is true.
func TestRecoveries(t *testing.T) {
	total := make(map[string]int)
	n := eachSeed(t, recoveringSeeds(), func(seed uint64) *minutes {
		w := newRecoveringWorld(seed)
		w.run()
		for outcome, n := range w.outcomes {
			total[outcome] += n
		}
		return &w.minutes
	})
	t.Logf("%d seeds: %v", n, total)
}

// recoveringWorld is one run. Its goroutine alone uses the fields above mu.
type recoveringWorld struct {
	minutes
	rng        *rand.Rand
	forks      uint64
	seed       uint64
	cluster    *simbroker.Cluster // nil in a run on the memory broker
	bus        *memory.Bus
	recovery   hub.Recovery
	small      bool // the bounds of what is kept
	workers    []*hub.Emitter
	nodes      []*recoveringNode
	travellers []*traveller
	calm       bool // no node dies, and no link breaks
	ends       ends
	stop       context.CancelFunc
	jobs       sync.WaitGroup
	readers    sync.WaitGroup
	over       chan struct{} // closed when nobody comes back any more
	moment     atomic.Int64

	mu       sync.Mutex
	all      []*recoveringNode        // guarded by mu
	events   map[string][]*posted     // guarded by mu; by stream
	numbers  map[uint64]*posted       // guarded by mu
	accounts []*account               // guarded by mu
	streams  map[string]chan struct{} // guarded by mu; a token each
	banned   map[string]moment        // guarded by mu; users, and since when
	troubled time.Time                // guarded by mu; when a link was last known to be broken
	unsound  bool                     // guarded by mu; since the last checkpoint
	gaps     map[string][]broker.Gap  // guarded by mu; by node
	cuts     map[string][]time.Time   // guarded by mu; of its link, by node
	shifts   map[shift]int            // guarded by mu; under way
	kicks    map[shift]int            // guarded by mu; disconnects under way, of users' rooms
	outcomes map[string]int           // guarded by mu
}

func newRecoveringWorld(seed uint64) *recoveringWorld {
	w := &recoveringWorld{
		rng: rand.New(rand.NewPCG(seed, 3)), seed: seed, minutes: minutes{began: time.Now()}, over: make(chan struct{}),
		events: make(map[string][]*posted), numbers: make(map[uint64]*posted), streams: make(map[string]chan struct{}),
		banned: make(map[string]moment), gaps: make(map[string][]broker.Gap), cuts: make(map[string][]time.Time), outcomes: make(map[string]int), shifts: make(map[shift]int),
		kicks: make(map[shift]int), ends: ends{told: make(map[string][]string), ids: make(map[string]bool)},
	}
	w.recovery = hub.Recovery{
		On:     true,
		Window: []time.Duration{2 * time.Second, 10 * time.Second, time.Minute}[w.rng.IntN(3)],
		Data:   func() any { return new(badgeOf) },
	}
	if w.small = w.rng.IntN(4) == 0; w.small {
		w.recovery.SessionBytes = 4096 << w.rng.IntN(3)
		w.recovery.UserBytes = 8192 << w.rng.IntN(3)
		w.recovery.TotalBytes = 32768 << w.rng.IntN(3)
	}
	w.calm = w.rng.IntN(3) == 0
	if w.rng.IntN(4) == 0 {
		w.bus = memory.NewBus()
	} else {
		bound := []broker.Bound{broker.Exact, broker.Exact, broker.AtLeast, broker.Unknown}[w.rng.IntN(4)]
		w.cluster = simbroker.New(simbroker.Options{Seed: seed, Bound: bound})
	}
	ctx, cancel := context.WithCancel(context.Background())
	w.stop = cancel
	for i := range 2 {
		b, _ := w.open(fmt.Sprint("worker-", i))
		e := hub.NewEmitter(b, hub.EmitterOptions{})
		up := make(chan struct{})
		w.readers.Go(func() {
			defer b.Close()
			_ = e.Run(ctx, func() { close(up) }) // it ends with ctx
		})
		<-up
		w.workers = append(w.workers, e)
	}
	for range 1 + w.rng.IntN(3) {
		w.start()
	}
	w.note("seed %d: memory %v, calm %v, recovery %+v", seed, w.bus != nil, w.calm, w.recovery)
	return w
}

func (w *recoveringWorld) open(name string) (broker.Broker, *simbroker.Peer) {
	if w.bus != nil {
		return w.bus.Broker(), nil
	}
	p := w.cluster.Open(name)
	return p, p
}

func (w *recoveringWorld) fork() *rand.Rand {
	w.forks++
	return rand.New(rand.NewPCG(w.seed, 5<<32+w.forks))
}

// now is this moment, later than all before it.
func (w *recoveringWorld) now() moment { return moment{w.moment.Add(1), time.Now()} }

// moment is a time, and its place in the order of all moments of the run; the zero one has not come.
type moment struct {
	n  int64
	at time.Time
}

// live are the nodes that take clients. Any goroutine may call it.
func (w *recoveringWorld) live() []*recoveringNode {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(w.all), (*recoveringNode).isEnding)
}

func (w *recoveringWorld) run() {
	for range 4 + w.rng.IntN(4) {
		w.travel()
	}
	for range 3 {
		for range 50 {
			w.act()
			time.Sleep([]time.Duration{0, time.Duration(w.rng.Int64N(int64(3 * time.Millisecond))), 20 * time.Millisecond, 300 * time.Millisecond}[w.rng.IntN(4)])
		}
		w.checkpoint()
	}
	w.end()
}

// checkpoint mends everything, waits until all are back, and looks at all accounts.
func (w *recoveringWorld) checkpoint() {
	w.mend()
	for len(w.live()) == 0 {
		w.start()
	}
	time.Sleep(w.recovery.Window + 15*time.Second) // a client that is away for longer than its window is back too
	w.jobs.Wait()
	synctest.Wait()
	w.note("checkpoint")
	now := w.now()
	w.mu.Lock()
	w.unsound = false
	accounts := slices.Clone(w.accounts)
	w.mu.Unlock()
	for _, a := range accounts {
		a.inspect(now)
	}
}

// end has all clients go for good, and looks at what is left of them.
func (w *recoveringWorld) end() {
	w.note("end")
	close(w.over)
	for _, t := range w.travellers {
		t.hangUp(w.rng.IntN(2) == 0)
	}
	time.Sleep(w.recovery.Window + 35*time.Second) // longer than a link seems to be alive
	w.jobs.Wait()
	synctest.Wait()
	for _, n := range w.live() {
		if s := n.hub.Stats(); s.Parked > 0 || s.Kept > 0 || s.Sockets > 0 || s.Connections > 0 || s.Rooms > 0 {
			w.violate("%s has %d parked sessions, %d bytes, %d sockets, %d connections, %d rooms, and everybody has gone",
				n.name, s.Parked, s.Kept, s.Sockets, s.Connections, s.Rooms)
		}
		if n.peer != nil && len(n.peer.Subscriptions()) != 2 {
			w.violate("%s has the subscriptions %v, and everybody has gone", n.name, n.peer.Subscriptions())
		}
	}
	for _, n := range w.live() {
		n.end(false)
	}
	for _, n := range w.nodes {
		<-n.done
		if n.err != nil && !n.isDead() {
			w.violate("Run of %s: %v", n.name, n.err)
		}
	}
	w.stop()
	w.readers.Wait()
	for _, a := range w.accounts {
		if w.calm && len(a.visits) > 0 {
			w.ends.inspect(a, a.reason)
		}
	}
	for _, n := range w.nodes {
		n.b.Close()
	}
}
