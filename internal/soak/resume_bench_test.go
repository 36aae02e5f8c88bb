package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tether/hub"
	wire "tether/internal/client"
	"tether/transport"
)

var filling = strings.Repeat("x", 240)

// BenchmarkComingBack has a client miss 1,000 events of 256 bytes or so. It reports the median and the longest time from
// where it begins to connect to the last of them, over a WebSocket.
func BenchmarkComingBack(b *testing.B) {
	for _, where := range []string{"memory", "redis", "nats"} {
		for _, to := range []string{"the same node", "another node"} {
			b.Run(where+"/"+to, func(b *testing.B) {
				url, addr := "memory://", ""
				if start, ok := backends[where]; ok {
					s := start(b)
					url, addr = s.URL, s.Addr
				}
				r := newRig(b, url, addr, 2, time.Second, hub.Options{Recovery: hub.Recovery{On: true}, Greeting: hub.Greeting{Off: true}}, transport.Options{})
				comingBack(b, r, to == "another node")
			})
		}
	}
}

func comingBack(b *testing.B, r *rig, other bool) {
	const events = 1000
	ctx := b.Context()
	var took []time.Duration
	var pid, offset string
	dial := func(n *node) *wire.Client {
		auth := map[string]any{"user": "u", "recovery": true, "pid": pid, "offset": offset}
		c, err := wire.Dial(ctx, wire.Options{URL: "http://" + n.addr, Auth: auth})
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	at := 0
	c := dial(r.nodes[at])
	pid = c.PID
	for b.Loop() {
		b.StopTimer()
		c.Close()
		must(b, "the connection is lost", func() bool { return r.nodes[at].hub.Stats().Parked == 1 })
		for i := range events {
			if _, err := r.nodes[0].hub.Emitter().Emit(ctx, hub.User("u"), "n", i, filling); err != nil {
				b.Fatal(err)
			}
		}
		if other {
			at = 1 - at
		}
		runtime.GC()
		b.StartTimer()
		began := time.Now()
		c = dial(r.nodes[at])
		for i := range events {
			e, err := c.Next(ctx)
			if err != nil {
				b.Fatal(err)
			}
			if want := fmt.Sprint(i); string(e.Args[0]) != want {
				b.Fatalf("got %s, want %s", e.Args[0], want)
			}
			if i == events-1 {
				took = append(took, time.Since(began))
				_ = json.Unmarshal(e.Args[len(e.Args)-1], &offset) // a text
			}
		}
		if c.PID != pid {
			b.Fatalf("it is not recovered: %v", r.unrecovered())
		}
		b.StopTimer()
		if other { // the other node listens on for a moment
			must(b, "the session has moved", func() bool { return r.nodes[1-at].hub.Stats().Parked == 0 })
		}
		b.StartTimer()
	}
	c.Close()
	slices.Sort(took)
	ms := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
	b.ReportMetric(ms(took[len(took)/2]), "ms/median")
	b.ReportMetric(ms(took[len(took)-1]), "ms/longest")
}

// BenchmarkSessionsThatWait has 10,000 clients lose their connections, and reports what the heap has for each of their
// sessions: at once, when 100 events of 256 bytes have come that are for all, and when ten more have come for each.
func BenchmarkSessionsThatWait(b *testing.B) {
	const sessions = 10_000
	for b.Loop() {
		r := newRig(b, "memory://", "", 1, time.Second, hub.Options{
			Recovery: hub.Recovery{On: true, Window: time.Hour}, Greeting: hub.Greeting{Off: true},
		}, transport.Options{})
		n := r.nodes[0]
		visit := func(first, last int, asks bool) {
			each(last-first, 64, func(i int) {
				c, err := wire.Dial(b.Context(), wire.Options{
					URL: "http://" + n.addr, Auth: map[string]any{"user": fmt.Sprint(first + i), "recovery": asks},
				})
				if err != nil {
					b.Error(err)
					return
				}
				c.Close()
			})
			must(b, "all have gone", func() bool { s := n.hub.Stats(); return s.Connections == 0 })
		}
		visit(0, 1000, false) // what is made once
		before := heap()
		visit(0, sessions, true)
		if parked := n.hub.Stats().Parked; parked != sessions {
			b.Fatalf("%d sessions wait", parked)
		}
		emit := func(to hub.Target) {
			if _, err := n.hub.Emitter().Emit(context.Background(), to, "n", rand.Uint32(), filling); err != nil {
				b.Fatal(err)
			}
		}
		empty := heap()
		for range 100 {
			emit(hub.Everyone)
		}
		shared := heap()
		for i := range 10 * sessions {
			emit(hub.User(fmt.Sprint(i % sessions)))
		}
		full := heap()
		each := func(bytes uint64) float64 { return float64(bytes-before) / sessions }
		b.ReportMetric(each(empty), "B/session")
		b.ReportMetric(each(shared), "B/session+100-for-all")
		b.ReportMetric(each(full), "B/session+10-of-its-own")
		b.ReportMetric(float64(full)/(1<<20), "MiB-in-all")
	}
}

// heap is what is in use when the garbage has been collected.
func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse + m.StackInuse
}

// BenchmarkAskLive emits to one client of another node: a receipt that counts nodes, and one that says where clients are
// connected, too.
func BenchmarkAskLive(b *testing.B) {
	for _, where := range []string{"memory", "redis", "nats"} {
		url, addr := "memory://", ""
		if start, ok := backends[where]; ok {
			s := start(b)
			url, addr = s.URL, s.Addr
		}
		r := newRig(b, url, addr, 3, time.Second, hub.Options{Recovery: hub.Recovery{On: true}, Greeting: hub.Greeting{Off: true}}, transport.Options{QueueBytes: 64 << 20}) // emits are faster than the client reads
		c, err := wire.Dial(b.Context(), wire.Options{URL: "http://" + r.nodes[0].addr, Auth: map[string]any{"user": "u", "recovery": true}})
		if err != nil {
			b.Fatal(err)
		}
		read := make(chan struct{})
		go func() { // waited for below
			defer close(read)
			for {
				if _, err := c.Next(b.Context()); err != nil {
					return
				}
			}
		}()
		plain := r.nodes[1].hub.Emitter()
		for name, e := range map[string]*hub.Emitter{"nodes": plain, "live": plain.AskLive()} {
			b.Run(where+"/"+name, func(b *testing.B) {
				for b.Loop() {
					receipt, err := e.Emit(b.Context(), hub.User("u"), "n", filling)
					if err != nil || receipt.Nodes != 1 || name == "live" && receipt.Live.Nodes != 1 {
						b.Fatal(receipt, err)
					}
				}
			})
		}
		c.Close()
		<-read
	}
}
