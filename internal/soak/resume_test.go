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

	"tether/hub"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
	"tether/transport"
)

// follower is a guest that is cut off, and comes back to wherever its proxy leads.
type follower struct {
	guest
	proxy *faultproxy.Proxy
	done  *atomic.Int64 // numbers that all have got

	lacks map[string]map[int]bool // numbers that were passed over, by stream
	ended map[string]bool         // streams whose last number has come

	lost, doubled, inverted int
}

// number takes a number of a stream. After a visit that is not recovered it may be any.
func (f *follower) number(stream string, n int, last bool) {
	want, known := f.next[stream]
	switch {
	case known && n < want && f.lacks[stream][n]:
		delete(f.lacks[stream], n)
		f.lost--
		f.inverted++
		return
	case known && n < want:
		f.wrong(stream, n, want)
		f.doubled++
		return
	case known:
		if n > want {
			f.wrong(stream, n, want)
		}
		for i := want; i < n; i++ {
			f.lost++
			f.lacks[stream][i] = true
		}
	default:
		f.lacks[stream] = make(map[int]bool)
	}
	f.next[stream] = n + 1
	f.done.Add(1)
	if last {
		f.ended[stream] = true
	}
}

// wrong says what has come instead of what.
func (f *follower) wrong(stream string, n, want int) {
	f.t.Logf("%s, on its visit %d, over %s as %s: got %s number %d, want %d; its offset was %q", f.name, f.visits, f.Transport(), f.ID, stream, n, want, f.offset)
}

// take reads an event. It reports false when the connection has ended.
func (f *follower) take(ctx context.Context) bool {
	short, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	e, err := f.Next(short)
	if err != nil {
		if short.Err() != nil {
			f.t.Errorf("%s gets nothing: %v, %v", f.name, f.next, err)
		}
		return false
	}
	var stream string
	var n int
	var last bool
	to := []any{&stream, &n, &last, &f.offset}
	if e.Name != "n" { // the greeting
		to = []any{new(any), &f.offset}
	}
	for i, to := range to {
		if err := json.Unmarshal(e.Args[i], to); err != nil {
			f.t.Errorf("%s got %s: %v", f.name, e.Args, err)
		}
	}
	if e.Name == "n" {
		f.number(stream, n, last)
	}
	return true
}

// follow takes numbers until the last of each stream has come.
func (f *follower) follow(ctx context.Context, streams int) {
	defer func() { f.Client.Close() }()
	for len(f.ended) < streams && !f.t.Failed() {
		if f.take(ctx) {
			continue
		}
		f.Client.Close()
		if ctx.Err() != nil {
			return
		}
		if !f.come(ctx, f.proxy.Addr()) {
			clear(f.next)
		}
	}
}

// cut cuts the connection every so often, and leads the next one to another node, until over is closed.
func (f *follower) cut(nodes []*node, shortest, longest time.Duration, over <-chan struct{}) {
	rng := rand.New(rand.NewPCG(rand.Uint64(), 8)) // follow has its own
	for at := 0; ; {
		select {
		case <-over:
			return
		case <-time.After(shortest + time.Duration(rng.Int64N(int64(longest-shortest)))):
		}
		at = (at + 1 + rng.IntN(len(nodes)-1)) % len(nodes)
		f.proxy.Lead(nodes[at].addr)
		f.proxy.Cut()
	}
}

// TestClientsBehindAProxyThatCutsMissNothing has each client behind a proxy that cuts its connection every 0.5 to 3 s in a
// soak, oftener elsewhere, and leads the next one to another node. A client that is told that it is recovered has missed
// nothing, and has got nothing twice or out of order. It says how many were, and why the others were not.
func TestClientsBehindAProxyThatCutsMissNothing(t *testing.T) {
	long.Beside(t)
	everywhere(t, func(t *testing.T, brokerURL, addr string) { cutAll(t, brokerURL, addr, hub.Recovery{On: true}) })
}

// TestClientsBehindAProxyThatCutsMissNothingWithALog has everything go through the log.
func TestClientsBehindAProxyThatCutsMissNothingWithALog(t *testing.T) {
	for name, start := range map[string]func(t *testing.T) *backend.Server{
		"redis": func(t *testing.T) *backend.Server { return backend.Redis(t) },
		"nats":  func(t *testing.T) *backend.Server { return backend.JetStream(t, t.TempDir()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := start(t)
			if name == "redis" && s.Kind == backend.StandIn {
				t.Skip("a stand-in keeps no log")
			}
			cutAll(t, s.URL+"?log=5m", s.Addr, hub.Recovery{On: true, Log: true})
		})
	}
}

func cutAll(t *testing.T, brokerURL, addr string, o hub.Recovery) {
	const clients = 24
	messages := amount("TETHER_SOAK_MESSAGES", 10_000, 1_000_000)
	shortest, longest := 100*time.Millisecond, 500*time.Millisecond
	if messages >= 100_000 {
		shortest, longest = 500*time.Millisecond, 3*time.Second
	}
	r := newRig(t, brokerURL, addr, 3, time.Second, hub.Options{Recovery: o}, transport.Options{})
	for _, n := range r.nodes {
		n.hub.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
			if s.Recovered() {
				return nil
			}
			return s.Join(ctx, hub.Room("all"))
		})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	var done atomic.Int64
	defer watched(t, func() string { return fmt.Sprintf("%d of %d messages, %v", done.Load(), messages, r.unrecovered()) })()
	followers := make([]*follower, clients)
	for i := range followers {
		f := &follower{
			guest: guest{t: t, name: fmt.Sprint("f", i), rng: rand.New(rand.NewPCG(uint64(i), 7)), next: map[string]int{}},
			proxy: faultproxy.New(t, r.nodes[0].addr), done: &done, lacks: map[string]map[int]bool{}, ended: map[string]bool{},
		}
		followers[i] = f
		f.come(ctx, f.proxy.Addr())
	}
	began := time.Now()
	over, finished := make(chan struct{}), make(chan struct{})
	var readers, cutters, emitters sync.WaitGroup
	for _, f := range followers {
		readers.Go(func() { f.follow(ctx, 2*len(r.nodes)) })
		cutters.Go(func() { f.cut(r.nodes, shortest, longest, over) })
	}
	for i, n := range r.nodes {
		emitters.Go(func() { r.stream(ctx, i, n, followers, &done, over, finished) })
	}
	for done.Load() < int64(messages) && ctx.Err() == nil && !t.Failed() {
		time.Sleep(10 * time.Millisecond) // the emitters go at the pace of the clients
	}
	took := time.Since(began)
	close(over)
	cutters.Wait()
	readers.Wait()
	close(finished)
	emitters.Wait()
	r.reportResumed(followers, int(done.Load()), took)
}

// stream emits numbers to each client and to all, and from the end of over on each as what may be the last.
func (r *rig) stream(ctx context.Context, i int, n *node, to []*follower, done *atomic.Int64, over, finished <-chan struct{}) {
	for number := 0; !r.t.Failed() && ctx.Err() == nil; number++ {
		last := false
		select {
		case <-finished:
			return
		case <-over:
			last = true
			time.Sleep(50 * time.Millisecond)
		default:
			for int64(number*len(to)*6) > done.Load()+5000 && !isClosed(over) && ctx.Err() == nil && !r.t.Failed() {
				time.Sleep(time.Millisecond)
			}
		}
		for _, f := range to {
			if _, err := n.hub.Emitter().Emit(ctx, hub.User(f.name), "n", fmt.Sprint(i, " ", f.name), number, last); err != nil {
				r.t.Error(err)
				return
			}
		}
		if _, err := n.hub.Emitter().Emit(ctx, hub.Room("all"), "n", fmt.Sprint(i, " all"), number, last); err != nil {
			r.t.Error(err)
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// unrecovered is why clients did not get their sessions back.
func (r *rig) unrecovered() map[string]uint64 {
	why := make(map[string]uint64)
	for _, n := range r.nodes {
		s := n.hub.Stats()
		for reason, n := range map[string]uint64{
			"expired": s.UnrecoveredExpired, "overflowed": s.UnrecoveredOverflowed, "unknown": s.UnrecoveredUnknown,
			"refused": s.UnrecoveredRefused, "node lost": s.UnrecoveredNodeLost, "gap": s.UnrecoveredGap, "question": s.UnrecoveredQuestion,
		} {
			if n > 0 {
				why[reason] += n
			}
		}
	}
	return why
}

func (r *rig) reportResumed(followers []*follower, messages int, took time.Duration) {
	r.t.Helper()
	var lost, doubled, inverted, visits, recovered int
	for _, f := range followers {
		lost, doubled, inverted = lost+f.lost, doubled+f.doubled, inverted+f.inverted
		visits, recovered = visits+f.visits-1, recovered+f.recovered
	}
	why := r.unrecovered()
	figure(r.t, "resume", "%d messages to %d clients in %v: %d lost, %d doubled, %d inverted; %d of %d reconnects recovered (%.2f%%), the others: %v",
		messages, len(followers), took.Round(time.Second), lost, doubled, inverted, recovered, visits, 100*float64(recovered)/float64(max(visits, 1)), why)
	if lost+doubled+inverted > 0 {
		r.t.Errorf("clients that were recovered have lost %d, got %d twice and %d out of order", lost, doubled, inverted)
	}
	told := 0
	for _, n := range why {
		told += int(n)
	}
	if told < visits-recovered {
		r.t.Errorf("%d clients were not recovered, and for %d there is a reason: %v", visits-recovered, told, why)
	}
}
