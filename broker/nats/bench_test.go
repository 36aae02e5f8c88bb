package nats_test

import (
	"context"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/internal/backend"
)

// begin runs a broker that counts what it is delivered.
func begin(tb testing.TB, b broker.Broker) *atomic.Int64 {
	tb.Helper()
	var count atomic.Int64
	up, ended := make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(ended)
		err := b.Run(context.Background(), broker.Handler{
			Deliver: func(broker.Message) { count.Add(1) },
			State: func(err error) {
				if err == nil {
					select {
					case up <- struct{}{}:
					default:
					}
				}
			},
		})
		if err != nil {
			tb.Errorf("Run: %v", err)
		}
	}()
	tb.Cleanup(func() {
		b.Close()
		<-ended
	})
	<-up
	return &count
}

func subjects(n int) []string {
	s := make([]string, n)
	for i := range s {
		s[i] = "user:" + strconv.Itoa(i)
	}
	return s
}

func BenchmarkBroker(b *testing.B) { brokertest.Benchmark(b, harness(backend.NATS(b))) }

// BenchmarkBrokerInACluster has publishers and subscribers at different servers.
func BenchmarkBrokerInACluster(b *testing.B) {
	brokertest.Benchmark(b, clusterHarness(backend.NATSCluster(b, 3, backend.NATSRoutes{})))
}

// BenchmarkSubscribe100k also restarts the server and takes the time until the last subject is live.
func BenchmarkSubscribe100k(b *testing.B) {
	s := backend.NATS(b)
	ctx := context.Background()
	names := subjects(100_000)
	for b.Loop() {
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		n := open(b, s.URL)
		begin(b, n)
		start := time.Now()
		if err := n.Subscribe(ctx, names...); err != nil {
			b.Fatal(err)
		}
		subscribed := time.Now()
		runtime.GC()
		runtime.ReadMemStats(&after)
		if s.Restartable() {
			p := open(b, s.URL)
			s.Restart()
			restarted := time.Now()
			for {
				reach, err := p.Publish(ctx, broker.Message{Subject: names[99_999]})
				if err == nil && !reach[0].Nobody() {
					break
				}
			}
			b.ReportMetric(time.Since(restarted).Seconds(), "s/restart")
			p.Close()
		}
		leave := time.Now()
		if err := n.Unsubscribe(ctx, names...); err != nil {
			b.Fatal(err)
		}
		b.ReportMetric(subscribed.Sub(start).Seconds(), "s/subscribe")
		b.ReportMetric(time.Since(leave).Seconds(), "s/unsubscribe")
		b.ReportMetric(float64(after.HeapInuse-before.HeapInuse)/100_000, "B/subject")
		b.ReportMetric(float64(runtime.NumGoroutine()), "goroutines")
		n.Close()
	}
}

// BenchmarkBareClient is nats.go alone, with the messages and subjects of BenchmarkBroker and without receipts.
func BenchmarkBareClient(b *testing.B) {
	s := backend.NATS(b)
	sub, pub := connect(b, s.URL), connect(b, s.URL)
	names, in := subjects(1000), make(chan *natsio.Msg, 1<<20)
	for _, name := range names {
		if _, err := sub.ChanSubscribe(name, in); err != nil {
			b.Fatal(err)
		}
	}
	if err := sub.Flush(); err != nil {
		b.Fatal(err)
	}
	data := make([]byte, 256)
	b.ReportAllocs()
	b.ResetTimer()
	go func() { // ends before the benchmark does, which waits for every message
		for i := range b.N {
			if err := pub.Publish(names[i%len(names)], data); err != nil {
				b.Error(err)
			}
		}
	}()
	for range b.N {
		<-in
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
}
