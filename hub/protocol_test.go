package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tether/broker"
	"tether/engine"
)

func TestPacketsThatCloseTheConnection(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/custom")
	for _, text := range []string{
		"",
		"9",
		`2{"a":1}`,
		`2[]`,
		`2[{}]`,
		`2["connect"]`,
		`2["disconnecting"]`,
		`2["x"`,
		`2["x"]]`,
		`2a["x"]`,
		`0["a"]`,
		`0`,
		`1{}`,
		`2/custom,["x"]`,
		`1/custom,`,
		`3/other,0[]`,
		`4{"message":"x"}`,
		`5-["x"]`,
		`5-1["x"]`,
		`511-["x"]`,
		`51-["x",{"_placeholder":true,"num":1}]`,
		"2[\"\xff\"]",
	} {
		p, _ := connect(t, h)
		err := p.refusedText(text)
		if got := engine.ReasonOf(err); got != ReasonParseError {
			t.Errorf("%q: reason is %q", text, got)
		}
		p.end(ReasonParseError)
	}
	p := dial(t, h)
	p.refusedText(`2["x"]`) // before CONNECT
	if got, want := h.Stats().ProtocolErrors, uint64(23); got != want {
		t.Errorf("%d protocol errors are counted, want %d", got, want)
	}
}

// TestABadPacketIsToldToTheSocketsOfItsConnection has one hook panic, which keeps nobody from hearing of it.
func TestABadPacketIsToldToTheSocketsOfItsConnection(t *testing.T) {
	h := alone(t, Options{})
	told := make(chan string, 2)
	for _, name := range []string{"/", "/custom"} {
		h.Of(name).OnError(func(*Socket, error) { panic("a hook's own mistake") })
		h.Of(name).OnError(func(s *Socket, err error) { told <- s.Namespace().Name() + err.Error() })
	}
	p, _ := connect(t, h)
	p.say("0/custom,")
	p.joined("/custom")
	err := p.refusedText("9")
	for _, name := range []string{"/", "/custom"} {
		if got, want := <-told, name+err.Error(); got != want {
			t.Errorf("told %q, want %q", got, want)
		}
	}
	dial(t, h).refusedText("9") // nobody's
	select {
	case got := <-told:
		t.Errorf("told %q of a connection without a socket", got)
	default:
	}
}

func TestPacketsThatAreIgnored(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	p.say(`2`, `2["nobody handles this"]`, `2[1]`, `399["unknown id"]`, `3100[]`, `318446744073709551616["larger than any"]`, `50-["x"]`)
	if !s.Connected() || p.closedFor() != "" {
		t.Error("the connection was closed")
	}
	p.wantNothing()
}

func TestAnswersToCONNECT(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Auth: 30}})
	h.Of("/refuse").Use(func(context.Context, *Socket) error {
		return fmt.Errorf("middleware: %w", Refuse("not authorized", map[string]int{"code": 42}))
	})
	h.Of("/plain").OnConnect(func(context.Context, *Socket) error { return errors.New("password of the database") })
	h.Of("/bare").OnConnect(func(context.Context, *Socket) error { return Refuse("no", nil) })
	h.Of("/devices").OnConnect(func(context.Context, *Socket) error { return ErrTooManyDevices })
	h.Of("/odd").OnConnect(func(context.Context, *Socket) error { return Refuse("odd", make(chan int)) })
	for text, want := range map[string]string{
		`0/refuse,`:  `44/refuse,{"message":"not authorized","data":{"code":42}}`,
		`0/plain,`:   `44/plain,{"message":"connection refused"}`,
		`0/bare,`:    `44/bare,{"message":"no"}`,
		`0/devices,`: `44/devices,{"message":"too many devices"}`,
		`0/odd,`:     `44/odd,{"message":"odd"}`,
		`0/nope,`:    `44/nope,{"message":"Invalid namespace"}`,
		`0/nope`:     `44/nope,{"message":"Invalid namespace"}`,
		`0/refuse,{"token":"` + strings.Repeat("x", 18) + `"}`: `44/refuse,{"message":"not authorized","data":{"code":42}}`,
		`0/refuse,{"token":"` + strings.Repeat("x", 19) + `"}`: `44/refuse,{"message":"auth is too large"}`,
	} {
		p := dial(t, h)
		p.say(text)
		p.want(want)
		p.say("0") // the connection stays
		p.joined("/")
	}
}

func TestAHookSeesTheHandshake(t *testing.T) {
	for _, forget := range []bool{false, true} {
		h := alone(t, Options{ForgetHandshake: forget})
		seen := make(chan Handshake, 2)
		h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
			seen <- s.Handshake()
			return nil
		})
		p := dial(t, h)
		p.say(`0{"token":"T", "n":12345678901234567890}`)
		s := p.joined("/")
		got := <-seen
		if string(got.Auth) != `{"token":"T", "n":12345678901234567890}` {
			t.Errorf("auth is %s", got.Auth)
		}
		if got.Query.Get("room") != "7" || got.Query.Get("EIO") != "4" || got.Header.Get("x-test") != "yes" ||
			got.Header.Get("Host") != "example.com" || got.Address != "192.0.2.1:1234" || got.Secure ||
			got.URL != "/socket.io/?EIO=4&transport=websocket&room=7" || got.Time.IsZero() {
			t.Errorf("handshake is %+v", got)
		}
		later := s.Handshake()
		if later.Address != got.Address || !later.Time.Equal(got.Time) {
			t.Errorf("handshake is %+v later", later)
		}
		if kept := len(later.Header) > 0 && len(later.Auth) > 0 && later.URL != ""; kept == forget {
			t.Errorf("handshake is %+v later although ForgetHandshake is %v", later, forget)
		}
	}
}

func TestAClientMaySpeakAsSoonAsItHasBeenAnswered(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
		for i := range 500 {
			if err := s.Emit("early", i); err != nil {
				return err
			}
		}
		return nil
	})
	h.Of("/").On("x", func(_ context.Context, _ *Socket, m *Message) error { return m.Ack("ok") })
	for range 200 {
		p := dial(t, h)
		p.say("0")
		p.joined("/")
		p.say(`20["x"]`) // what was held may still be leaving
		for i := range 500 {
			p.want(fmt.Sprintf(`42["early",%d]`, i))
		}
		p.want(`430["ok"]`)
		p.end(ReasonTransportClose)
	}
}

func TestWhatIsEmittedDuringTheHooksFollowsTheAnswer(t *testing.T) {
	hubs := several(t, 2, Options{})
	other := hubs[1].Emitter()
	hubs[0].Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		if err := s.Join(ctx, Room("room")); err != nil {
			return err
		}
		if err := s.Emit("one"); err != nil {
			return err
		}
		if err := s.Volatile().Emit("worth nothing later"); err != nil {
			return err
		}
		if r, err := other.Emit(ctx, Room("room"), "two"); err != nil || r.Nodes != 1 {
			return fmt.Errorf("%v %w", r, err)
		}
		_, err := other.Emit(ctx, s.Target(), "three")
		return err
	})
	p, _ := connect(t, hubs[0])
	p.want(`42["one"]`, `42["two"]`, `42["three"]`)
	p.wantNothing()
}

func TestAnEventDuringTheHooksClosesTheConnection(t *testing.T) {
	h := alone(t, Options{})
	proceed := make(chan struct{})
	h.Of("/").OnConnect(func(context.Context, *Socket) error { <-proceed; return nil })
	p := dial(t, h)
	p.say("0")
	p.refusedText(`2["x"]`)
	p.refusedText("0")
	close(proceed)
}

func TestTheHooksContextEndsWithTheClient(t *testing.T) {
	h := alone(t, Options{})
	running, done := make(chan struct{}, 1), make(chan error, 1)
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		running <- struct{}{}
		<-ctx.Done()
		done <- s.Join(context.Background(), Room("room"))
		return ctx.Err()
	})
	h.Of("/").OnDisconnect(func(*Socket, Reason) { t.Error("OnDisconnect of a socket that never connected") })
	for name, leave := range map[string]func(*peer){
		"closed":     func(p *peer) { p.end(ReasonTransportClose) },
		"disconnect": func(p *peer) { p.say("1") },
	} {
		p := dial(t, h)
		p.say("0")
		<-running
		leave(p)
		if err := <-done; !errors.Is(err, ErrDisconnected) {
			t.Errorf("%s: join afterwards returns %v", name, err)
		}
		p.wantNothing()
	}
}

func TestAKickDuringTheHooksRefuses(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		if err := s.Register(ctx, "42"); err != nil {
			return err
		}
		_, err := h.Emitter().Disconnect(ctx, User("42"), false)
		return err
	})
	p := dial(t, h)
	p.say("0")
	p.want(`44{"message":"disconnected"}`)
	p.end(ReasonTransportClose)
	p.wantNothing()
}

func TestAClientOfAnUnavailableBrokerComesBack(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/").OnConnect(func(context.Context, *Socket) error {
		return fmt.Errorf("look up: %w", broker.ErrUnavailable)
	})
	p := dial(t, h)
	p.say("0")
	<-p.ended
	if p.closedFor() != ReasonServerClose {
		t.Errorf("closed for %q", p.closedFor())
	}
	p.wantNothing() // after CONNECT_ERROR it would not
}

func TestDynamicNamespaces(t *testing.T) {
	h := alone(t, Options{})
	fixed := h.Of("/dyn-0")
	dyn := h.Match(func(name string) bool { return strings.HasPrefix(name, "/dyn-") })
	names := make(chan string, 10)
	dyn.OnConnect(func(_ context.Context, s *Socket) error { names <- s.Namespace().Name(); return nil })
	dyn.On("x", func(_ context.Context, s *Socket, m *Message) error { return m.Ack(s.Namespace().Len(), dyn.Len()) })
	p := dial(t, h)
	p.say("0/dyn-0,")
	p.joined("/dyn-0")
	p.say("0/dyn-1,")
	one := p.joined("/dyn-1")
	p.say("0/dyn-2,")
	p.joined("/dyn-2")
	if a, b := <-names, <-names; a != "/dyn-1" || b != "/dyn-2" || fixed.Len() != 1 || dyn.Name() != "" {
		t.Errorf("hooks of the pattern ran for %s and %s", a, b)
	}
	p.say(`2/dyn-1,0["x"]`)
	p.want(`43/dyn-1,0[1,2]`)
	mustEmit(t, one.Namespace().Emitter(), Everyone, "hello")
	p.want(`42/dyn-1,["hello"]`)
	p.wantNothing()
	sockets := 0
	for range dyn.Sockets() {
		sockets++
	}
	if sockets != 2 {
		t.Errorf("the pattern has %d sockets", sockets)
	}
	if _, err := dyn.Emitter().Emit(t.Context(), Everyone, "x"); !errors.Is(err, ErrNamespace) {
		t.Errorf("emit to a pattern: %v", err)
	}
	before := h.Stats().Namespaces
	p.end(ReasonTransportClose)
	if got := h.Stats().Namespaces; got != before-2 {
		t.Errorf("%d namespaces of %d are left", got, before)
	}
}

func TestAMatchThatPanicsClosesItsConnection(t *testing.T) {
	h := alone(t, Options{})
	h.Match(func(string) bool { panic("match") })
	p := dial(t, h)
	if got := engine.ReasonOf(p.refusedText("0/x,")); got != ReasonServerClose {
		t.Errorf("reason is %q", got)
	}
}

func TestOfPanicsForANameThatNobodyCouldJoin(t *testing.T) {
	h := alone(t, Options{})
	if h.Of("admin") != h.Of("/admin") || h.Of("") != h.Of("/") {
		t.Error("the slash is not added")
	}
	defer func() {
		if recover() == nil {
			t.Error("no panic")
		}
	}()
	h.Of("/a,b")
}

func TestPacketsOfANamespaceThatTheServerHasDisconnected(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/custom")
	p, _ := connect(t, h)
	p.say("0/custom,")
	s := p.joined("/custom")
	s.Disconnect(false)
	p.want("41/custom,")
	// What the client had sent before it knew:
	p.say(`2/custom,["x"]`, `3/custom,0[]`, `51-/custom,["x",{"_placeholder":true,"num":0}]`)
	if err := p.client.Binary([]byte{1}); err != nil {
		t.Error(err)
	}
	p.say("1/custom,", "0/custom,")
	p.joined("/custom")
	p.say("1/custom,")
	p.refusedText(`2/custom,["x"]`)
}

func TestReasonsOfTheEnd(t *testing.T) {
	h := alone(t, Options{})
	type end struct {
		reason Reason
		rooms  int
	}
	ends := make(chan end, 10)
	h.Of("/").OnDisconnect(func(s *Socket, r Reason) {
		if s.Connected() {
			t.Error("the socket says that it is connected")
		}
		ends <- end{r, len(s.Rooms())}
	})
	for _, c := range []struct {
		do   func(*peer, *Socket)
		want Reason
		sent []string
		stay bool
	}{
		{func(p *peer, _ *Socket) { p.say("1") }, ReasonClientDisconnect, nil, true},
		{func(_ *peer, s *Socket) { s.Disconnect(false) }, ReasonServerDisconnect, []string{"41"}, true},
		{func(_ *peer, s *Socket) { s.Disconnect(true) }, ReasonServerDisconnect, []string{"41"}, false},
		{func(_ *peer, s *Socket) { s.Drop() }, ReasonServerClose, nil, false},
		{func(p *peer, _ *Socket) { p.end(ReasonPingTimeout) }, ReasonPingTimeout, nil, false},
	} {
		p, s := connect(t, h)
		if err := s.Join(t.Context(), Room("a"), Room("b")); err != nil {
			t.Fatal(err)
		}
		c.do(p, s)
		if got, want := (<-ends), (end{c.want, 3}); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		p.want(c.sent...)
		if (p.closedFor() == "") != c.stay {
			t.Errorf("%s: closed for %q", c.want, p.closedFor())
		}
		if err := s.Emit("x"); !errors.Is(err, ErrDisconnected) {
			t.Errorf("emit afterwards: %v", err)
		}
		if err := s.Join(t.Context(), Room("c")); !errors.Is(err, ErrDisconnected) {
			t.Errorf("join afterwards: %v", err)
		}
		s.Leave(Room("a"))
		s.Disconnect(false)
		p.end(ReasonTransportClose)
	}
	if len(ends) > 0 {
		t.Error("a hook ran twice")
	}
}

func TestDisconnectWithCloseTellsEveryNamespaceFirst(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/a")
	h.Of("/b")
	p, s := connect(t, h)
	p.say("0/a,")
	p.joined("/a")
	p.say("0/b,")
	p.joined("/b")
	s.Disconnect(true)
	<-p.ended
	got := []string{p.next(), p.next(), p.next()}
	slices.Sort(got)
	if want := []string{"41", "41/a,", "41/b,"}; !slices.Equal(got, want) {
		t.Errorf("client got %q, want %q", got, want)
	}
	if p.closedFor() != ReasonServerDisconnect {
		t.Errorf("closed for %q", p.closedFor())
	}
}

// A kick that comes while the answer to CONNECT is being sent, or what was held after it, is told to
// the client after that, and the connection closed after the kick.
func TestAKickDuringTheWelcomeComesAfterTheAnswer(t *testing.T) {
	for during, want := range map[string][]string{"40": {"40", "42", "41"}, "42": {"40", "42", "41"}} {
		for _, closing := range []bool{false, true} {
			h := alone(t, Options{})
			h.Of("/other")
			gone := make(chan Reason, 2)
			h.Of("/").OnConnect(func(_ context.Context, s *Socket) error { return s.Emit("held") })
			h.Of("/").OnDisconnect(func(_ *Socket, r Reason) { gone <- r })
			w := newWire()
			p := dialWith(t, h, w)
			p.say("0/other,")
			other := p.joined("/other")
			waitFor(t, func() bool { return other.gate.State() == stateConnected }, "not connected")
			w.before = func(packet *engine.Packet) {
				if strings.HasPrefix(string(packet.Text()), during) {
					done := make(chan struct{})
					go func() { // received below
						defer close(done)
						p.client.find("/").Disconnect(closing)
					}()
					<-done
				}
			}
			p.say("0")
			if r := <-gone; r != ReasonServerDisconnect {
				t.Errorf("reason is %q", r)
			}
			packets := len(want)
			if closing {
				<-p.ended
				packets++ // one is for the other namespace
			} else {
				p.say("1", `2["x"]`) // sent before the client knew
			}
			var got []string
			for range packets {
				if text := p.next(); text != "41/other," {
					got = append(got, text[:2])
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("client got %q, want %q", got, want)
			}
			p.end(ReasonTransportClose)
			if got := h.Of("/").Len(); got != 0 || len(gone) > 0 {
				t.Errorf("%d sockets are left", got)
			}
		}
	}
}
