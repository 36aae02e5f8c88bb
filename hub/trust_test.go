package hub

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/broker/seal"
)

// eavesdropper is a stranger at the broker of a cluster.
type eavesdropper struct {
	broker.Broker

	mu    sync.Mutex
	heard []broker.Message // guarded by mu
}

func eavesdrop(t *testing.T, b broker.Broker, subjects ...string) *eavesdropper {
	e := &eavesdropper{Broker: b}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { // until the test ends
		ended <- b.Run(ctx, broker.Handler{Deliver: func(m broker.Message) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.heard = append(e.heard, m.Own())
		}})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		b.Close()
	})
	if err := errors.Join(b.Subscribe(t.Context(), subjects...)...); err != nil {
		t.Fatal(err)
	}
	return e
}

func (e *eavesdropper) all() []broker.Message {
	e.mu.Lock()
	defer e.mu.Unlock()
	return append([]broker.Message(nil), e.heard...)
}

// All that a stranger has heard he says again, where he has heard it and elsewhere, and nothing comes of it.
func TestAStrangerAtTheBrokerIsNobody(t *testing.T) {
	t.Parallel()
	key := seal.Keys{Current: seal.GenerateKey(), Seal: true}
	bus := memory.NewBus()
	a := start(t, bus.Broker(), Options{Node: "a", Key: key})
	b := start(t, bus.Broker(), Options{Node: "b", Key: key})
	stranger := eavesdrop(t, bus.Broker(), roomSubject("tether", "/", User("42")), a.subject, b.subject, "tether@members")
	pa, sa := connect(t, a)
	pb, sb := connect(t, b)
	if err := errors.Join(sa.Register(t.Context(), "42"), sb.Register(t.Context(), "43")); err != nil {
		t.Fatal(err)
	}
	pa.next()
	pb.next()

	worker := NewEmitter(bus.Broker(), EmitterOptions{Key: key})
	emit := func(event string) {
		t.Helper()
		if r, err := worker.Emit(t.Context(), User("42"), event, "a secret"); r.Nodes != 2 || err != nil { // the stranger is counted
			t.Fatalf("got %v %v", r, err)
		}
	}
	emit("one")
	pa.want(`42["one","a secret"]`)
	if _, err := b.Emitter().Emit(t.Context(), SocketID(sa.ID()), "two", "a secret"); err != nil {
		t.Fatal(err)
	}
	pa.want(`42["two","a secret"]`)
	found := b.Emitter().FetchSockets(t.Context(), Everyone, FetchOptions{})
	n := 0
	for range found.All {
		n++
	}
	if n != 2 || found.Err() != nil || len(found.Missing()) > 0 {
		t.Fatalf("found %d sockets, %v, missing %v", n, found.Err(), found.Missing())
	}
	if _, err := b.Emitter().Join(t.Context(), User("42"), Room("r")); err != nil {
		t.Fatal(err)
	}

	heard := stranger.all()
	if len(heard) < 6 { // two events, and questions with their answers
		t.Fatalf("the stranger has heard %d messages", len(heard))
	}
	for _, m := range heard {
		if bytes.Contains(m.Data, []byte("secret")) || bytes.Contains(m.Data, []byte("user:")) {
			t.Errorf("the stranger can read %q", m.Data)
		}
		for _, subject := range []string{m.Subject, roomSubject("tether", "/", User("42")), roomSubject("tether", "/", User("43")), a.subject, b.subject} {
			m.Subject = subject
			if _, err := stranger.Publish(t.Context(), m); err != nil {
				t.Fatal(err)
			}
		}
	}
	plain := NewEmitter(bus.Broker(), EmitterOptions{})
	for _, to := range []Target{User("42"), Everyone, SocketID(sa.ID())} {
		if _, err := plain.Emit(t.Context(), to, "forged"); err != nil {
			t.Fatal(err)
		}
	}
	emit("last")
	pa.want(`42["last","a secret"]`)
	pb.wantNothing()
	if !strings.HasPrefix(sb.ID(), b.tag) || b.Stats().Untrusted == 0 || a.Stats().Untrusted < uint64(len(heard)) {
		t.Errorf("a has refused %d messages, b %d", a.Stats().Untrusted, b.Stats().Untrusted)
	}
}

func TestANodeWithAnotherKeyIsNotReadyAndTheOthersAre(t *testing.T) {
	t.Parallel()
	right, wrong := seal.Keys{Current: seal.GenerateKey()}, seal.Keys{Current: seal.GenerateKey()}
	for name, keys := range map[string][2]seal.Keys{
		"another key":       {right, wrong},
		"no key":            {right, {}},
		"the only one":      {{}, right},
		"a step was missed": {{}, {Current: right.Current, Plain: seal.AcceptPlain}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bus := memory.NewBus()
			var old []*Hub
			for _, node := range []string{"a", "b"} {
				old = append(old, start(t, bus.Broker(), Options{Node: node, Key: keys[0]}))
			}
			for _, h := range old {
				waitFor(t, func() bool { list, err := h.Members(); return len(list) == 2 && err == nil }, "the two do not know each other")
			}
			newcomer := start(t, bus.Broker(), Options{Node: "c", Key: keys[1]})
			if keys[1].Plain == seal.AcceptPlain { // it hears them, and they say so
				waitFor(t, func() bool { return old[0].Stats().Untrusted > 0 }, "what the newcomer says is not refused")
			} else {
				waitFor(t, func() bool { return newcomer.Ready() != nil }, "the newcomer is ready")
				if _, err := newcomer.Members(); err == nil || !strings.Contains(err.Error(), "key") {
					t.Errorf("members of the newcomer: %v", err)
				}
			}
			for _, h := range old {
				if err := h.Ready(); err != nil {
					t.Errorf("%s is not ready any more: %v", h.Node(), err)
				}
			}
		})
	}
}

func TestAWorkerWithAnotherKeySaysSo(t *testing.T) {
	t.Parallel()
	bus := memory.NewBus()
	start(t, bus.Broker(), Options{Key: seal.Keys{Current: seal.GenerateKey()}})
	for _, key := range []seal.Keys{{}, {Current: seal.GenerateKey()}} {
		e := NewEmitter(bus.Broker(), EmitterOptions{Key: key})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- e.Run(ctx, nil) }() // received below
		waiting, stop := context.WithTimeout(ctx, patience)
		list, err := e.Members(waiting)
		if len(list) != 0 || err == nil || !strings.Contains(err.Error(), "key") {
			t.Errorf("got %v, %v", list, err)
		}
		stop()
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
}

// Each step is taken by one node after the other, with the client on the first one and the emitter on the
// second, and every event arrives.
func TestAClusterGetsAKeyAndChangesItNodeByNode(t *testing.T) {
	first, second := seal.GenerateKey(), seal.GenerateKey()
	steps := []seal.Keys{
		{},
		{Current: first, Plain: seal.SendPlain},
		{Current: first, Plain: seal.AcceptPlain},
		{Current: first},
		{Current: first, Accept: []seal.Key{second}},
		{Current: second, Accept: []seal.Key{first}, Seal: true},
		{Current: second, Seal: true},
	}
	bus := memory.NewBus()
	for i := range steps {
		for _, pair := range [][2]seal.Keys{{steps[max(i-1, 0)], steps[i]}, {steps[i], steps[max(i-1, 0)]}, {steps[i], steps[i]}} {
			h, stop := startStoppable(t, bus.Broker(), Options{Node: "a", Key: pair[0]})
			o, stopOther := startStoppable(t, bus.Broker(), Options{Node: "b", Key: pair[1]})
			p, s := connect(t, h)
			if err := s.Register(t.Context(), "42"); err != nil {
				t.Fatal(err)
			}
			p.next()
			for _, e := range []*Emitter{o.Emitter(), h.Emitter(), NewEmitter(bus.Broker(), EmitterOptions{Key: pair[1]})} {
				if r, err := e.Emit(t.Context(), User("42"), "x"); r.Nodes != 1 || err != nil {
					t.Errorf("step %d: got %v, %v", i, r, err)
				}
				p.want(`42["x"]`)
			}
			waitFor(t, func() bool { list, err := o.Members(); return len(list) == 2 && err == nil }, "the two do not know each other")
			if n := h.Stats().Untrusted + o.Stats().Untrusted; n > 0 || h.Ready() != nil || o.Ready() != nil {
				t.Errorf("step %d: %d messages were refused; %v, %v", i, n, h.Ready(), o.Ready())
			}
			if err := errors.Join(stop(), stopOther()); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestAClockThatIsWrongMakesANodeAStranger(t *testing.T) {
	t.Parallel()
	key := seal.Keys{Current: seal.GenerateKey()}
	bus := memory.NewBus()
	start(t, bus.Broker(), Options{Node: "a", Key: key})
	ahead := func() time.Time { return time.Now().Add(2 * seal.Window) }
	b := start(t, bus.Broker(), Options{Node: "b", Key: key, Time: ahead})
	waitFor(t, func() bool { err := b.Ready(); return err != nil && strings.Contains(err.Error(), "NTP") }, "it is ready")
}
