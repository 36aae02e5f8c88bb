package presence_test

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/hubtest"
	"tether/presence"
)

// await waits until a condition holds.
func await(b *testing.B, what string, met func() bool) {
	b.Helper()
	for deadline := time.Now().Add(time.Minute); !met(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			b.Fatalf("it took too long until %s", what)
		}
	}
}

// BenchmarkChange reports how many changes of users are told in a second by three nodes of one process: each is a
// word to an owner, a copy to its deputy, and a hook.
func BenchmarkChange(b *testing.B) {
	var told atomic.Int64
	var mu sync.Mutex
	var sockets []*hub.Socket
	setup := func(br broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(br, hub.Options{Greeting: hub.Greeting{Off: true}, DrainWindow: -1, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		h.Of("/").OnConnect(func(_ context.Context, s *hub.Socket) error {
			mu.Lock()
			defer mu.Unlock()
			sockets = append(sockets, s)
			return nil
		})
		_, err = presence.New(h, presence.Options{Grace: -1, Logger: slog.New(slog.DiscardHandler), OnChange: func(context.Context, presence.Event) { told.Add(1) }})
		return h, err
	}
	c := hubtest.NewCluster(b)
	nodes := []*hubtest.Node{c.Node(setup), c.Node(setup), c.Node(setup)}
	for i := range 150 {
		nodes[i%3].Connect(nil)
	}
	_ = sockets[0].Register(b.Context(), "first")
	await(b, "the cluster decides", func() bool { return told.Load() == 1 })
	const each = 20 // users of a socket
	changes := 0
	for b.Loop() {
		before := told.Load()
		var wg sync.WaitGroup
		for i, s := range sockets {
			wg.Go(func() {
				for k := range each {
					_ = s.Register(b.Context(), fmt.Sprint(i, "-", k))
				}
			})
		}
		wg.Wait()
		all := int64(len(sockets) * each)
		await(b, "all are online", func() bool { return told.Load() == before+all })
		for i, s := range sockets {
			wg.Go(func() {
				for k := range each {
					s.Leave(hub.User(fmt.Sprint(i, "-", k)))
				}
			})
		}
		wg.Wait()
		await(b, "all are offline", func() bool { return told.Load() == before+2*all })
		changes += int(2 * all)
	}
	b.ReportMetric(float64(changes)/b.Elapsed().Seconds(), "changes/s")
}

// BenchmarkRoom has a tenth of the members of a room leave and come back, of 10,000 on ten nodes. It reports what a
// change costs: questions between nodes, and events to each socket that watches.
func BenchmarkRoom(b *testing.B) {
	const members, moving = 10_000, 1000
	var mu sync.Mutex
	var sockets []*hub.Socket
	setup := func(br broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(br, hub.Options{Greeting: hub.Greeting{Off: true}, DrainWindow: -1, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			return nil, err
		}
		p, err := presence.New(h, presence.Options{Logger: slog.New(slog.DiscardHandler)})
		h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
			mu.Lock()
			defer mu.Unlock()
			sockets = append(sockets, s)
			return p.Enter(ctx, s, tea, fmt.Sprint("member-", len(sockets)), nil)
		})
		h.Of("/").OnServerSide("watch", func(ctx context.Context, _ *hub.Message) (any, error) {
			for s := range h.Of("/").Sockets() {
				return nil, p.WatchRoom(ctx, s, tea)
			}
			return nil, nil
		})
		return h, err
	}
	c := hubtest.NewCluster(b)
	var nodes [10]*hubtest.Node
	for i := range nodes {
		nodes[i] = c.Node(setup)
	}
	for i := range members {
		nodes[i%len(nodes)].Connect(nil)
	}
	for range nodes[0].Hub.Emitter().ServerSideEmitAck(b.Context(), "watch").All { // the other nodes
	}
	figures := func() (questions, events uint64) {
		for _, n := range nodes {
			s := n.Hub.Stats()
			questions, events = questions+s.Questions.Complete, events+s.Delivered
		}
		return questions, events
	}
	rest := func() (questions, events uint64) {
		for {
			questions, events = figures()
			time.Sleep(2 * time.Second)
			if q, e := figures(); q == questions && e == events {
				return questions, events
			}
		}
	}
	questions, events := rest()
	changes := 0
	for b.Loop() {
		for _, s := range sockets[:moving] {
			s.Leave(tea)
		}
		rest()
		for i, s := range sockets[:moving] {
			if err := presence.Of(nodes[i%len(nodes)].Hub).Enter(b.Context(), s, tea, fmt.Sprint("member-", i+1), nil); err != nil {
				b.Fatal(err)
			}
		}
		rest()
		changes += 2 * moving
	}
	q, e := rest()
	b.ReportMetric(float64(q-questions)/float64(changes), "questions/change")
	b.ReportMetric(float64(e-events)/float64(changes*(len(nodes)-1)), "events/change/watcher")
}
