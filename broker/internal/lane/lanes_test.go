package lane_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/internal/lane"
)

var one = broker.Receipt{Nodes: 1}

func msg(subject, data string) broker.Message {
	return broker.Message{Subject: subject, Data: []byte(data)}
}

func takeAll(b *lane.Batch) {
	for i := range b.Len() {
		b.Took(i, one)
	}
}

// start returns lanes that the test's end closes.
func start(t testing.TB, o lane.Options) *lane.Lanes {
	l := lane.New(o)
	t.Cleanup(func() {
		l.Close()
		l.Wait()
	})
	return l
}

func TestAReachIsReturnedForEachMessageInTheOrderOfTheCall(t *testing.T) {
	l := start(t, lane.Options{Send: func(_ int, b *lane.Batch) error {
		for i := range b.Len() {
			n, _ := strconv.Atoi(string(b.Message(i).Data))
			b.Took(i, broker.Receipt{Nodes: n})
		}
		return nil
	}})
	for _, n := range []int{0, 1, 2, 5000} {
		var msgs []broker.Message
		var want []broker.Receipt
		for i := range n {
			msgs = append(msgs, msg("s"+strconv.Itoa(i), strconv.Itoa(i)))
			want = append(want, broker.Receipt{Nodes: i})
		}
		got, err := l.Publish(context.Background(), msgs...)
		if err != nil || !slices.Equal(got, want) {
			t.Fatalf("%d messages: got %v, %v", n, got, err)
		}
	}
}

func TestWhatComesDuringAPipelineLeavesTogetherInTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var sizes []int
		l := start(t, lane.Options{Lanes: 1, Send: func(_ int, b *lane.Batch) error {
			sizes = append(sizes, b.Len())
			<-release
			takeAll(b)
			return nil
		}})
		var done sync.WaitGroup
		for range 10 {
			done.Go(func() {
				if _, err := l.Publish(context.Background(), msg("s", "")); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		close(release)
		done.Wait()
		if want := []int{1, 9}; !slices.Equal(sizes, want) {
			t.Fatalf("batches of %v, want %v", sizes, want)
		}
	})
}

func TestConcurrentPublishersKeepTheirOrderAndABatchIsBounded(t *testing.T) {
	const publishers, calls, width = 8, 300, 20
	next := make(map[string]int) // guarded by mu
	var mu sync.Mutex
	l := start(t, lane.Options{MaxMessages: 16, MaxBytes: 256, MaxQueue: 64, Send: func(_ int, b *lane.Batch) error {
		if b.Len() > 16 {
			t.Errorf("a batch of %d messages", b.Len())
		}
		mu.Lock()
		defer mu.Unlock()
		for i := range b.Len() {
			m := b.Message(i)
			if seq := strconv.Itoa(next[m.Subject]); string(m.Data) != seq {
				t.Errorf("%s: got %s, want %s", m.Subject, m.Data, seq)
			}
			next[m.Subject]++
			b.Took(i, one)
		}
		return nil
	}})
	var done sync.WaitGroup
	for p := range publishers {
		done.Go(func() {
			seq := make([]int, 7)
			for range calls {
				var msgs []broker.Message
				for i := range width {
					s := i % len(seq)
					msgs = append(msgs, msg(fmt.Sprintf("%d/%d", p, s), strconv.Itoa(seq[s])))
					seq[s]++
				}
				if _, err := l.Publish(context.Background(), msgs...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done.Wait()
}

func TestACancelledCallReturnsAtOnceAndWhatWasNotSentNeverIs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var sent []string
		l := start(t, lane.Options{Lanes: 1, Send: func(_ int, b *lane.Batch) error {
			<-release
			for i := range b.Len() {
				sent = append(sent, string(b.Message(i).Data))
			}
			takeAll(b)
			return nil
		}})
		ctx, cancel := context.WithCancel(context.Background())
		var done sync.WaitGroup
		publish := func(ctx context.Context, data string, want error) {
			done.Go(func() {
				reach, err := l.Publish(ctx, msg("s", data))
				if !errors.Is(err, want) || err != nil && reach[0].Bound != broker.Unknown {
					t.Errorf("%s: got %v, %v, want %v", data, reach, err, want)
				}
			})
			synctest.Wait()
		}
		publish(ctx, "in flight", context.Canceled)
		publish(ctx, "waiting", context.Canceled)
		publish(context.Background(), "kept", nil)
		cancel()
		synctest.Wait()
		close(release)
		done.Wait()
		if want := []string{"in flight", "kept"}; !slices.Equal(sent, want) {
			t.Fatalf("sent %q, want %q", sent, want)
		}
	})
}

func TestASilentBackendFailsACallAfterTheTimeoutAndASlowOneDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var pause atomic.Int64
		pause.Store(int64(10 * time.Second))
		l := start(t, lane.Options{Lanes: 1, MaxMessages: 1, Send: func(_ int, b *lane.Batch) error {
			time.Sleep(time.Duration(pause.Load()))
			takeAll(b)
			return nil
		}})
		begin := time.Now()
		reach, err := l.Publish(context.Background(), msg("s", ""), msg("s", ""))
		if !errors.Is(err, broker.ErrUnavailable) || reach[0].Bound != broker.Unknown || reach[1].Bound != broker.Unknown {
			t.Fatalf("silent: got %v, %v", reach, err)
		}
		if took := time.Since(begin); took != 1500*time.Millisecond {
			t.Fatalf("silent: took %v", took)
		}
		synctest.Wait()
		time.Sleep(10 * time.Second)
		pause.Store(int64(time.Second))
		msgs := make([]broker.Message, 10)
		for i := range msgs {
			msgs[i] = msg("s", "")
		}
		if _, err := l.Publish(context.Background(), msgs...); err != nil {
			t.Fatalf("slow, but answering every second: %v", err)
		}
	})
}

func TestAnErrorFailsWhatTheBatchLeftUnansweredAndNothingElse(t *testing.T) {
	tooLarge := fmt.Errorf("test: %w", broker.ErrTooLarge)
	broken := errors.New("broken")
	l := start(t, lane.Options{
		Lanes: 1,
		Check: func(m broker.Message) error {
			if m.Subject == "large" {
				return tooLarge
			}
			return nil
		},
		Send: func(_ int, b *lane.Batch) error {
			for i := range b.Len() {
				switch b.Message(i).Subject {
				case "good":
					b.Took(i, one)
				case "later":
					p := b.Later(i)
					go p.Took(broker.Receipt{Nodes: 3, Bound: broker.AtLeast})
				case "refused":
					b.Fail(i, errors.ErrUnsupported)
				}
			}
			return broken
		},
	})
	none := broker.Receipt{Bound: broker.Unknown}
	later := broker.Receipt{Nodes: 3, Bound: broker.AtLeast}
	for _, c := range []struct {
		subjects []string
		reach    []broker.Receipt
		err      error
	}{
		{[]string{"good"}, []broker.Receipt{one}, nil},
		{[]string{"later"}, []broker.Receipt{later}, nil},
		{[]string{"large"}, []broker.Receipt{none}, broker.ErrTooLarge},
		{[]string{"good", "large", "later"}, []broker.Receipt{one, none, later}, broker.ErrTooLarge},
		{[]string{"large", "large"}, []broker.Receipt{none, none}, broker.ErrTooLarge},
		{[]string{"good", "refused", "lost", "good"}, []broker.Receipt{one, none, none, one}, errors.ErrUnsupported},
		{[]string{"lost", "good"}, []broker.Receipt{none, one}, broken},
	} {
		var msgs []broker.Message
		for _, s := range c.subjects {
			msgs = append(msgs, msg(s, ""))
		}
		reach, err := l.Publish(context.Background(), msgs...)
		if !slices.Equal(reach, c.reach) || !errors.Is(err, c.err) {
			t.Errorf("%q: got %v, %v, want %v, %v", c.subjects, reach, err, c.reach, c.err)
		}
	}
}

func TestAFullLaneMakesPublishersWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := start(t, lane.Options{Lanes: 1, MaxMessages: 1, MaxQueue: 2, Send: func(_ int, b *lane.Batch) error {
			<-release
			takeAll(b)
			return nil
		}})
		var done sync.WaitGroup
		for range 3 { // one in flight, two queued
			done.Go(func() {
				if _, err := l.Publish(context.Background(), msg("s", "")); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait()
		}
		ctx, cancel := context.WithCancel(context.Background())
		done.Go(func() {
			if _, err := l.Publish(ctx, msg("s", "")); !errors.Is(err, context.Canceled) {
				t.Errorf("waiting for room: %v", err)
			}
		})
		done.Go(func() {
			if _, err := l.Publish(context.Background(), msg("s", ""), msg("s", ""), msg("s", "")); err != nil {
				t.Errorf("waiting for room: %v", err)
			}
		})
		synctest.Wait()
		cancel()
		synctest.Wait()
		close(release)
		done.Wait()
	})
}

func TestCloseEndsCallsThatWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		l := lane.New(lane.Options{Lanes: 1, Send: func(_ int, b *lane.Batch) error {
			<-release
			return errors.New("interrupted")
		}})
		var done sync.WaitGroup
		for range 3 {
			done.Go(func() {
				if _, err := l.Publish(context.Background(), msg("s", "")); !errors.Is(err, broker.ErrClosed) {
					t.Errorf("got %v, want %v", err, broker.ErrClosed)
				}
			})
		}
		synctest.Wait()
		l.Close()
		done.Wait()
		close(release)
		l.Wait()
		l.Close()
		if _, err := l.Publish(context.Background(), msg("s", "")); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("after Close: got %v, want %v", err, broker.ErrClosed)
		}
	})
}

func BenchmarkPublish(b *testing.B) {
	for _, lanes := range []int{1, 4} {
		l := start(b, lane.Options{Lanes: lanes, Send: func(_ int, batch *lane.Batch) error {
			takeAll(batch)
			return nil
		}})
		b.Run(fmt.Sprintf("%d lanes, one at a time", lanes), func(b *testing.B) {
			b.ReportAllocs()
			m := []broker.Message{msg("s", "x")}
			for b.Loop() {
				l.Publish(context.Background(), m...)
			}
		})
		b.Run(fmt.Sprintf("%d lanes, 1000 at a time", lanes), func(b *testing.B) {
			b.ReportAllocs()
			var m []broker.Message
			for i := range 1000 {
				m = append(m, msg("subject "+strconv.Itoa(i), "x"))
			}
			for b.Loop() {
				l.Publish(context.Background(), m...)
			}
		})
		b.Run(fmt.Sprintf("%d lanes, parallel", lanes), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(32)
			b.RunParallel(func(pb *testing.PB) {
				m := []broker.Message{msg("s", "x")}
				for pb.Next() {
					l.Publish(context.Background(), m...)
				}
			})
		})
	}
}
