package brokertest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"testing"
	"time"

	"tether/broker"
	"tether/internal/long"
)

var failures = []test{
	{"a restart of the backend is a gap that hides nothing", testRestart},
	{"many subjects are live again after a restart", testRestartMany},
	{"a silent backend is noticed, and fails fast", testPaused},
	{"a context ends calls to a silent backend", testPausedContext},
	{"what was asked for during an outage holds afterwards", testOutageCalls},
	{"a frozen node is not counted, and loses nothing in secret", testFrozen},
	{"Close ends calls to a silent backend", testPausedClose},
}

func (n *node) awaitGaps(want int) {
	n.tb.Helper()
	n.await(fmt.Sprintf("gap %d", want), func() bool { return len(n.gaps) >= want })
}

// awaitDelivery publishes until something arrives.
func awaitDelivery(t *testing.T, n *node, p broker.Broker, subject string) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for i := 0; ; i++ {
		data := "probe " + strconv.Itoa(i)
		reach, err := tryPublish(p, subject, data)
		if err == nil && !reach.Nobody() && n.within(100*time.Millisecond, func() bool {
			got := n.got[subject]
			return len(got) > 0 && got[len(got)-1] == data
		}) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing arrives any more; Publish says %+v, %v", reach, err)
		}
		pause()
	}
}

// publishUntilSure publishes again and again until no receipt is less than the harness promises, and
// returns how often that did not fail: as others may not have come back from an outage yet, an exact count may be no more
// than a lower bound for some seconds.
func publishUntilSure(t *testing.T, h Harness, p broker.Broker, msgs []broker.Message) ([]broker.Receipt, int) {
	t.Helper()
	begin := time.Now()
	n := 0
	for {
		reach, err := p.Publish(context.Background(), msgs...)
		if err == nil {
			n++
		} else if !slow(err) {
			t.Fatal(err)
		}
		if err == nil && !slices.ContainsFunc(reach, func(r broker.Receipt) bool { return r.Bound > h.Bound }) {
			t.Logf("receipts are what they should be after %v", time.Since(begin).Round(time.Millisecond))
			return reach, n
		}
		if time.Since(begin) > long.Limit(deathTime) {
			t.Fatalf("after %v some of the receipts are lower bounds still", time.Since(begin))
		}
		<-time.After(100 * time.Millisecond)
	}
}

func testRestart(t *testing.T, h Harness) {
	if h.Stop == nil || h.Start == nil {
		t.Skip("this backend cannot be restarted here")
	}
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s", "other")
	for round := range 3 {
		end := leaveTrail(p, fmt.Sprint("trail", round))
		n.subscribe(fmt.Sprint("trail", round))
		n.await("the trail", func() bool { return len(n.got[fmt.Sprint("trail", round)]) > 20 })
		h.Stop(t)
		n.awaitState(errors.ErrUnsupported)
		h.Start(t)
		begin := time.Now()
		n.awaitState(nil)
		t.Logf("back %v after the server", time.Since(begin).Round(time.Millisecond))
		if took := time.Since(begin); took > long.Limit(5*time.Second) {
			t.Errorf("back only after %v", took)
		}
		awaitDelivery(t, n, p, "s")
		all := end()
		publish(t, p, fmt.Sprint("trail", round), "end")
		n.awaitData(fmt.Sprint("trail", round), "end")
		n.awaitGaps(round + 1)
		checkSince(t, n, fmt.Sprint("trail", round), all)
	}
}

func testRestartMany(t *testing.T, h Harness) {
	if h.Stop == nil || h.Start == nil {
		t.Skip("this backend cannot be restarted here")
	}
	n, p := start(t, h), publisher(t, h)
	const many = 5000
	var names []string
	var msgs []broker.Message
	for i := range many {
		names = append(names, "many:"+strconv.Itoa(i))
		msgs = append(msgs, broker.Message{Subject: names[i]})
	}
	n.subscribe(names...)
	h.Stop(t)
	n.awaitState(errors.ErrUnsupported)
	h.Start(t)
	n.awaitState(nil)
	n.awaitGaps(1)
	awaitDelivery(t, n, p, names[0]) // the publisher is back, too
	n.mu.Lock()
	before := n.count
	n.mu.Unlock()
	reach, rounds := publishUntilSure(t, h, p, msgs)
	for i := range reach {
		wantReach(t, h, reach[i], 1)
	}
	n.awaitCount(before + rounds*many)
}

func needsPause(t *testing.T, h Harness) {
	if h.Pause == nil || h.Resume == nil {
		t.Skip("this backend cannot be made to fall silent here")
	}
}

func testPaused(t *testing.T, h Harness) {
	needsPause(t, h)
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s", "trail")
	publish(t, p, "s", "before")
	end := leaveTrail(p, "trail")
	n.await("the trail", func() bool { return len(n.got["trail"]) > 20 })

	h.Pause(t)
	begin := time.Now()
	if _, err := tryPublish(n.b, "s", "lost"); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Publish to a silent backend: got %v, want %v", err, broker.ErrUnavailable)
	}
	if took := time.Since(begin); took > long.Limit(2500*time.Millisecond) {
		t.Errorf("Publish to a silent backend took %v", took)
	}
	n.awaitState(errors.ErrUnsupported)
	took := time.Since(begin)
	t.Logf("noticed after %v", took.Round(time.Millisecond))
	if took > long.Limit(4*time.Second) {
		t.Errorf("the silence was noticed after %v", took)
	}
	h.Resume(t)
	n.awaitState(nil)
	n.awaitGaps(1)
	awaitDelivery(t, n, p, "s")
	all := end()
	publish(t, p, "trail", "end")
	n.awaitData("trail", "end")
	checkTrail(t, n, "trail", all)
}

func testPausedContext(t *testing.T, h Harness) {
	needsPause(t, h)
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s", "gone")
	publish(t, p, "s", "before")
	h.Pause(t)
	for _, c := range []struct {
		name string
		call func(context.Context) error
	}{
		{"Publish", func(ctx context.Context) error {
			_, err := p.Publish(ctx, broker.Message{Subject: "s"})
			return err
		}},
		{"Subscribe", func(ctx context.Context) error { return errors.Join(n.b.Subscribe(ctx, "new")...) }},
		{"Unsubscribe", func(ctx context.Context) error { return errors.Join(n.b.Unsubscribe(ctx, "gone")...) }},
	} {
		ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
		begin := time.Now()
		if err := c.call(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: got %v, want %v", c.name, err, context.DeadlineExceeded)
		}
		if took := time.Since(begin); took > long.Limit(time.Second) {
			t.Errorf("%s took %v", c.name, took)
		}
		cancel()
	}
	h.Resume(t)
	awaitDelivery(t, n, p, "s")
	publish(t, p, "gone", "1")
	publish(t, p, "new", "1")
	awaitDelivery(t, n, p, "s")
	if got := append(n.received("gone"), n.received("new")...); len(got) > 0 {
		t.Errorf("got %q on subjects that are not subscribed", got)
	}
	awaitNobody(t, p, "gone")
	awaitNobody(t, p, "new")
}

func testOutageCalls(t *testing.T, h Harness) {
	if h.Stop == nil || h.Start == nil {
		t.Skip("this backend cannot be restarted here")
	}
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s", "kept", "gone")
	publish(t, p, "s", "before")
	h.Stop(t)
	n.awaitState(errors.ErrUnsupported)

	if _, err := tryPublish(p, "s", ""); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("Publish: got %v, want %v", err, broker.ErrUnavailable)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	if err := n.b.Subscribe(ctx, "refused"); err == nil {
		t.Error("Subscribe: got nil during an outage")
	}
	_ = n.b.Unsubscribe(ctx, "gone") // may fail; it is unsubscribed all the same
	long, cancelLong := context.WithTimeout(context.Background(), patience)
	defer cancelLong()
	subscribed := make(chan error, 1)
	go func() { subscribed <- errors.Join(n.b.Subscribe(long, "waited")...) }()

	h.Start(t)
	n.awaitState(nil)
	awaitDelivery(t, n, p, "s")
	want := 0
	if err := <-subscribed; err == nil {
		want = 1
	} else if !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("a Subscribe that waited: %v", err)
	}
	for _, c := range []struct {
		subject string
		nodes   int
	}{{"kept", 1}, {"gone", 0}, {"refused", 0}, {"waited", want}} {
		if c.nodes == 0 { // for a moment after an outage the driver may rather say that it cannot tell
			awaitNobody(t, p, c.subject)
		} else if reach := publish(t, p, c.subject, ""); reach.Nodes != c.nodes && !h.excuses(reach) {
			t.Errorf("%s: the receipt is %+v, want %d nodes", c.subject, reach, c.nodes)
		}
	}
}

func testFrozen(t *testing.T, h Harness) {
	if h.Freezable == nil {
		t.Skip("no link can be frozen here")
	}
	b, freeze, thaw := h.Freezable(t)
	n, p := run(t, b), publisher(t, h)
	other := start(t, h)
	other.subscribe("other")
	n.subscribe("s", "trail")
	end := leaveTrail(p, "trail")
	n.await("the trail", func() bool { return len(n.got["trail"]) > 20 })

	freeze()
	begin := time.Now()
	n.awaitState(errors.ErrUnsupported)
	if took := time.Since(begin); took > long.Limit(4*time.Second) {
		t.Errorf("the frozen node noticed after %v", took)
	}
	if h.KeepsFrozen {
		t.Log("a frozen node stays counted on this backend")
	} else {
		awaitUncounted(t, h, p, "s")
	}
	thaw()
	n.awaitState(nil)
	n.awaitGaps(1)
	awaitDelivery(t, n, p, "s")
	all := end()
	publish(t, p, "trail", "end")
	n.awaitData("trail", "end")
	checkTrail(t, n, "trail", all)
	other.mu.Lock()
	defer other.mu.Unlock()
	if len(other.gaps) > 0 {
		t.Errorf("another node has %s", gapString(other.gaps))
	}
}

func testPausedClose(t *testing.T, h Harness) {
	needsPause(t, h)
	pausedClose(t, h, "Subscribe", func(b broker.Broker) []error { return b.Subscribe(context.Background(), "new") })
	pausedClose(t, h, "Unsubscribe", func(b broker.Broker) []error { return b.Unsubscribe(context.Background(), "s") })
}

func pausedClose(t *testing.T, h Harness, name string, change func(broker.Broker) []error) {
	n := start(t, h)
	n.subscribe("s")
	h.Pause(t)
	defer h.Resume(t)
	const many = 2
	type result struct {
		call string
		err  error
	}
	busy := make(chan result, many)
	go func() { busy <- result{name, errors.Join(change(n.b)...)} }()
	go func() {
		_, err := tryPublish(n.b, "s", "")
		busy <- result{"Publish", err}
	}()
	pause()
	begin := time.Now()
	closeBroker(t, n.b)
	for range many {
		if r := <-busy; !errors.Is(r.err, broker.ErrClosed) && (r.err != nil || r.call != "Unsubscribe") {
			t.Errorf("%s in progress: got %v, want %v", r.call, r.err, broker.ErrClosed)
		}
	}
	n.awaitEnd()
	if took := time.Since(begin); took > long.Limit(3*time.Second) {
		t.Errorf("Close, and the end of Run, took %v", took)
	}
}
