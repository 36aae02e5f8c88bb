package redis_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/internal/backend"
)

// observer is a node that notes what it is told.
type observer struct {
	t *testing.T
	b broker.Broker

	mu      sync.Mutex
	got     map[string]bool // guarded by mu; data
	gaps    []broker.Gap    // guarded by mu
	lost    []broker.Gap    // guarded by mu
	states  []error         // guarded by mu
	changed chan struct{}   // guarded by mu
}

func observe(t *testing.T, b broker.Broker) *observer {
	t.Helper()
	o := &observer{t: t, b: b, got: make(map[string]bool), changed: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	note := func(f func()) {
		o.mu.Lock()
		defer o.mu.Unlock()
		f()
		close(o.changed)
		o.changed = make(chan struct{})
	}
	go func() { // ended says that it is over
		ended <- b.Run(ctx, broker.Handler{
			Deliver: func(m broker.Message) { note(func() { o.got[m.Subject+" "+string(m.Data)] = true }) },
			Gap:     func(g broker.Gap) { note(func() { o.gaps = append(o.gaps, g) }) },
			Lost:    func(g broker.Gap) { note(func() { o.lost = append(o.lost, g) }) },
			State:   func(err error) { note(func() { o.states = append(o.states, err) }) },
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return o
}

// gapped are the gaps so far.
func (o *observer) gapped() []broker.Gap {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Clone(o.gaps)
}

// await waits until ok, which is called with the lock held.
func (o *observer) await(what string, ok func() bool) {
	o.t.Helper()
	timeout := time.After(time.Minute)
	for {
		o.mu.Lock()
		done, changed := ok(), o.changed
		o.mu.Unlock()
		if done {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			o.mu.Lock()
			defer o.mu.Unlock()
			o.t.Fatalf("waited in vain for %s: states %v, gaps %v, lost %v", what, o.states, o.gaps, o.lost)
		}
	}
}

func (o *observer) awaitState(up bool) {
	o.t.Helper()
	o.await(fmt.Sprintf("up = %t", up), func() bool {
		k := len(o.states)
		return k > 0 && (o.states[k-1] == nil) == up
	})
}

func (o *observer) subscribe(subjects ...string) {
	o.t.Helper()
	if errs := o.b.Subscribe(context.Background(), subjects...); errs != nil {
		o.t.Fatalf("Subscribe: %v", errors.Join(errs...))
	}
}

// undisturbed checks that the node was up all the time, and has missed nothing.
func (o *observer) undisturbed() {
	o.t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.gaps)+len(o.lost) > 0 || len(o.states) != 1 {
		o.t.Errorf("gaps %v, lost %v, states %v", o.gaps, o.lost, o.states)
	}
}

// audit1 publishes one message on a subject that o has, and checks that the receipt is true. It reports whether
// it is exact, and the message has arrived.
func (o *observer) audit1(from broker.Broker, subject string, i int) bool {
	o.t.Helper()
	data := strconv.Itoa(i)
	r, err := from.Publish(context.Background(), broker.Message{Subject: subject, Data: []byte(data)})
	if err != nil {
		return false
	}
	if r[0].Nobody() || r[0].Bound == broker.Exact && r[0].Nodes != 1 {
		o.t.Errorf("message %d: %v, and one has subscribed", i, r[0])
	}
	if r[0].Bound != broker.Exact {
		return false
	}
	o.await("message "+data, func() bool { return o.got[subject+" "+data] })
	return true
}

// awaitExact publishes until receipts are exact.
func (o *observer) awaitExact(from broker.Broker, subject string, base int) {
	o.t.Helper()
	for begin, i := time.Now(), base; !o.audit1(from, subject, i); i++ {
		if time.Since(begin) > 20*time.Second {
			o.t.Fatal("receipts are not exact again")
		}
		<-time.After(20 * time.Millisecond)
	}
}

// do sends a command.
func do(t *testing.T, addr string, args ...any) any {
	t.Helper()
	c := goredis.NewClient(&goredis.Options{Addr: addr, MaxRetries: -1})
	defer c.Close()
	v, err := c.Do(context.Background(), args...).Result()
	if err != nil && !errors.Is(err, goredis.Nil) {
		t.Fatalf("%v: %v", args, err)
	}
	return v
}

func quiet(tb testing.TB, addr, user, password string) broker.Broker {
	tb.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: addr, Username: user, Password: password})
	b, err := newBroker(client)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { b.Close(); client.Close() })
	return b
}

// follow makes a server a replica, and waits for it.
func follow(t *testing.T, replica, master *backend.Server) {
	t.Helper()
	do(t, replica.Addr, append([]any{"REPLICAOF"}, hostPort(master.Addr)...)...)
	for begin := time.Now(); !strings.Contains(fmt.Sprint(do(t, replica.Addr, "ROLE")), "connected"); <-time.After(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatal("the replica does not follow")
		}
	}
}

func hostPort(addr string) []any {
	host, port, _ := strings.Cut(addr, ":")
	return []any{host, port}
}

// safeBuffer is a buffer for a logger.
type safeBuffer struct {
	mu sync.Mutex
	b  strings.Builder // guarded by mu
}

func (s *safeBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *safeBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
