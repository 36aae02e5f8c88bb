package memory_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"

	"tether/broker"
	"tether/broker/memory"
)

// start runs b until the test ends.
func start(t testing.TB, b broker.Broker, deliver func(broker.Message)) {
	t.Helper()
	done := make(chan error, 1)
	// Owned by the cleanup below.
	go func() { done <- b.Run(context.Background(), broker.Handler{Deliver: deliver}) }()
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Errorf("Close: %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
}

func subscribe(t testing.TB, b broker.Broker, subjects ...string) {
	t.Helper()
	if err := b.Subscribe(context.Background(), subjects...); err != nil {
		t.Fatal(err)
	}
}

func TestPublishersBehindABlockedDeliverQueueInOrderAndThenWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memory.NewBus()
		release := make(chan struct{})
		var got []string
		b := bus.Broker()
		start(t, b, func(m broker.Message) {
			<-release
			got = append(got, string(m.Data))
		})
		subscribe(t, b, "s")

		ctx := context.Background()
		first := make(chan error, 1)
		go func() {
			_, err := b.Publish(ctx, broker.Message{Subject: "s", Data: []byte("0")})
			first <- err
		}()
		synctest.Wait() // the first publisher is inside Deliver

		var want []string
		for i := 1; i <= 1024; i++ {
			if _, err := b.Publish(ctx, broker.Message{Subject: "s", Data: []byte(strconv.Itoa(i))}); err != nil {
				t.Fatal(err)
			}
		}
		short, cancel := context.WithCancel(ctx)
		refused := make(chan error, 1)
		go func() {
			reach, err := b.Publish(short, broker.Message{Subject: "s", Data: []byte("refused")})
			if reach[0].Bound != broker.Unknown {
				err = fmt.Errorf("reach is %v, want unknown", reach[0])
			}
			refused <- err
		}()
		last := make(chan error, 1)
		synctest.Wait()
		cancel()
		if err := <-refused; !errors.Is(err, context.Canceled) {
			t.Fatalf("the publisher past the bound: %v, want %v", err, context.Canceled)
		}
		go func() {
			_, err := b.Publish(ctx, broker.Message{Subject: "s", Data: []byte("1025")})
			last <- err
		}()
		synctest.Wait()
		close(release)
		if err := errors.Join(<-first, <-last); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		for i := range 1026 {
			want = append(want, strconv.Itoa(i))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("delivered %d messages, or out of order: got %v", len(got), got)
		}
	})
}

func TestABlockedDeliverHoldsUpNoOtherSubject(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := memory.NewBus().Broker()
		release := make(chan struct{})
		other := make(chan struct{}, 1)
		start(t, b, func(m broker.Message) {
			if m.Subject == "blocked" {
				<-release
				return
			}
			other <- struct{}{}
		})
		subscribe(t, b, "blocked", "other")
		done := make(chan struct{})
		go func() {
			defer close(done)
			b.Publish(context.Background(), broker.Message{Subject: "blocked"})
		}()
		synctest.Wait()
		reach, err := b.Publish(context.Background(), broker.Message{Subject: "other"})
		if err != nil || reach[0] != (broker.Receipt{Nodes: 1}) {
			t.Fatalf("got %v, %v", reach, err)
		}
		<-other
		close(release)
		<-done
	})
}

func TestRunReturnsOnlyWhenNoDeliverIsInProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memory.NewBus()
		b, pub := bus.Broker(), bus.Broker()
		release := make(chan struct{})
		ctx, cancel := context.WithCancel(context.Background())
		ran := make(chan error, 1)
		go func() {
			ran <- b.Run(ctx, broker.Handler{Deliver: func(broker.Message) { <-release }})
		}()
		subscribe(t, b, "s")
		published := make(chan struct{})
		go func() {
			defer close(published)
			pub.Publish(context.Background(), broker.Message{Subject: "s"})
		}()
		synctest.Wait()
		cancel()
		synctest.Wait()
		select {
		case <-ran:
			t.Fatal("Run returned while Deliver was running")
		default:
		}
		reach, err := pub.Publish(context.Background(), broker.Message{Subject: "s"})
		if err != nil || !reach[0].Nobody() {
			t.Fatalf("a node that is ending was counted: %v, %v", reach, err)
		}
		close(release)
		if err := <-ran; err != nil {
			t.Fatal(err)
		}
		<-published
	})
}

func TestBusyPublishersLeaveTheRestToRunWithoutLosingOrder(t *testing.T) {
	bus := memory.NewBus()
	b := bus.Broker()
	const publishers, each = 8, 5000
	var mu sync.Mutex
	next := make([]int, publishers)
	var delivered sync.WaitGroup
	delivered.Add(publishers * each)
	start(t, b, func(m broker.Message) {
		defer delivered.Done()
		mu.Lock()
		defer mu.Unlock()
		p := m.Data[0]
		seq, _ := strconv.Atoi(string(m.Data[1:]))
		if seq != next[p] {
			t.Errorf("publisher %d: got %d, want %d", p, seq, next[p])
		}
		next[p] = seq + 1
	})
	subscribe(t, b, "s")
	var done sync.WaitGroup
	for p := range publishers {
		done.Go(func() {
			pub := bus.Broker()
			for i := range each {
				m := broker.Message{Subject: "s", Data: strconv.AppendInt([]byte{byte(p)}, int64(i), 10)}
				if reach, err := pub.Publish(context.Background(), m); err != nil || reach[0].Nodes != 1 {
					t.Errorf("got %v, %v", reach, err)
				}
			}
		})
	}
	done.Wait()
	delivered.Wait()
}

// TestPublishersThatWaitForRoomHearOfTheEnd has the subscription end while its queue is full: what it has
// taken is delivered before the call returns, and what waits for room is not taken.
func TestPublishersThatWaitForRoomHearOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		b := memory.NewBus().Broker()
		delivered := 0
		start(t, b, func(broker.Message) { <-release; delivered++ })
		subscribe(t, b, "s")
		ctx := context.Background()
		go b.Publish(ctx, broker.Message{Subject: "s"}) // ends with release
		synctest.Wait()
		for range 1024 {
			if _, err := b.Publish(ctx, broker.Message{Subject: "s"}); err != nil {
				t.Fatal(err)
			}
		}
		waited := make(chan broker.Receipt, 1)
		go func() {
			reach, err := b.Publish(ctx, broker.Message{Subject: "s"})
			if err != nil {
				t.Error(err)
			}
			waited <- reach[0]
		}()
		synctest.Wait()
		ended := make(chan int)
		go func() {
			if err := b.Unsubscribe(ctx, "s"); err != nil {
				t.Error(err)
			}
			ended <- delivered
		}()
		synctest.Wait()
		select {
		case <-ended:
			t.Error("it has returned, and what was taken is not delivered")
		default:
		}
		close(release)
		if n := <-ended; n != 1025 {
			t.Errorf("%d messages were delivered when Unsubscribe returned, want 1025", n)
		}
		if reach := <-waited; !reach.Nobody() {
			t.Errorf("got %v, want nobody", reach)
		}
	})
}

// TestRunDeliversAllThatIsLeftToIt has publishers leave more subjects to Run than it gets to.
func TestRunDeliversAllThatIsLeftToIt(t *testing.T) {
	const subjects, messages = 12, 8
	synctest.Test(t, func(t *testing.T) {
		step := make(chan struct{})
		got := make([]int, subjects)
		b := memory.NewBus().Broker()
		start(t, b, func(m broker.Message) {
			<-step
			i, _ := strconv.Atoi(m.Subject)
			got[i]++
		})
		ctx := context.Background()
		publish := func(subject string) {
			if _, err := b.Publish(ctx, broker.Message{Subject: subject}); err != nil {
				t.Error(err)
			}
		}
		for i := range subjects {
			subscribe(t, b, strconv.Itoa(i))
			go publish(strconv.Itoa(i)) // delivers what others publish, until it has enough
		}
		for n := 1; n < messages; n++ {
			synctest.Wait()
			for i := range subjects {
				publish(strconv.Itoa(i))
			}
			for range subjects {
				select {
				case step <- struct{}{}:
				default:
				}
			}
		}
		close(step)
		synctest.Wait()
		for i, n := range got {
			if n != messages {
				t.Errorf("%d messages of subject %d were delivered, want %d", n, i, messages)
			}
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	bus := memory.NewBus()
	p := bus.Broker()
	start(b, p, func(broker.Message) {})
	subjects := make([]string, 10_000)
	for i := range subjects {
		subjects[i] = "user:" + strconv.Itoa(i)
	}
	subscribe(b, p, subjects...)
	ctx, data := context.Background(), make([]byte, 256)
	b.Run("to one node", func(b *testing.B) {
		b.ReportAllocs()
		msgs := make([]broker.Message, 1)
		for i := 0; b.Loop(); i++ {
			msgs[0] = broker.Message{Subject: subjects[i%len(subjects)], Data: data}
			p.Publish(ctx, msgs...)
		}
	})
	b.Run("to nobody", func(b *testing.B) {
		b.ReportAllocs()
		msgs := []broker.Message{{Subject: "nobody", Data: data}}
		for b.Loop() {
			p.Publish(ctx, msgs...)
		}
	})
	b.Run("parallel", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			msgs := make([]broker.Message, 1)
			for i := 0; pb.Next(); i++ {
				msgs[0] = broker.Message{Subject: subjects[i*7919%len(subjects)], Data: data}
				p.Publish(ctx, msgs...)
			}
		})
	})
	b.Run("parallel on one subject", func(b *testing.B) {
		b.ReportAllocs()
		b.RunParallel(func(pb *testing.PB) {
			msgs := []broker.Message{{Subject: subjects[0], Data: data}}
			for pb.Next() {
				p.Publish(ctx, msgs...)
			}
		})
	})
}

// TestWhatIsLentIsCopiedForWhoKeepsIt lends a message to a peer that borrows, to one that does not, and
// behind one that is being delivered.
func TestWhatIsLentIsCopiedForWhoKeepsIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memory.NewBus()
		keeps, borrows := bus.Broker(), bus.Broker()
		var kept [][]byte
		hold := make(chan struct{})
		start(t, keeps, func(m broker.Message) {
			kept = append(kept, m.Own().Data)
			<-hold
		})
		var lent []string
		ran := make(chan error, 1)
		go func() {
			ran <- borrows.Run(context.Background(), broker.Handler{
				Deliver: func(m broker.Message) { lent = append(lent, string(m.Data)) },
			})
		}()
		subscribe(t, keeps, "s")
		subscribe(t, borrows, "s")

		lend := func(text string) {
			data := []byte(text)
			reach, err := keeps.Publish(context.Background(), broker.Message{Subject: "s", Data: data, Lent: true})
			if err != nil || reach[0].Nodes != 2 {
				t.Errorf("got %v, %v", reach, err)
			}
			clear(data)
		}
		first := make(chan struct{})
		go func() {
			defer close(first)
			lend("first")
		}()
		synctest.Wait() // one of them is being given the first
		lend("second")
		lend("third")
		close(hold)
		<-first
		synctest.Wait()
		if got := string(bytes.Join(kept, []byte(" "))); got != "first second third" {
			t.Errorf("who keeps has %q", got)
		}
		slices.Sort(lent) // behind the first, which waits for the other peer, come those that were lent at once
		if want := []string{"first", "second", "third"}; !slices.Equal(lent, want) {
			t.Errorf("who borrows has had %q, want %q", lent, want)
		}
		if err := borrows.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ran; err != nil {
			t.Error(err)
		}
	})
}
