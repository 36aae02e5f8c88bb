package hub

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
)

func termsOf(p *engine.Packet) engine.Terms {
	return engine.Terms{Key: p.Key(), Overflow: p.Overflow(), Volatile: p.Volatile(), Control: p.Control()}
}

// TestTermsReachTheConnection emits from wherever one can emit, through the broker and around it.
func TestTermsReachTheConnection(t *testing.T) {
	bus := memory.NewBus()
	here, there := start(t, bus.Broker(), Options{}), start(t, bus.Broker(), Options{})
	peer := bus.Broker()
	defer peer.Close()
	worker := NewEmitter(peer, EmitterOptions{})
	there.Of("/admin")
	p, s := connect(t, there)
	p.say("0/admin,")
	admin := p.joined("/admin")
	if err := s.Join(t.Context(), Room("room")); err != nil {
		t.Fatal(err)
	}
	emit := func(e *Emitter, to Target) func() error {
		return func() error { _, err := e.Emit(t.Context(), to, "e", 1); return err }
	}
	for name, c := range map[string]struct {
		emit func() error
		want engine.Terms
	}{
		"a worker, a room":     {emit(worker.Overflow(DropOldest), Room("room")), engine.Terms{Overflow: DropOldest}},
		"a worker, with a key": {emit(worker.Latest("k"), Room("room")), engine.Terms{Key: "/,k"}},
		"a worker, a socket":   {emit(worker.Overflow(DropNewest).Latest("k"), s.Target()), engine.Terms{Key: "/,k", Overflow: DropNewest}},
		"a namespace":          {emit(worker.In("admin").Latest("k").Except(Room("x")), admin.Target()), engine.Terms{Key: "/admin,k"}},
		"another node":         {emit(here.Emitter().Overflow(CloseSlow), Everyone), engine.Terms{Overflow: CloseSlow}},
		"volatile":             {emit(here.Emitter().Latest("k").Volatile(), Everyone), engine.Terms{Key: "/,k", Volatile: true}},
		"local":                {emit(there.Emitter().Latest("k").Local(), Everyone), engine.Terms{Key: "/,k"}},
		"undone":               {emit(worker.Latest("k").Overflow(DropOldest).Latest("").Overflow(engine.AsConfigured), Room("room")), engine.Terms{}},
		"a union": {func() error {
			_, err := worker.Latest("k").EmitUnion(t.Context(), []Target{Room("x"), Room("room")}, "e")
			return err
		}, engine.Terms{Key: "/,k"}},
		"the socket":             {func() error { return s.Overflow(DropOldest).Latest("k").Emit("e") }, engine.Terms{Key: "/,k", Overflow: DropOldest}},
		"the socket in /admin":   {func() error { return admin.Latest("k").Overflow(DropNewest).Emit("e") }, engine.Terms{Key: "/admin,k", Overflow: DropNewest}},
		"the socket, without":    {func() error { return s.Emit("e") }, engine.Terms{}},
		"the socket, volatile":   {func() error { return s.Volatile().Emit("e") }, engine.Terms{Volatile: true}},
		"the longest key":        {emit(worker.Latest(strings.Repeat("k", maxKey)), Room("room")), engine.Terms{Key: "/," + strings.Repeat("k", maxKey)}},
		"a key of strange bytes": {emit(worker.Latest("\x00,\xff"), Room("room")), engine.Terms{Key: "/,\x00,\xff"}},
	} {
		if err := c.emit(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := termsOf(p.nextPacket()); got != c.want {
			t.Errorf("%s: got %+v, want %+v", name, got, c.want)
		}
	}
	for _, err := range []error{
		emit(worker.Latest(strings.Repeat("k", maxKey+1)), Room("room"))(), emit(worker.Overflow(DropOldest+1), Room("room"))(),
		s.Latest(strings.Repeat("k", maxKey+1)).Emit("e"), s.Overflow(255).Emit("e"),
	} {
		if !errors.Is(err, errTerms) {
			t.Errorf("got %v, want %v", err, errTerms)
		}
	}
	p.wantNothing()
}

func TestAnswersAndTheProtocolsOwnPacketsMayNotBeDropped(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/").On("ask", func(_ context.Context, s *Socket, m *Message) error { return m.Ack(1, Binary("2")) })
	p, s := connect(t, h)
	p.say(`27["ask"]`, `0/nowhere,`)
	for range 2 { // the answer, and CONNECT_ERROR, in any order
		if packet := p.nextPacket(); !packet.Control() {
			t.Errorf("%s may be dropped", packet.Text())
		}
	}
	s.Disconnect(false)
	p.say("0")
	for range 2 {
		if packet := p.nextPacket(); !packet.Control() {
			t.Errorf("%s may be dropped", packet.Text())
		}
	}
}

func TestAnEventWithoutTermsIsTheSameBytesAsEver(t *testing.T) {
	e := NewEmitter(deaf{}, EmitterOptions{})
	for _, e := range []*Emitter{e, e.Overflow(DropNewest).Latest("x").Overflow(engine.AsConfigured).Latest("")} {
		enc := newEncoder()
		if err := enc.event("e", nil); err != nil {
			t.Fatal(err)
		}
		m := batch{emitter: e, encoder: enc}
		if got, want := m.envelope("", nil), []byte("\x01\x01\x00\x00\x00\x81\x0742[\"e\"]"); !bytes.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
		enc.free()
	}
}

// TestTermsOfANewerVersion has a node get what a later one may send.
func TestTermsOfANewerVersion(t *testing.T) {
	h := alone(t, Options{})
	p, _ := connect(t, h)
	everyone := roomSubject("tether", "/", Everyone)
	frame := engine.NewPacket(engine.Terms{}, []byte(`42["x"]`)).Frames()
	event := func(terms string) []byte {
		return append(appendText(appendEnvelope(nil, kindEvent, flagTerms, "", nil), terms), frame...)
	}
	for terms, c := range map[string]struct {
		malformed, newer uint64
		delivered        bool
		want             engine.Terms
	}{
		"\x00":                                 {0, 0, true, engine.Terms{}},
		"\x03k":                                {0, 0, true, engine.Terms{Key: "/,k", Overflow: DropOldest}},
		"\x04k":                                {0, 1, true, engine.Terms{}},
		"\xff":                                 {0, 1, true, engine.Terms{}},
		"":                                     {1, 0, false, engine.Terms{}},
		"\x01" + strings.Repeat("k", maxKey):   {0, 0, true, engine.Terms{Key: "/," + strings.Repeat("k", maxKey), Overflow: CloseSlow}},
		"\x01" + strings.Repeat("k", maxKey+1): {1, 0, false, engine.Terms{}},
	} {
		before := h.Stats()
		h.deliver(broker.Message{Subject: everyone, Data: event(terms)})
		after := h.Stats()
		if m, n := after.Malformed-before.Malformed, after.Newer-before.Newer; m != c.malformed || n != c.newer {
			t.Errorf("%.9q: malformed %d and newer %d, want %d and %d", terms, m, n, c.malformed, c.newer)
		}
		if !c.delivered {
			p.wantNothing()
		} else if got := termsOf(p.nextPacket()); got != c.want {
			t.Errorf("%.9q: got %+v, want %+v", terms, got, c.want)
		}
	}
	h.deliver(broker.Message{Subject: everyone, Data: appendEnvelope(nil, kindEvent, flagTerms, "", nil)})
	if got := h.Stats().Malformed; got != 3 {
		t.Errorf("without the terms that were announced: %d are malformed, want 3", got)
	}
}

// TestTermsCountWhileASocketIsConnecting has events wait for the answer to CONNECT, as many as there is
// room for, and one more.
func TestTermsCountWhileASocketIsConnecting(t *testing.T) {
	type emit func(*Socket) error
	plain := func(i int) emit { return func(s *Socket) error { return s.Emit("e", i) } }
	with := func(o Overflow, key string, i int) emit {
		return func(s *Socket) error { return s.Overflow(o).Latest(key).Emit("e", i) }
	}
	for name, c := range map[string]struct {
		emits []emit
		slow  int // how many are refused
		want  []string
	}{
		"drop newest":            {[]emit{plain(0), with(DropNewest, "", 1), plain(2), with(DropNewest, "", 3)}, 1, []string{"0", "1", "2"}},
		"drop oldest":            {[]emit{plain(0), with(DropOldest, "", 1), with(DropOldest, "", 2), with(DropOldest, "", 3)}, 0, []string{"0", "2", "3"}},
		"for a plain one":        {[]emit{plain(0), with(DropOldest, "", 1), plain(2), plain(3)}, 0, []string{"0", "2", "3"}},
		"none that may":          {[]emit{plain(0), with(DropNewest, "", 1), plain(2), with(DropOldest, "", 3)}, 1, []string{"0", "1", "2"}},
		"latest":                 {[]emit{with(0, "k", 0), plain(1), with(0, "l", 2), with(0, "k", 3)}, 0, []string{"1", "2", "3"}},
		"latest, full of others": {[]emit{with(DropNewest, "k", 0), with(0, "l", 1), with(0, "m", 2), with(DropNewest, "n", 3)}, 1, []string{"0", "1", "2"}},
	} {
		for _, limits := range []Limits{{Held: 3}, {HeldBytes: 3 * 11}} {
			h := alone(t, Options{Limits: limits})
			slow := 0
			h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
				for _, emit := range c.emits {
					switch err := emit(s); {
					case errors.Is(err, ErrSlowConsumer):
						slow++
					case err != nil:
						t.Error(err)
					}
				}
				return nil
			})
			p, _ := connect(t, h)
			for _, want := range c.want {
				if got := p.next(); got != `42["e",`+want+`]` {
					t.Errorf("%s: got %s, want number %s", name, got, want)
				}
			}
			p.wantNothing()
			if slow != c.slow || p.closedFor() != "" {
				t.Errorf("%s: %d are refused, want %d; closed for %q", name, slow, c.slow, p.closedFor())
			}
		}
	}
	h := alone(t, Options{Limits: Limits{Held: 1}})
	h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
		s.Emit("e", 0)
		return s.Overflow(CloseSlow).Emit("e", 1)
	})
	p := dial(t, h)
	p.say("0")
	<-p.ended
	if got := p.closedFor(); got != ReasonServerClose {
		t.Errorf("closed for %q", got)
	}
}

func TestWaitReturnsWhenThereIsRoom(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	if err := s.Wait(t.Context()); err != nil { // nothing to wait for
		t.Error(err)
	}
	behind := make(chan struct{})
	p.behind = behind
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Wait(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	waited := make(chan error)
	go func() { waited <- s.Wait(context.Background()) }()
	select {
	case err := <-waited:
		t.Fatalf("did not wait: %v", err)
	case <-time.After(time.Millisecond):
	}
	p.end(ReasonTransportClose) // a transport closes the channel then
	close(behind)
	if err := <-waited; !errors.Is(err, ErrDisconnected) {
		t.Errorf("got %v", err)
	}
	if err := s.Wait(t.Context()); !errors.Is(err, ErrDisconnected) {
		t.Errorf("got %v", err)
	}
}

// TestWaitWhileASocketIsConnecting waits in the hook, and beside it.
func TestWaitWhileASocketIsConnecting(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Held: 4}})
	inHook, beside := make(chan error, 3), make(chan error)
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		for range 3 { // up to half, and past it
			inHook <- s.Wait(ctx)
			s.Emit("e")
		}
		go func() { beside <- s.Wait(context.Background()) }()
		return nil
	})
	p, s := connect(t, h)
	for i, want := range []error{nil, nil, errConnecting} {
		if err := <-inHook; !errors.Is(err, want) {
			t.Errorf("event %d: %v, want %v", i, err, want)
		}
	}
	if err := <-beside; err != nil {
		t.Error(err)
	}
	p.want(`42["e"]`, `42["e"]`, `42["e"]`)
	s.Disconnect(true)
	<-p.ended
}
