package soak

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker/drivers"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/ledger"
	"tether/internal/long"
)

// crew are nodes in processes of their own, of which one after the other is killed and replaced.
type crew struct {
	start func(name string) *child

	mu    sync.Mutex
	nodes []*child // guarded by mu
	n     int      // guarded by mu; that were started
}

// add starts a node.
func (c *crew) add() {
	c.mu.Lock()
	c.n++
	name := fmt.Sprint("node ", c.n)
	c.mu.Unlock()
	node := c.start(name)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, node)
}

// kill kills the oldest.
func (c *crew) kill() {
	c.mu.Lock()
	oldest := c.nodes[0]
	c.nodes = slices.Delete(c.nodes, 0, 1)
	c.mu.Unlock()
	oldest.cmd.Process.Kill()
}

// any is the address of one of them.
func (c *crew) any(rng *rand.Rand) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[rng.IntN(len(c.nodes))].addr
}

// TestNodesAreKilledAndNobodyMissesAnything has three nodes, of which one is killed every few seconds and replaced, while
// two programs emit numbers to each of the clients, and to all. Clients lose their connections by themselves, too. One that
// is told that it is recovered has missed nothing, and has got nothing twice or out of order; and everybody is.
func TestNodesAreKilledAndNobodyMissesAnything(t *testing.T) {
	long.Only(t)
	const every, kills = 8 * time.Second, 2
	t.Run("sentinel", func(t *testing.T) {
		t.Parallel()
		killNodes(t, backend.RedisSentinels(t, backend.RedisProduct).URL, every, kills)
	})
	t.Run("cluster", func(t *testing.T) {
		t.Parallel()
		killNodes(t, backend.RedisCluster(t, backend.RedisProduct, 0).URL, every, kills)
	})
	t.Run("nats", func(t *testing.T) {
		t.Parallel()
		s := backend.JetStream(t, t.TempDir())
		if soakFor > 0 {
			killNodes(t, s.URL, 20*time.Second, int(soakFor/(20*time.Second)))
		} else {
			killNodes(t, s.URL, every, kills)
		}
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		s := backend.Redis(t)
		switch {
		case s.Kind == backend.StandIn:
			t.Skip("a stand-in keeps no log")
		case soakFor > 0:
			killNodes(t, s.URL, 20*time.Second, int(soakFor/(20*time.Second)))
		default:
			killNodes(t, s.URL, every, kills)
		}
	})
}

func killNodes(t *testing.T, url string, every time.Duration, kills int) {
	url += "?log=5m"
	ctx, cancel := context.WithTimeout(t.Context(), time.Duration(kills)*every+3*time.Minute)
	defer cancel()
	c := &crew{start: func(name string) *child { return startChild(t, ledger.New(time.Second), name, url, logEnv+"=1") }}
	for range 3 {
		c.add()
	}
	guests := make([]*guest, 12)
	for i := range guests {
		g := &guest{t: t, name: fmt.Sprint("g", i), rng: rand.New(rand.NewPCG(uint64(i), 7)), next: map[string]int{}}
		g.comeTo(ctx, func() string { return c.any(g.rng) })
		for j := range 2 {
			g.next[fmt.Sprint(j, " all")], g.next[fmt.Sprint(j, " ", g.name)] = 0, 0
		}
		guests[i] = g
	}
	over := make(chan struct{})
	var rounds [2]atomic.Int64 // what each program has emitted
	var emitting, reading sync.WaitGroup
	for i := range rounds {
		emitting.Go(func() { emitRounds(t, ctx, url, i, guests, &rounds[i], over) })
	}
	var read atomic.Int64
	defer watched(t, func() string { return fmt.Sprintf("%d events have arrived", read.Load()) })()
	ended := make(chan struct{})
	for _, g := range guests {
		reading.Go(func() { g.readAll(ctx, c, &rounds, &read, ended) })
	}
	for range kills {
		select {
		case <-time.After(every):
		case <-ctx.Done():
		}
		c.kill()
		c.add()
	}
	<-time.After(every)
	close(over)
	emitting.Wait()
	close(ended)
	reading.Wait()
	visits, recovered := leaveAll(guests)
	if recovered < visits {
		t.Errorf("%d of %d visits are recovered", recovered, visits)
	}
	figure(t, "killed", "%d nodes were killed; %d events, %d of %d visits recovered", kills, read.Load(), recovered, visits)
}

// emitRounds emits a number to each guest and to all again and again, from a program of its own, until over.
func emitRounds(t *testing.T, ctx context.Context, url string, i int, guests []*guest, rounds *atomic.Int64, over chan struct{}) {
	b, err := drivers.Mux().Open(ctx, url)
	if err != nil {
		t.Error(err)
		return
	}
	defer b.Close()
	e := hub.NewEmitter(b, hub.EmitterOptions{})
	for number := 0; ; number++ {
		select {
		case <-over:
			return
		case <-time.After(3 * time.Millisecond):
		}
		for _, g := range guests {
			if _, err := e.Emit(ctx, hub.User(g.name), "n", fmt.Sprint(i, " ", g.name), number); err != nil {
				t.Error(err)
				return
			}
		}
		if _, err := e.Emit(ctx, hub.Room("all"), "n", fmt.Sprint(i, " all"), number); err != nil {
			t.Error(err)
			return
		}
		rounds.Add(1)
	}
}

// readAll reads what is emitted, and comes back when the connection is lost, until it has everything after ended.
func (g *guest) readAll(ctx context.Context, c *crew, rounds *[2]atomic.Int64, read *atomic.Int64, ended chan struct{}) {
	for due := g.rng.IntN(3000); !g.t.Failed(); due-- {
		select {
		case <-ended:
			missing := int64(0)
			for i := range rounds {
				missing += 2*rounds[i].Load() - int64(g.next[fmt.Sprint(i, " all")]+g.next[fmt.Sprint(i, " ", g.name)])
			}
			if missing == 0 {
				return
			}
		default:
		}
		short, cancel := context.WithTimeout(ctx, 10*time.Second)
		ok := g.read(short)
		quiet := short.Err() != nil
		cancel()
		if ok {
			read.Add(1)
		}
		switch {
		case ctx.Err() != nil:
			g.t.Errorf("%s has not got everything: %v", g.name, g.next)
			return
		case ok && due > 0:
			continue
		case ok:
			g.leave()
			due = g.rng.IntN(3000)
		case quiet:
			g.Client.Close() // a half-open connection, or nothing was emitted: as a heartbeat would
		}
		if !g.comeTo(ctx, func() string { return c.any(g.rng) }) {
			g.t.Logf("%s is not recovered", g.name)
			clear(g.next) // what it has missed is not known to it
		}
	}
}
