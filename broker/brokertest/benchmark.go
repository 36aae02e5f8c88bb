package brokertest

import (
	"context"
	"fmt"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
)

// Benchmark measures a driver: publishing to one of 1,000 subjects that one other node has, one call
// at a time, 64 at a time, and 1,000 messages a call, each until the last has been delivered; and
// subscribing. Messages have 256 bytes.
func Benchmark(b *testing.B, h Harness) {
	b.Run("publish one at a time", func(b *testing.B) {
		p, subjects, wait := benchPair(b, h)
		for i := range b.N {
			benchPublish(b, p, benchMessage(subjects, i))
		}
		wait(b.N)
	})
	b.Run("publish 64 at a time", func(b *testing.B) {
		p, subjects, wait := benchPair(b, h)
		var next atomic.Int64
		b.SetParallelism(32)
		b.RunParallel(func(pb *testing.PB) {
			for pb.Next() {
				benchPublish(b, p, benchMessage(subjects, int(next.Add(1))))
			}
		})
		wait(b.N)
	})
	b.Run("publish 1000 a call", func(b *testing.B) {
		p, subjects, wait := benchPair(b, h)
		msgs := make([]broker.Message, 1000)
		for sent := 0; sent < b.N; {
			n := min(len(msgs), b.N-sent)
			for i := range n {
				msgs[i] = benchMessage(subjects, i)
			}
			benchPublish(b, p, msgs[:n]...)
			sent += n
		}
		wait(b.N)
	})
	b.Run("publish to nobody 1000 a call", func(b *testing.B) {
		p := publisher(b, h)
		msgs := make([]broker.Message, 1000)
		for i := range msgs {
			msgs[i] = broker.Message{Subject: "nobody:" + strconv.Itoa(i), Data: benchData}
		}
		for sent := 0; sent < b.N; sent += len(msgs) {
			benchPublish(b, p, msgs[:min(len(msgs), b.N-sent)]...)
		}
		b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "msg/s")
	})
	for _, batch := range []int{1, 1000} {
		b.Run(fmt.Sprintf("subscribe %d a call", batch), func(b *testing.B) {
			n := start(b, h)
			names := make([]string, b.N)
			for i := range names {
				names[i] = "subscribe:" + strconv.Itoa(i)
			}
			b.ResetTimer()
			for len(names) > 0 {
				k := min(batch, len(names))
				n.subscribe(names[:k]...)
				names = names[k:]
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "subjects/s")
		})
	}
}

var benchData = make([]byte, 256)

func benchMessage(subjects []string, i int) broker.Message {
	return broker.Message{Subject: subjects[i%len(subjects)], Data: benchData}
}

func benchPublish(b *testing.B, p broker.Broker, msgs ...broker.Message) {
	if _, err := p.Publish(context.Background(), msgs...); err != nil {
		b.Error(err)
	}
}

// benchPair returns a publisher, the subjects of another node, and a function that waits until the
// other has received n messages and reports the rate.
func benchPair(b *testing.B, h Harness) (p broker.Broker, subjects []string, wait func(n int)) {
	b.Helper()
	var count atomic.Int64
	var gaps atomic.Int64
	node := h.New(b)
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(context.Background())
	go func() { // owned by the cleanup below
		ended <- node.Run(ctx, broker.Handler{
			Deliver: func(broker.Message) { count.Add(1) },
			Gap:     func(broker.Gap) { gaps.Add(1) },
		})
	}()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Errorf("Run: %v", err)
		}
		closeBroker(b, node)
	})
	for i := range 1000 {
		subjects = append(subjects, "bench:"+strconv.Itoa(i))
	}
	if err := node.Subscribe(ctx, subjects...); err != nil {
		b.Fatal(err)
	}
	p = publisher(b, h)
	benchPublish(b, p, broker.Message{Subject: "nobody"})
	b.ReportAllocs()
	b.ResetTimer()
	return p, subjects, func(n int) {
		b.Helper()
		deadline := time.Now().Add(patience)
		for count.Load() < int64(n) && gaps.Load() == 0 {
			if time.Now().After(deadline) {
				b.Fatalf("%d of %d messages arrived", count.Load(), n)
			}
			<-time.After(100 * time.Microsecond)
		}
		if gaps.Load() > 0 {
			b.Fatal("a gap: the subscriber was cut off")
		}
		b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "msg/s")
	}
}
