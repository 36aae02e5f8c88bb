package brokertest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
	"tether/internal/long"
)

// node is a running broker and what it was told.
type node struct {
	tb testing.TB
	b  broker.Broker

	end   context.CancelFunc // ends Run
	ended chan struct{}      // closed when Run has returned
	err   error              // of Run; valid when ended is closed

	delivering sync.Map // subject -> *atomic.Int32, to see two at a time

	mu      sync.Mutex
	got     map[string][]string // guarded by mu; data by subject, in order
	count   int                 // guarded by mu
	gaps    []broker.Gap        // guarded by mu
	states  []error             // guarded by mu
	changed chan struct{}       // guarded by mu; closed and replaced at every change
}

// run runs b until the test ends.
func run(tb testing.TB, b broker.Broker) *node {
	tb.Helper()
	ctx, end := context.WithCancel(context.Background())
	n := &node{
		tb: tb, b: b, end: end,
		ended:   make(chan struct{}),
		got:     make(map[string][]string),
		changed: make(chan struct{}),
	}
	go func() { // owned by stop
		defer close(n.ended)
		n.err = b.Run(ctx, broker.Handler{Deliver: n.deliver, Gap: n.gap, State: n.state})
	}()
	tb.Cleanup(n.stop)
	return n
}

// start runs a new node and waits until it is up.
func start(tb testing.TB, h Harness) *node {
	tb.Helper()
	n := run(tb, h.New(tb))
	n.awaitState(nil)
	return n
}

// publisher returns a node that is not running.
func publisher(tb testing.TB, h Harness) broker.Broker {
	b := h.New(tb)
	tb.Cleanup(func() { closeBroker(tb, b) })
	return b
}

func closeBroker(tb testing.TB, b broker.Broker) {
	if err := b.Close(); err != nil {
		tb.Errorf("Close: %v", err)
	}
}

// stop closes the broker and waits for Run.
func (n *node) stop() {
	closeBroker(n.tb, n.b)
	n.awaitEnd()
	n.end()
}

func (n *node) awaitEnd() {
	n.tb.Helper()
	select {
	case <-n.ended:
		if n.err != nil {
			n.tb.Errorf("Run: got %v, want nil", n.err)
		}
	case <-time.After(patience):
		n.tb.Error("Run did not return")
	}
}

func (n *node) deliver(m broker.Message) {
	v, ok := n.delivering.Load(m.Subject)
	if !ok {
		v, _ = n.delivering.LoadOrStore(m.Subject, new(atomic.Int32))
	}
	busy := v.(*atomic.Int32)
	if busy.Add(1) != 1 {
		n.tb.Errorf("two messages of %.40q were delivered at a time", m.Subject)
	}
	defer busy.Add(-1)
	if m.Trace != nil {
		n.tb.Errorf("a message of %.40q was delivered with a trace", m.Subject)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.got[m.Subject] = append(n.got[m.Subject], string(m.Data))
	n.count++
	n.changeLocked()
}

func (n *node) gap(g broker.Gap) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.gaps = append(n.gaps, g)
	n.changeLocked()
}

func (n *node) state(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	part := func(err error) bool { return errors.Is(err, broker.ErrPart) }
	if k := len(n.states); k > 0 && (n.states[k-1] == nil) == (err == nil) && part(n.states[k-1]) == part(err) {
		n.tb.Errorf("State(%v) after State(%v): not a change", err, n.states[k-1])
	}
	n.states = append(n.states, err)
	n.changeLocked()
}

func (n *node) changeLocked() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// await waits until ok, which is called with the lock held, and ends the test if it never is.
func (n *node) await(what string, ok func() bool) {
	n.tb.Helper()
	if !n.within(patience, ok) {
		n.tb.Fatalf("waited in vain for %s", what)
	}
}

func (n *node) within(d time.Duration, ok func() bool) bool {
	timeout := time.After(d)
	for {
		n.mu.Lock()
		done, changed := ok(), n.changed
		n.mu.Unlock()
		if done {
			return true
		}
		select {
		case <-changed:
		case <-timeout:
			return false
		}
	}
}

// awaitState waits until the last state is nil or an error, like want.
func (n *node) awaitState(want error) {
	n.tb.Helper()
	n.await(fmt.Sprintf("State(%v)", want), func() bool {
		k := len(n.states)
		return k > 0 && (n.states[k-1] == nil) == (want == nil)
	})
}

func (n *node) awaitCount(want int) {
	n.tb.Helper()
	n.await(fmt.Sprintf("%d messages", want), func() bool { return n.count >= want })
}

// awaitData waits until the last message of the subject is data.
func (n *node) awaitData(subject, data string) {
	n.tb.Helper()
	n.await(fmt.Sprintf("%.40q on %.40q", data, subject), func() bool {
		got := n.got[subject]
		return len(got) > 0 && got[len(got)-1] == data
	})
}

func (n *node) gapCount() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.gaps)
}

// received returns the data that arrived on a subject.
func (n *node) received(subject string) []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]string(nil), n.got[subject]...)
}

func (n *node) subscribe(subjects ...string) {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n.change("Subscribe", func() []error { return n.b.Subscribe(ctx, subjects...) })
}

func (n *node) unsubscribe(subjects ...string) {
	n.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	n.change("Unsubscribe", func() []error { return n.b.Unsubscribe(ctx, subjects...) })
}

// change makes a call, which may be made twice, until it has not failed because of a busy machine.
func (n *node) change(name string, call func() []error) {
	n.tb.Helper()
	for failed := 0; ; failed++ {
		errs := call()
		if errs == nil {
			return
		}
		if err := errors.Join(errs...); !slow(err) || failed == mostLate {
			n.tb.Fatalf("%s: %v", name, err)
		}
	}
}

// publish publishes one message and ends the test on an error.
func publish(tb testing.TB, b broker.Broker, subject, data string) broker.Receipt {
	tb.Helper()
	for failed := 0; ; failed++ {
		reach, err := tryPublish(b, subject, data)
		if err == nil {
			return reach
		}
		if !slow(err) || failed == mostLate {
			tb.Fatalf("Publish: %v", err)
		}
	}
}

func tryPublish(b broker.Broker, subject, data string) (broker.Receipt, error) {
	reach, err := b.Publish(context.Background(), broker.Message{Subject: subject, Data: []byte(data)})
	if len(reach) != 1 {
		return broker.Receipt{Bound: broker.Unknown}, fmt.Errorf("%d reaches for one message, error %w", len(reach), errors.Join(err))
	}
	if err != nil && reach[0].Bound != broker.Unknown {
		return reach[0], fmt.Errorf("reach is %v with the error %w", reach[0], err)
	}
	return reach[0], err
}

// wantReach checks a receipt against the number of nodes that are there.
func wantReach(tb testing.TB, h Harness, got broker.Receipt, nodes int) {
	tb.Helper()
	switch {
	case nodes == 0 && got.Nobody():
	case h.Bound == broker.Exact && got == broker.Receipt{Nodes: nodes}:
	case nodes > 0 && h.Bound == broker.AtLeast && got.Bound == broker.AtLeast && 1 <= got.Nodes && got.Nodes <= nodes:
	case h.excuses(got):
	default:
		tb.Errorf("the receipt is %+v where %d nodes are subscribed", got, nodes)
	}
}

// excuses reports whether a receipt may be unknown: where receipts count what is acknowledged in time, and a machine
// with other work has kept a few from it.
func (h Harness) excuses(got broker.Receipt) bool {
	return h.Bound == broker.AtLeast && got.Bound == broker.Unknown && shared() && h.late.Add(1) <= mostLate
}

// awaitNobody publishes until it is certain that nobody is there, for deathTime at most.
func awaitNobody(tb testing.TB, b broker.Broker, subject string) {
	tb.Helper()
	await(tb, b, subject, broker.Receipt.Nobody)
}

// awaitUncounted publishes until nobody is counted. A backend that counts acknowledgements cannot tell of a
// node that is silent that it is gone.
func awaitUncounted(tb testing.TB, h Harness, b broker.Broker, subject string) {
	tb.Helper()
	await(tb, b, subject, func(r broker.Receipt) bool {
		return r.Nobody() || h.Bound == broker.AtLeast && r.Bound == broker.Unknown
	})
}

func await(tb testing.TB, b broker.Broker, subject string, ok func(broker.Receipt) bool) {
	tb.Helper()
	begin := time.Now()
	for {
		reach, err := tryPublish(b, subject, "is anybody there?")
		if err == nil && ok(reach) {
			tb.Logf("nobody was counted after %v", time.Since(begin).Round(time.Millisecond))
			return
		}
		if time.Since(begin) > long.Limit(deathTime) {
			tb.Errorf("after %v the receipt is still %+v, %v", time.Since(begin), reach, err)
			return
		}
		pause()
	}
}
