package cluster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/drivers"
	"tether/broker/memory"
	"tether/cluster"
	"tether/internal/backend"
)

// BenchmarkQuestion is how long a question to 1, 2 and 10 nodes takes that answer at once: the median, and
// what one in a hundred takes longer than, in microseconds. Beside it stands the broker's own way there and back:
// a message to a node that publishes one to the sender.
//
//	go test ./cluster -run xxx -bench Question
func BenchmarkQuestion(b *testing.B) {
	for _, kind := range []string{"memory", "redis", "nats"} {
		open := opener(b, kind)
		b.Run(kind+"/there and back", func(b *testing.B) { benchmarkRoundTrip(b, open) })
		for _, n := range []int{1, 2, 10} {
			b.Run(fmt.Sprintf("%s/%d nodes", kind, n), func(b *testing.B) { benchmarkQuestion(b, open, n) })
		}
	}
}

// opener returns a function that opens one more node on one backend.
func opener(b *testing.B, kind string) func(b *testing.B) broker.Broker {
	bus := memory.NewBus()
	if kind == "memory" {
		return func(*testing.B) broker.Broker { return bus.Broker() }
	}
	server := backend.Redis
	if kind == "nats" {
		server = backend.NATS
	}
	url := server(b).URL
	return func(b *testing.B) broker.Broker {
		k, err := drivers.Mux().Open(b.Context(), url)
		if err != nil {
			b.Fatal(err)
		}
		return k
	}
}

// serve runs a node until the benchmark ends.
func serve(b *testing.B, k broker.Broker, tag string) *cluster.Node {
	n := cluster.New(k, cluster.Options{
		Prefix: b.Name(), Tag: tag, Head: []byte{0},
		Self:   func() cluster.Member { return cluster.Member{Name: tag} },
		Answer: func(ctx context.Context, q *cluster.Request) error { return q.Send(ctx, []byte("here")) },
	})
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() { ended <- n.Serve(ctx, func() { close(up) }) }() // the cleanup waits for it
	<-up
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
		k.Close()
	})
	return n
}

func benchmarkQuestion(b *testing.B, open func(*testing.B) broker.Broker, n int) {
	subject := b.Name() + " subject"
	var asker *cluster.Node
	for i := range n {
		k := open(b)
		asker = serve(b, k, fmt.Sprint("node", i))
		if errs := k.Subscribe(b.Context(), subject); errs != nil {
			b.Fatal(errs)
		}
	}
	if _, err := asker.AwaitMembers(b.Context()); err != nil {
		b.Fatal(err)
	}
	measure(b, func() {
		a := asker.Ask(b.Context(), cluster.Question{Subject: subject})
		got := 0
		for range a.Pages {
			got++
		}
		if got != n || a.Err() != nil || a.Missing() != nil {
			b.Fatalf("%d answers of %d: %v, missing %v", got, n, a.Err(), a.Missing())
		}
	})
}

func benchmarkRoundTrip(b *testing.B, open func(*testing.B) broker.Broker) {
	there, back := b.Name()+" there", b.Name()+" back"
	asked, answered := make(chan struct{}, 1), make(chan struct{}, 1)
	run := func(subject string, c chan struct{}) broker.Broker {
		k := open(b)
		ended := make(chan error, 1)
		go func() { // the cleanup waits for it
			ended <- k.Run(context.Background(), broker.Handler{Deliver: func(broker.Message) { c <- struct{}{} }})
		}()
		if errs := k.Subscribe(b.Context(), subject); errs != nil {
			b.Fatal(errs)
		}
		b.Cleanup(func() { k.Close(); <-ended })
		return k
	}
	one, other := run(back, answered), run(there, asked)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() { // the cleanup waits for it
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			case <-asked:
				other.Publish(context.Background(), broker.Message{Subject: back, Data: []byte("here")})
			}
		}
	}()
	b.Cleanup(func() { close(stop); <-stopped })
	measure(b, func() {
		if _, err := one.Publish(b.Context(), broker.Message{Subject: there, Data: []byte("?")}); err != nil {
			b.Fatal(err)
		}
		<-answered
	})
}

// measure reports the median and the 99th percentile.
func measure(b *testing.B, f func()) {
	f() // what is done the first time only
	var took []time.Duration
	for b.Loop() {
		began := time.Now()
		f()
		took = append(took, time.Since(began))
	}
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1000, "µs-median")
	b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1000, "µs-p99")
	b.ReportMetric(0, "ns/op")
}
