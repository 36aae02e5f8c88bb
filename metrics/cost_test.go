package metrics

import (
	"context"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
	"tether/transport"
)

// BenchmarkCost is what metrics cost: a whole delivery, from the emit to the write to a WebSocket, and beside it what
// an event that carries its time costs more, of which one in 64 does; the additions that each event costs; and a scrape.
func BenchmarkCost(b *testing.B) {
	b.Run("delivery", func(b *testing.B) {
		s := serve(b, memory.NewBus().Broker(), transport.Options{})
		c := s.dial(b)
		b.ReportAllocs()
		var took []time.Duration
		for b.Loop() {
			time.Sleep(100 * time.Microsecond) // so that Emit writes, and leaves it to nobody else
			start := time.Now()
			if _, err := s.hub.Emitter().Emit(context.Background(), hub.User("42"), "/users/ping", "payload"); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start)) // the write is part of it
			if _, err := c.Next(context.Background()); err != nil {
				b.Fatal(err)
			}
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2])/1e3, "µs/delivery")
	})
	b.Run("place in the histogram", func(b *testing.B) {
		c := New()
		b.ReportAllocs()
		for b.Loop() {
			c.Written(named{}, time.Millisecond)
		}
	})
	b.Run("time of a packet", func(b *testing.B) {
		frames := engine.NewPacket(engine.Terms{}, []byte(`42["/users/ping","payload"]`)).Frames()
		b.ReportAllocs()
		for b.Loop() {
			p, err := engine.ParsePacket(engine.Terms{}, frames)
			if err != nil {
				b.Fatal(err)
			}
			p.SetEmitted(time.Now())
		}
	})
	b.Run("additions", func(b *testing.B) { // events, receipts, bytes
		var events, bytes atomic.Uint64
		for b.Loop() {
			events.Add(1)
			bytes.Add(64)
		}
	})
	b.Run("scrape", func(b *testing.B) {
		s := serve(b, memory.NewBus().Broker(), transport.Options{})
		r := prometheus.NewRegistry()
		r.MustRegister(s.collector)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := r.Gather(); err != nil {
				b.Fatal(err)
			}
		}
	})
}
