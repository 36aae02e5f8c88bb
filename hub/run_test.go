package hub

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/memory"
)

// fickle is a broker whose state the test sets, and that may refuse to subscribe or end early.
type fickle struct {
	broker.Broker
	handler  chan broker.Handler // receives what Run was given
	end      chan error          // ends Run
	refusals atomic.Int32        // of Subscribe
}

func newFickle() *fickle {
	return &fickle{Broker: memory.NewBus().Broker(), handler: make(chan broker.Handler, 1), end: make(chan error, 1)}
}

func (f *fickle) Subscribe(ctx context.Context, subjects ...string) []error {
	if f.refusals.Add(-1) >= 0 {
		return broker.Each(len(subjects), broker.ErrUnavailable)
	}
	return f.Broker.Subscribe(ctx, subjects...)
}

func (f *fickle) Run(ctx context.Context, h broker.Handler) error {
	f.handler <- h
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- f.Broker.Run(ctx, h) }()
	select {
	case err := <-f.end:
		cancel()
		<-ended
		return err
	case err := <-ended:
		return err
	}
}

func TestReadyFollowsTheBroker(t *testing.T) {
	f := newFickle()
	h, err := New(f, Options{Node: "n"})
	if err != nil || h.Node() != "n" {
		t.Fatal(err)
	}
	if err := h.Ready(); !errors.Is(err, ErrNotRunning) {
		t.Errorf("before Run: %v", err)
	}
	gaps := make(chan broker.Gap, 1)
	f = newFickle()
	h, stop := startStoppable(t, f, Options{OnGap: func(g broker.Gap) { gaps <- g }})
	if err := h.Ready(); err != nil {
		t.Errorf("running: %v", err)
	}
	handler := <-f.handler
	handler.State(broker.ErrUnavailable)
	if err := h.Ready(); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("silent broker: %v", err)
	}
	handler.Gap(broker.Gap{Cause: broker.ErrUnavailable})
	if g := <-gaps; g.Cause != broker.ErrUnavailable || h.Stats().Gaps != 1 {
		t.Errorf("gap is %v", g)
	}
	handler.State(nil)
	if err := h.Ready(); err != nil {
		t.Errorf("broker is back: %v", err)
	}
	if err := stop(); err != nil {
		t.Error(err)
	}
	if err := h.Ready(); err == nil {
		t.Error("ready after Run")
	}
	if _, err := h.attach(newWire(), bareRequest()); !errors.Is(err, ErrDraining) {
		t.Errorf("attach after Run: %v", err)
	}
	if err := h.Run(t.Context()); err == nil {
		t.Error("run twice")
	}
}

func TestRunWaitsForTheBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFickle()
		f.refusals.Store(5)
		h := start(t, f, Options{})
		connect(t, h)
	})
}

func TestRunEndsWithTheBroker(t *testing.T) {
	f := newFickle()
	h, err := New(f, Options{})
	if err != nil {
		t.Fatal(err)
	}
	cause := errors.New("the cable")
	f.end <- cause
	if err := h.Run(t.Context()); !errors.Is(err, cause) {
		t.Errorf("run: %v", err)
	}
	f = newFickle()
	f.end <- nil
	if h, err = New(f, Options{}); err != nil {
		t.Fatal(err)
	}
	if err := h.Run(t.Context()); !errors.Is(err, broker.ErrClosed) {
		t.Errorf("run: %v", err)
	}
	if _, err := New(nil, Options{}); err == nil {
		t.Error("a hub without a broker")
	}
}

func TestOnStartRunsOnceTheBrokerIsUp(t *testing.T) {
	started := make(chan *Hub, 1)
	h := alone(t, Options{OnStart: func(ctx context.Context, h *Hub) error {
		started <- h
		return second(h.Emitter().Emit(ctx, Everyone, "up"))
	}})
	if got := <-started; got != h {
		t.Error("OnStart got another hub")
	}
	for _, f := range []func(context.Context, *Hub) error{
		func(context.Context, *Hub) error { return errors.New("no") },
		func(context.Context, *Hub) error { panic("no") },
	} {
		h, err := New(memory.NewBus().Broker(), Options{OnStart: f})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Run(t.Context()); err == nil {
			t.Error("run returned nil")
		}
	}
}

func TestADrainIsSpreadOverItsWindow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := startStoppable(t, memory.NewBus().Broker(), Options{DrainWindow: 10 * time.Second})
		const n = 1000
		begin := time.Now()
		var perSecond [12]int
		ends := make(chan time.Duration, n)
		h.Of("/").OnDisconnect(func(_ *Socket, r Reason) {
			if r != ReasonShutdown {
				t.Errorf("reason is %q", r)
			}
			ends <- time.Since(begin)
		})
		for range n {
			connect(t, h)
		}
		begin = time.Now()
		if err := stop(); err != nil {
			t.Error(err)
		}
		took := time.Since(begin)
		for range n {
			perSecond[(<-ends)/time.Second]++
		}
		if took > 10500*time.Millisecond || took < 9*time.Second {
			t.Errorf("the drain took %v", took)
		}
		if most := slices.Max(perSecond[:]); most > n/9 {
			t.Errorf("%d of %d connections were closed in one second", most, n)
		}
	})
}

// By default few clients are sent away at once: if they come back together, that is no load.
func TestTheDefaultWindowOfADrainGrowsWithTheConnections(t *testing.T) {
	for n, want := range map[int]time.Duration{1: 0, 300: 3 * time.Second, 2000: 10 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			h, stop := startStoppable(t, memory.NewBus().Broker(), Options{})
			h.options.DrainWindow = 0 // which the helper does not take for the default
			for range n {
				connect(t, h)
			}
			begin := time.Now()
			if err := stop(); err != nil {
				t.Error(err)
			}
			if took := time.Since(begin); took < want-time.Second/2 || took > want+time.Second/2 {
				t.Errorf("the drain of %d connections took %v, want %v", n, took, want)
			}
		})
	}
}

func TestADrainWithoutConnectionsIsImmediate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, stop := startStoppable(t, memory.NewBus().Broker(), Options{DrainWindow: time.Hour})
		begin := time.Now()
		if err := stop(); err != nil || time.Since(begin) > time.Second {
			t.Errorf("run returned %v after %v", err, time.Since(begin))
		}
	})
}

func TestADrainEndsWithTheLastConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, stop := startStoppable(t, memory.NewBus().Broker(), Options{DrainWindow: time.Hour})
		c, _ := connect(t, h)
		time.AfterFunc(time.Minute, func() { c.Close(ReasonTransportClose) }) // the client goes by itself
		begin := time.Now()
		if err := stop(); err != nil || time.Since(begin) > 2*time.Minute {
			t.Errorf("run returned %v after %v", err, time.Since(begin))
		}
	})
}

func TestEventsArriveUntilTheDrainEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		bus := memory.NewBus()
		h, stop := startStoppable(t, bus.Broker(), Options{DrainWindow: 4 * time.Second})
		a, _ := connect(t, h)
		b, _ := connect(t, h)
		go stop() // the test's cleanup waits for it
		time.Sleep(3 * time.Second)
		e := NewEmitter(bus.Broker(), EmitterOptions{})
		mustEmit(t, e, Everyone, "late")
		if (len(a.packets) == 1) == (len(b.packets) == 1) {
			t.Error("one of the two should be there after three quarters of the window")
		}
	})
}

// ghost is a connection that does not end when it is closed.
type ghost struct{ sink }

func TestRunDoesNotWaitForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, err := New(memory.NewBus().Broker(), Options{DrainWindow: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		result := make(chan error)
		go func() { result <- h.Run(ctx) }() // received below
		<-h.live
		proceed := make(chan struct{})
		h.Of("/").On("x", func(ctx context.Context, _ *Socket, _ *Message) error {
			<-ctx.Done()
			<-proceed
			return nil
		})
		if _, err := h.attach(&ghost{}, bareRequest()); err != nil {
			t.Fatal(err)
		}
		p, _ := connect(t, h)
		p.say(`2["x"]`)
		cancel()
		begin := time.Now()
		if err := <-result; err == nil {
			t.Error("run returned nil although a handler runs")
		}
		if took := time.Since(begin); took > 16500*time.Millisecond {
			t.Errorf("run took %v", took)
		}
		close(proceed)
	})
}

func TestRunWaitsForHooksAndHandlers(t *testing.T) {
	h, stop := startStoppable(t, memory.NewBus().Broker(), Options{})
	var done atomic.Int32
	running, proceed := make(chan struct{}), make(chan struct{})
	h.Of("/").On("x", func(ctx context.Context, _ *Socket, _ *Message) error {
		close(running)
		<-proceed
		if ctx.Err() != nil {
			t.Error("the context of a handler has ended because its client has gone")
		}
		done.Add(1)
		return nil
	})
	h.Of("/").OnDisconnect(func(*Socket, Reason) { done.Add(1) })
	p, _ := connect(t, h)
	p.say(`2["x"]`)
	<-running
	go func() { // stop waits for it, because the handler waits for it
		<-p.ended
		close(proceed)
	}()
	if err := stop(); err != nil {
		t.Error(err)
	}
	if done.Load() != 2 {
		t.Error("run returned before handler and hook")
	}
}

func TestTimeouts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, memory.NewBus().Broker(), Options{})
		h.Of("/refuse").OnConnect(func(context.Context, *Socket) error { return Refuse("no", nil) })
		h.Of("/hang").OnConnect(func(ctx context.Context, _ *Socket) error { <-ctx.Done(); return ctx.Err() })
		stubborn := make(chan struct{})
		defer close(stubborn)
		h.Of("/stubborn").OnConnect(func(context.Context, *Socket) error { <-stubborn; return nil })
		for name, c := range map[string]struct {
			do     func(*peer)
			after  time.Duration
			reason Reason
		}{
			"no CONNECT":     {func(*peer) {}, 45 * time.Second, ReasonForcedClose},
			"refused":        {func(p *peer) { p.say("0/refuse,"); p.next() }, 45 * time.Second, ReasonForcedClose},
			"left":           {func(p *peer) { p.say("0"); p.joined("/"); p.say("1") }, 45 * time.Second, ReasonForcedClose},
			"kicked":         {func(p *peer) { p.say("0"); p.joined("/").Disconnect(false) }, 45 * time.Second, ReasonForcedClose},
			"hook hangs":     {func(p *peer) { p.say("0/hang,") }, 10 * time.Second, ReasonServerClose},
			"hook is deaf":   {func(p *peer) { p.say("0/stubborn,") }, 10 * time.Second, ReasonServerClose},
			"no attachments": {func(p *peer) { p.say("0"); p.joined("/"); p.say(`51-["x"]`) }, 10 * time.Second, ReasonParseError},
		} {
			begin := time.Now()
			p := dial(t, h)
			c.do(p)
			time.Sleep(c.after - time.Second)
			if p.closedFor() != "" {
				t.Errorf("%s: closed too early", name)
			}
			<-p.ended
			if took := time.Since(begin); took > c.after+time.Second || p.closedFor() != c.reason {
				t.Errorf("%s: closed after %v for %q", name, took, p.closedFor())
			}
		}
		p := dial(t, h)
		p.say("0")
		s := p.joined("/")
		p.say(`51-["x"]`)
		if err := p.client.Binary([]byte("y")); err != nil {
			t.Error(err)
		}
		time.Sleep(time.Hour)
		if p.closedFor() != "" || !s.Connected() {
			t.Errorf("an idle connection was closed for %q", p.closedFor())
		}
		if got := h.Stats().TimedOut; got != 7 {
			t.Errorf("%d timeouts are counted, want 7", got)
		}
	})
}

func TestASocketExpires(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := start(t, memory.NewBus().Broker(), Options{})
		ends := make(chan Reason, 3)
		h.Of("/").OnDisconnect(func(_ *Socket, r Reason) { ends <- r })
		p, s := connect(t, h)
		q, kept := connect(t, h)
		s.ExpireAt(time.Now().Add(time.Hour))
		s.ExpireAt(time.Now().Add(time.Minute))
		kept.ExpireAt(time.Now().Add(time.Second))
		kept.ExpireAt(time.Time{})
		time.Sleep(time.Minute - time.Second)
		if !s.Connected() {
			t.Error("expired too early")
		}
		if r := <-ends; r != ReasonServerDisconnect || h.Stats().Expired != 1 {
			t.Errorf("reason is %q", r)
		}
		p.want("41")
		if s.ExpireAt(time.Now()); p.closedFor() != "" {
			t.Error("the connection was closed")
		}
		time.Sleep(time.Second)
		if !kept.Connected() || len(q.packets) > 0 {
			t.Error("a socket without an expiry has expired")
		}
		if len(h.expiry.ends.heap) > 0 {
			t.Error("a socket that is gone is waited for")
		}
	})
}

func TestAFrozenNodeDropsItsConnections(t *testing.T) {
	var gaps []broker.Gap
	h := alone(t, Options{OnGap: func(g broker.Gap) { gaps = append(gaps, g) }})
	p, s := connect(t, h)
	now := time.Now()
	h.tick(now, now.Add(sweepInterval+freezeLimit))
	if p.closedFor() != "" || len(gaps) > 0 {
		t.Error("dropped although the sweep was not late enough")
	}
	woken := now.Add(sweepInterval + freezeLimit + time.Millisecond)
	h.tick(now, woken)
	if len(gaps) != 1 || gaps[0].From.After(now) || gaps[0].To.Before(woken) || gaps[0].Subjects != nil {
		t.Errorf("the time of the freeze is not in a gap: %+v", gaps)
	}
	<-p.ended
	if p.closedFor() != ReasonServerClose || s.Connected() {
		t.Errorf("closed for %q", p.closedFor())
	}
	p.wantNothing() // no DISCONNECT: the client is to come back
}

func TestRosterAndDeadlinesGiveMemoryBack(t *testing.T) {
	var r roster[int]
	var d deadlines[int]
	now := time.Now()
	values := make([]int, 1000)
	for i := range values {
		p := r.reserve()
		if r.at(p) != nil || int(p) != i {
			t.Fatalf("place %d is taken", p)
		}
		r.put(p, &values[i])
		d.set(i, now.Add(time.Duration(i*7919%1000)*time.Second))
	}
	if r.len() != 1000 || len(r.all()) != 1000 || r.at(1000) != nil || r.at(noPlace) != nil {
		t.Error("the roster has lost count")
	}
	for i := 0; i < 1000; i += 2 {
		r.remove(uint32(i))
		d.unset(i)
		d.unset(i)
	}
	if r.len() != 500 || r.at(0) != nil || r.reserve()%2 != 0 {
		t.Error("places are not used again")
	}
	for i := 1; i < 1000; i += 2 {
		d.set(i, now.Add(time.Duration(i)*time.Second))
	}
	if got := d.passed(now.Add(9 * time.Second)); !slices.Equal(got, []int{1, 3, 5, 7, 9}) {
		t.Errorf("passed are %v", got)
	}
	if got := len(d.passed(now.Add(time.Hour))); got != 495 || d.heap != nil || d.at != nil {
		t.Errorf("%d passed", got)
	}
	r.remove(998)
	for i := 1; i < 1000; i += 2 {
		r.remove(uint32(i))
	}
	if r.items != nil || r.len() != 0 {
		t.Error("the roster keeps its memory")
	}
}

func TestIDs(t *testing.T) {
	tag := newTag()
	for _, place := range []uint32{0, 1, 1 << 20, 1<<32 - 2} {
		id := string(appendID(nil, tag, place, [randomBytes]byte{1, 2, 3, 4, 5}))
		if !isID(id) || id[:tagLength] != tag || placeOf(id) != place {
			t.Errorf("ID %s of place %d", id, place)
		}
	}
	for _, text := range []string{"", "short", "exactly-20-chars-AB,", "exactly-20-chars-ABCD", fmt.Sprintf("%019d\x00", 1)} {
		if isID(text) {
			t.Errorf("%q is taken for an ID", text)
		}
	}
}

func TestAnIdleConnectionHasNoGoroutine(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/").On("x", func(_ context.Context, _ *Socket, m *Message) error { return m.Ack() })
	use := func() {
		p, s := connect(t, h)
		if err := s.Register(t.Context(), "1"); err != nil {
			t.Fatal(err)
		}
		p.next()
		p.say(`20["x"]`)
		p.next()
	}
	use()
	before := runtime.NumGoroutine()
	for range 100 {
		use()
	}
	waitFor(t, func() bool { return runtime.NumGoroutine() <= before+10 }, "goroutines are left") // ten may be the hub's own, which begin late
}
