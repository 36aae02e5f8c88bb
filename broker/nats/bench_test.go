package nats_test

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
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
					up <- struct{}{}
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

func BenchmarkPublish(b *testing.B) {
	s := backend.NATS(b)
	ctx := context.Background()
	data := make([]byte, 128)
	for _, heard := range []bool{true, false} {
		b.Run(fmt.Sprintf("heard=%t", heard), func(b *testing.B) {
			names := subjects(1000)
			p := open(b, s.URL)
			b.Cleanup(func() { p.Close() })
			if heard {
				n := open(b, s.URL)
				begin(b, n)
				if err := n.Subscribe(ctx, names...); err != nil {
					b.Fatal(err)
				}
			}
			b.Run("one", func(b *testing.B) {
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					reach, err := p.Publish(ctx, broker.Message{Subject: names[i%1000], Data: data})
					if err != nil || reach[0].Nobody() == heard {
						b.Fatal(reach, err)
					}
				}
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
			b.Run("parallel64", func(b *testing.B) {
				b.ReportAllocs()
				b.SetParallelism(64 / runtime.GOMAXPROCS(0))
				b.RunParallel(func(pb *testing.PB) {
					for i := 0; pb.Next(); i++ {
						reach, err := p.Publish(ctx, broker.Message{Subject: names[i%1000], Data: data})
						if err != nil || reach[0].Nobody() == heard {
							b.Error(reach, err)
							return
						}
					}
				})
				b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
			b.Run("batch1000", func(b *testing.B) {
				b.ReportAllocs()
				var msgs []broker.Message
				for _, name := range names {
					msgs = append(msgs, broker.Message{Subject: name, Data: data})
				}
				for b.Loop() {
					if _, err := p.Publish(ctx, msgs...); err != nil {
						b.Fatal(err)
					}
				}
				b.ReportMetric(1000*float64(b.N)/b.Elapsed().Seconds(), "msg/s")
			})
		})
	}
}

// BenchmarkDeliver measures one node that gets everything from another.
func BenchmarkDeliver(b *testing.B) {
	s := backend.NATS(b)
	ctx := context.Background()
	names := subjects(1000)
	n, p := open(b, s.URL), open(b, s.URL)
	defer p.Close()
	count := begin(b, n)
	if err := n.Subscribe(ctx, names...); err != nil {
		b.Fatal(err)
	}
	var msgs []broker.Message
	for _, name := range names {
		msgs = append(msgs, broker.Message{Subject: name, Data: make([]byte, 128)})
	}
	done := make(chan error)
	sent := 0
	for b.Loop() {
		go func() {
			_, err := p.Publish(ctx, msgs...)
			done <- err
		}()
		go func() {
			_, err := p.Publish(ctx, msgs...)
			done <- err
		}()
		for range 2 {
			if err := <-done; err != nil {
				b.Fatal(err)
			}
		}
		sent += 2000
	}
	for count.Load() < int64(sent) {
		runtime.Gosched()
	}
	b.ReportMetric(float64(sent)/b.Elapsed().Seconds(), "msg/s")
}

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
