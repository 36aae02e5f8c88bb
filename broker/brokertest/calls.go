package brokertest

import (
	"context"
	"errors"
	"testing"
	"time"

	"tether/broker"
)

var calls = []test{
	{"Subscribe waits for Run", testSubscribeFirst},
	{"a Subscribe that failed never subscribes", testFailedSubscribe},
	{"Publish needs no Run and may be empty", testPublishAlone},
	{"a context that is done ends every call", testDoneContext},
	{"every method fails with ErrClosed after Close", testClosed},
	{"Close ends Run and every call in progress", testCloseEndsCalls},
	{"Run can be called once", testRunOnce},
}

func testSubscribeFirst(t *testing.T, h Harness) {
	b := h.New(t)
	subscribed := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	go func() { subscribed <- errors.Join(b.Subscribe(ctx, "s")...) }()
	pause()
	select {
	case err := <-subscribed:
		t.Errorf("Subscribe returned %v before Run", err)
	default:
	}
	n := run(t, b)
	if err := <-subscribed; err != nil {
		t.Fatalf("Subscribe: %v", err)
	}
	wantReach(t, h, publish(t, publisher(t, h), "s", "1"), 1)
	n.awaitData("s", "1")
}

func testFailedSubscribe(t *testing.T, h Harness) {
	b, p := h.New(t), publisher(t, h)
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := errors.Join(b.Subscribe(ctx, "s", "t")...); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("without Run: got %v, want %v", err, context.DeadlineExceeded)
	}
	n := run(t, b)
	n.subscribe("t", "u")
	wantReach(t, h, publish(t, p, "s", ""), 0)
	wantReach(t, h, publish(t, p, "t", ""), 1)
	done, cancelled := context.WithCancel(context.Background())
	cancelled()
	if err := errors.Join(b.Subscribe(done, "s", "u")...); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that is done: got %v", err)
	}
	wantReach(t, h, publish(t, p, "s", ""), 0)
	wantReach(t, h, publish(t, p, "u", ""), 1) // it was not new
}

func testPublishAlone(t *testing.T, h Harness) {
	p := publisher(t, h)
	reach, err := p.Publish(context.Background())
	if err != nil || len(reach) != 0 {
		t.Errorf("no messages: got %v, %v", reach, err)
	}
	wantReach(t, h, publish(t, p, "s", ""), 0)
	n := start(t, h)
	n.subscribe("s")
	data := broker.Message{Subject: "s", Data: []byte("twice")}
	if _, err := p.Publish(context.Background(), data, data); err != nil {
		t.Fatal(err)
	}
	if _, err := p.Publish(context.Background(), broker.Message{Subject: "s"}); err != nil {
		t.Fatal(err)
	}
	n.awaitCount(3)
	if got := n.received("s"); got[0] != "twice" || got[1] != "twice" || got[2] != "" {
		t.Errorf("got %q", got)
	}
}

func testDoneContext(t *testing.T, h Harness) {
	n := start(t, h)
	n.subscribe("s", "the end")
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	reach, err := n.b.Publish(ctx, broker.Message{Subject: "s"}, broker.Message{Subject: "s"})
	if !errors.Is(err, context.Canceled) || len(reach) != 2 || reach[0].Bound != broker.Unknown || reach[1].Bound != broker.Unknown {
		t.Errorf("Publish: got %v, %v", reach, err)
	}
	if err := errors.Join(n.b.Subscribe(ctx, "t")...); !errors.Is(err, context.Canceled) {
		t.Errorf("Subscribe: got %v", err)
	}
	if err := errors.Join(n.b.Unsubscribe(ctx, "s")...); !errors.Is(err, context.Canceled) {
		t.Errorf("Unsubscribe: got %v", err)
	}
	p := publisher(t, h)
	for range 20 {
		publish(t, p, "s", "after")
		publish(t, p, "the end", "")
	}
	n.await("the end", func() bool { return len(n.got["the end"]) >= 20 })
	if got := n.received("s"); len(got) > 0 {
		t.Errorf("got %q: delivered although Unsubscribe had returned", got)
	}
	n.subscribe("s")
	publish(t, p, "s", "again")
	n.awaitData("s", "again")
}

func testClosed(t *testing.T, h Harness) {
	ctx := context.Background()
	for _, c := range []struct {
		name string
		run  bool
	}{{"never run", false}, {"running", true}} {
		b := h.New(t)
		if c.run {
			n := run(t, b)
			n.subscribe("s")
		}
		for range 2 {
			closeBroker(t, b)
		}
		reach, err := b.Publish(ctx, broker.Message{Subject: "s"})
		if !errors.Is(err, broker.ErrClosed) || len(reach) != 1 || reach[0].Bound != broker.Unknown {
			t.Errorf("%s: Publish: got %v, %v", c.name, reach, err)
		}
		if err := errors.Join(b.Subscribe(ctx, "t")...); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("%s: Subscribe: got %v", c.name, err)
		}
		if err := errors.Join(b.Unsubscribe(ctx, "s")...); !errors.Is(err, broker.ErrClosed) {
			t.Errorf("%s: Unsubscribe: got %v", c.name, err)
		}
		if err := b.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}}); !c.run && !errors.Is(err, broker.ErrClosed) {
			t.Errorf("%s: Run: got %v", c.name, err)
		}
	}
}

func testCloseEndsCalls(t *testing.T, h Harness) {
	n := start(t, h)
	idle := h.New(t)
	waiting := make(chan error, 1)
	go func() { waiting <- errors.Join(idle.Subscribe(context.Background(), "s")...) }()

	const many = 8
	busy := make(chan error, many)
	n.subscribe("busy")
	go func() {
		for {
			if err := n.b.Subscribe(context.Background(), "s", "t"); err != nil && !slow(errors.Join(err...)) {
				busy <- errors.Join(err...)
				return
			}
			if err := n.b.Unsubscribe(context.Background(), "s", "t"); err != nil && !slow(errors.Join(err...)) {
				busy <- errors.Join(err...)
				return
			}
		}
	}()
	for range many - 1 {
		go func() {
			for {
				if _, err := tryPublish(n.b, "busy", ""); err != nil && !slow(err) {
					busy <- err
					return
				}
			}
		}()
	}
	n.awaitCount(50)
	closeBroker(t, n.b)
	closeBroker(t, idle)
	for range many {
		if err := <-busy; !errors.Is(err, broker.ErrClosed) {
			t.Errorf("a call in progress: got %v, want %v", err, broker.ErrClosed)
		}
	}
	if err := <-waiting; !errors.Is(err, broker.ErrClosed) {
		t.Errorf("a Subscribe that waited for Run: got %v, want %v", err, broker.ErrClosed)
	}
	n.awaitEnd()
}

func testRunOnce(t *testing.T, h Harness) {
	n := start(t, h)
	if err := n.b.Run(context.Background(), broker.Handler{Deliver: func(broker.Message) {}}); err == nil {
		t.Error("a second Run returned nil")
	}
	n.subscribe("s")
	n.end()
	n.awaitEnd()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.b.Subscribe(ctx, "s"); err == nil || ctx.Err() != nil {
		t.Errorf("Subscribe after Run: got %v, want an error at once", err)
	}
	if _, err := tryPublish(n.b, "s", ""); err != nil {
		t.Errorf("Publish after Run: %v", err)
	}
}
