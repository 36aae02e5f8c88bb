package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
)

// ledger is a broker that only keeps the list of subscriptions; its calls take time.
type ledger struct {
	broker.Broker // nil: nothing else is called

	delay func() // before a call takes effect
	fail  atomic.Int32

	refuse func(subject string) error // of a Subscribe; nil: none

	mu    sync.Mutex
	live  map[string]bool
	calls int
}

var errLedger = errors.New("ledger is closed for the day")

func (l *ledger) change(live bool, subjects []string) []error {
	l.delay()
	if l.fail.Add(-1) >= 0 {
		return broker.Each(len(subjects), errLedger)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.calls++
	errs := make([]error, len(subjects))
	for i, s := range subjects {
		switch {
		case !live:
			delete(l.live, s)
		case l.refuse != nil && l.refuse(s) != nil:
			errs[i] = l.refuse(s)
		default:
			l.live[s] = true
		}
	}
	return errs
}

func (l *ledger) Subscribe(_ context.Context, subjects ...string) []error {
	return l.change(true, subjects)
}

func (l *ledger) Unsubscribe(_ context.Context, subjects ...string) []error {
	return l.change(false, subjects)
}

func (l *ledger) has(subject string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live[subject]
}

func startInterest(t *testing.T, delay time.Duration) (*interest, *ledger) {
	t.Helper()
	l := &ledger{live: map[string]bool{}, delay: func() { <-time.After(rand.N(delay + 1)) }}
	in := newInterest(l, newIndex(), slog.New(slog.DiscardHandler), func(broker.Gap) {})
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { in.run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return in, l
}

func TestWaitReturnsOnlyWhenTheRoomIsSubscribed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, time.Millisecond)
		var wg sync.WaitGroup
		for i := range 2_000 {
			wg.Go(func() {
				subject := fmt.Sprint("room", i%100)
				m := in.join(subject, new(Socket))
				if err := in.wait(t.Context(), m); err != nil {
					t.Error(err)
				}
				if !l.has(subject) {
					t.Errorf("%s is not subscribed after wait", subject)
				}
				in.leave(m)
			})
		}
		wg.Wait()
		synctest.Wait()
	})
}

// Joins and leaves of one room race with slow broker calls; in the end the subscription fits.
func TestSubscriptionsFitTheMembersAfterFlapping(t *testing.T) {
	for round := range 200 {
		synctest.Test(t, func(t *testing.T) {
			in, l := startInterest(t, time.Millisecond)
			var wg sync.WaitGroup
			for tab := range 4 {
				wg.Go(func() {
					for range 10 {
						m := in.join("room", new(Socket))
						<-time.After(rand.N(time.Millisecond))
						in.leave(m)
					}
					if round%2 == 0 && tab == 0 {
						in.join("room", new(Socket))
					}
				})
			}
			wg.Wait()
			<-time.After(time.Second) // on the fake clock: the reconciler is idle afterwards
			synctest.Wait()
			if want := round%2 == 0; l.has("room") != want {
				t.Errorf("subscribed: %v, want %v", !want, want)
			}
			if round%2 != 0 && in.index.rooms() != 0 {
				t.Error("an empty room without a subscription is kept")
			}
		})
	}
}

// The broker may tell that it has ended a subscription when the next one is under way, or there already.
func TestSubscriptionsFitTheMembersWhenEndsAreToldLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, time.Millisecond)
		var wg sync.WaitGroup
		for i := range 2_000 {
			subject := fmt.Sprint("room", i)
			wg.Go(func() {
				m := in.join(subject, new(Socket))
				<-time.After(rand.N(3 * time.Millisecond))
				in.leave(m)
				if i%2 == 0 {
					<-time.After(rand.N(time.Millisecond))
					in.join(subject, new(Socket))
				}
			})
			wg.Go(func() {
				<-time.After(rand.N(4 * time.Millisecond))
				in.drop(broker.Gap{Subjects: []string{subject}, Cause: errLedger})
			})
		}
		wg.Wait()
		<-time.After(time.Second) // on the fake clock: the reconciler is idle afterwards
		synctest.Wait()
		for i := range 2_000 {
			if got := l.has(fmt.Sprint("room", i)); got != (i%2 == 0) {
				t.Errorf("room %d is subscribed: %v", i, got)
			}
		}
		if n := in.index.rooms(); n != 1_000 {
			t.Errorf("%d rooms are kept, want those with members, 1000", n)
		}
	})
}

// ending is a ledger whose backend ends the first subscription before Subscribe has returned.
type ending struct {
	*ledger
	tell func(broker.Gap)
	once sync.Once
}

func (e *ending) Subscribe(ctx context.Context, subjects ...string) []error {
	errs := e.ledger.Subscribe(ctx, subjects...)
	e.once.Do(func() {
		e.ledger.Unsubscribe(ctx, subjects...)
		e.tell(broker.Gap{Subjects: subjects, Cause: errLedger})
	})
	return errs
}

func TestWhatTheBackendEndsAtOnceIsSubscribedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		in.broker = &ending{ledger: l, tell: in.drop}
		in.join("room", new(Socket))
		<-time.After(time.Second) // on the fake clock
		synctest.Wait()
		if !l.has("room") {
			t.Error("the room is not subscribed")
		}
	})
}

func TestASubscriptionThatFailsIsTriedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		l.fail.Store(3)
		m := in.join("room", new(Socket))
		if err := in.wait(t.Context(), m); err != nil {
			t.Fatal(err)
		}
		if !l.has("room") {
			t.Error("not subscribed after wait")
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		l.fail.Store(1 << 20)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		m := in.join("room", new(Socket))
		if err := in.wait(ctx, m); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v, want the context's error", err)
		}
		in.leave(m)
	})
}

func TestWaitDoesNotWaitForARoomThatIsGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		m := in.join("room", new(Socket))
		in.leave(m) // the socket ends before its handler gets to wait
		synctest.Wait()
		if err := in.wait(t.Context(), m); err != nil {
			t.Error(err)
		}
		if l.has("room") {
			t.Error("a room without members is subscribed")
		}
	})
}

func TestManyJoinsShareABrokerCall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		l.delay = func() { <-time.After(time.Millisecond) }
		var wg sync.WaitGroup
		const rooms = 3_000
		for i := range rooms {
			wg.Go(func() {
				if err := in.wait(t.Context(), in.join(fmt.Sprint("room", i), new(Socket))); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if most := rooms/interestBatch + 3; l.calls > most {
			t.Errorf("%d broker calls for %d rooms, want at most %d", l.calls, rooms, most)
		}
	})
}

// Half of the backend is away; the rooms of the other half are subscribed in no time, for as long as it lasts.
func TestWhatFailsHoldsUpNoOtherRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		var back atomic.Bool
		l.refuse = func(subject string) error {
			if strings.HasPrefix(subject, "away") && !back.Load() {
				return broker.ErrUnavailable
			}
			return nil
		}
		away := in.join("away", new(Socket))
		waited := make(chan error, 1)
		go func() { waited <- in.wait(t.Context(), away) }()
		for i := range 100 {
			begin := time.Now()
			if err := in.wait(t.Context(), in.join(fmt.Sprint("here", i), new(Socket))); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); took > 0 {
				t.Fatalf("waited %v behind a room that fails", took)
			}
			time.Sleep(10 * time.Millisecond)
		}
		select {
		case err := <-waited:
			t.Fatalf("the wait for what is away ended: %v", err)
		default:
		}
		back.Store(true)
		if err := <-waited; err != nil || !l.has("away") {
			t.Errorf("after its return: %v, subscribed %v", err, l.has("away"))
		}
	})
}

// A room that cannot be subscribed is tried again after a pause, however many join it meanwhile.
func TestARoomThatFailsIsNotTriedForEachJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		l.delay = func() { <-time.After(10 * time.Millisecond) }
		l.refuse = func(string) error { return broker.ErrUnavailable }
		for range 300 {
			in.join("room", new(Socket))
			time.Sleep(3 * time.Millisecond)
		}
		synctest.Wait()
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.calls < 3 || l.calls > 15 { // the pauses grow to 250 milliseconds and more
			t.Errorf("%d calls of the broker in 900 ms", l.calls)
		}
	})
}

func TestARoomThatIsRefusedFailsItsJoin(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, l := startInterest(t, 0)
		l.refuse = func(subject string) error {
			if subject == "refused" {
				return fmt.Errorf("%w: too many", broker.ErrRefused)
			}
			return nil
		}
		m := in.join("refused", new(Socket))
		if err := in.wait(t.Context(), m); !errors.Is(err, broker.ErrRefused) {
			t.Errorf("got %v, want %v", err, broker.ErrRefused)
		}
		if err := in.wait(t.Context(), in.join("other", new(Socket))); err != nil {
			t.Error(err)
		}
		in.leave(m)
		time.Sleep(2 * interestMaxRefused)
		synctest.Wait()
		if n := in.index.rooms(); n != 1 {
			t.Errorf("%d rooms are left, want the other one", n)
		}
	})
}

// The backend ends subscriptions, also while a call about them is under way: they come back, and the gap
// is reported once.
func TestWhatTheBackendEndsIsSubscribedAgain(t *testing.T) {
	for name, underWay := range map[string]bool{"idle": false, "under way": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				in, l := startInterest(t, 0)
				var mu sync.Mutex
				var gaps []broker.Gap // guarded by mu
				in.gap = func(g broker.Gap) {
					mu.Lock()
					defer mu.Unlock()
					gaps = append(gaps, g)
				}
				l.delay = func() { time.Sleep(10 * time.Millisecond) } // so the room is missing for a while
				m := in.join("room", new(Socket))
				waited := make(chan error, 1)
				go func() { waited <- in.wait(t.Context(), m) }()
				if !underWay {
					if err := <-waited; err != nil {
						t.Fatal(err)
					}
				}
				synctest.Wait()
				l.mu.Lock()
				delete(l.live, "room")
				l.mu.Unlock()
				in.drop(broker.Gap{From: time.Now(), Subjects: []string{"room", "unknown"}, Cause: errLedger})
				if err := in.missing(); !errors.Is(err, errLedger) {
					t.Errorf("missing is %v", err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if !l.has("room") || in.missing() != nil {
					t.Errorf("subscribed %v, missing %v", l.has("room"), in.missing())
				}
				mu.Lock()
				defer mu.Unlock()
				if len(gaps) != 2 || !slices.Equal(gaps[0].Subjects, []string{"unknown"}) || gaps[1].To.Before(gaps[1].From) || gaps[1].Cause != errLedger {
					t.Errorf("gaps are %v", gaps)
				}
				if underWay {
					if err := <-waited; err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

func TestRoomsThatWereLostTogetherAreOneGap(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in, _ := startInterest(t, 0)
		var gaps []broker.Gap
		in.gap = func(g broker.Gap) { gaps = append(gaps, g) }
		subjects := []string{"a", "b", "c"}
		for _, s := range subjects {
			if err := in.wait(t.Context(), in.join(s, new(Socket))); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait() // a join may return before run is idle
		in.drop(broker.Gap{From: time.Now(), Subjects: subjects, Cause: errLedger})
		time.Sleep(time.Second)
		synctest.Wait()
		if len(gaps) != 1 {
			t.Fatalf("%d gaps: %v", len(gaps), gaps)
		}
		slices.Sort(gaps[0].Subjects)
		if !slices.Equal(gaps[0].Subjects, subjects) {
			t.Errorf("the gap is of %q, want %q", gaps[0].Subjects, subjects)
		}
	})
}
