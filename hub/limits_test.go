package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"tether/engine"
)

func TestLimitOfNamespaces(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Namespaces: 2}})
	for _, name := range []string{"/a", "/b"} {
		h.Of(name)
	}
	p, _ := connect(t, h)
	p.say("0/a,")
	p.joined("/a")
	p.say("0/b,")
	p.want(`44/b,{"message":"too many namespaces"}`)
	p.say("1/a,", "0/b,")
	p.joined("/b")
	if got := h.Stats().Sockets; got != 2 {
		t.Errorf("%d sockets, want 2", got)
	}
}

func TestLimitOfRooms(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Rooms: 2}})
	inHook := make(chan error, 2)
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		inHook <- s.Join(ctx, Room("a"), Room("b"), Room("a"))
		inHook <- s.Join(ctx, Room("c"))
		return nil
	})
	_, s := connect(t, h)
	if a, b := <-inHook, <-inHook; a != nil || !errors.Is(b, errTooManyRooms) {
		t.Errorf("in the hook: %v, %v", a, b)
	}
	if err := s.Join(t.Context(), Room("c")); !errors.Is(err, errTooManyRooms) {
		t.Errorf("third room: %v", err)
	}
	s.Leave(Room("a"))
	if err := s.Join(t.Context(), Room("b"), Room("c"), Room("d")); !errors.Is(err, errTooManyRooms) {
		t.Errorf("two more where one fits: %v", err)
	}
	if rooms := s.Rooms(); slices.Contains(rooms, Room("c")) || slices.Contains(rooms, Room("d")) {
		t.Errorf("refused, it is in %v", rooms)
	}
	if err := s.Join(t.Context(), Everyone, Room("b"), Room("c"), Room("c")); err != nil {
		t.Errorf("one more, twice: %v", err)
	}
	s.Leave(Room("c"))
	if err := s.Register(t.Context(), "c"); err != nil {
		t.Error(err)
	}
}

// Each limit on what a client sends: at the limit it passes, one past it the connection ends.
func TestLimitsOnPackets(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	h := alone(t, Options{Limits: Limits{
		Depth: 3, Args: 3, EventName: 6, Namespace: 5, Attachments: 2, PacketBytes: 60,
	}})
	h.Of("/" + long(4))
	binary := func(n int) string { return "%" + long(n) }
	for name, c := range map[string]struct{ at, past []string }{
		"depth":       {[]string{`2["x",[[1]]]`}, []string{`2["x",[[[1]]]]`}},
		"args":        {[]string{`2["x",1,2]`}, []string{`2["x",1,2,3]`}},
		"event name":  {[]string{`2["1234"]`}, []string{`2["12345"]`}},
		"namespace":   {[]string{`0/xxxx,`}, []string{`0/xxxxx,`}},
		"attachments": {[]string{`52-["x"]`, binary(1), binary(1)}, []string{`53-["x"]`}},
		"bytes":       {[]string{`51-["x"]`, binary(55)}, []string{`51-["x"]`, binary(56)}},
		"bytes of several": {
			[]string{`52-["x",{"_placeholder":true,"num":0}]`, binary(10), binary(13)},
			[]string{`52-["x",{"_placeholder":true,"num":0}]`, binary(10), binary(30)},
		},
		"bytes of the text": {
			[]string{`51-["` + `x","` + long(52) + `"]`, binary(0)},
			[]string{`51-["` + `x","` + long(53) + `"]`},
		},
	} {
		try := func(inputs []string) (err error) {
			p, _ := connect(t, h)
			for _, in := range inputs {
				if in[0] == '%' {
					err = p.client.Binary([]byte(in[1:]))
				} else {
					err = p.client.Text([]byte(in))
				}
			}
			return err
		}
		if err := try(c.at); err != nil {
			t.Errorf("%s: at the limit: %v", name, err)
		}
		if err := try(c.past); err == nil || engine.ReasonOf(err) != ReasonParseError {
			t.Errorf("%s: past the limit: %v", name, err)
		}
	}
}

func TestBinaryOutOfPlaceClosesTheConnection(t *testing.T) {
	h := alone(t, Options{})
	p, _ := connect(t, h)
	if err := p.client.Binary([]byte("x")); err == nil {
		t.Error("binary that nobody announced was accepted")
	}
	p.say(`51-["x"]`)
	p.refusedText(`2["x"]`)
}

func TestLimitOfEventsInFlight(t *testing.T) {
	for _, limits := range []Limits{{Events: 4}, {EventBytes: 20}} { // of five bytes each
		h := alone(t, Options{Limits: limits})
		started, proceed := make(chan struct{}, 20), make(chan struct{})
		h.Of("/").On("x", func(context.Context, *Socket, *Message) error {
			started <- struct{}{}
			<-proceed
			return nil
		})
		p, _ := connect(t, h)
		for range 3 {
			p.say(`2["x"]`)
			if p.client.Busy() != nil {
				t.Fatal("busy below the limit")
			}
		}
		p.say(`2["x"]`)
		busy := p.client.Busy()
		if busy == nil {
			t.Fatal("not busy at the limit")
		}
		for range 3 {
			<-started
			proceed <- struct{}{}
		}
		<-started // three of four have been handled
		select {
		case <-busy:
		default:
			t.Error("the transport is not told that there is room")
		}
		if p.client.Busy() != nil {
			t.Error("busy although there is room")
		}
		for range 7 {
			p.say(`2["x"]`)
		}
		if limits.EventBytes > 0 {
			p.say(`2["x"]`)
		}
		if err := p.refusedText(`2["x"]`); engine.ReasonOf(err) != ReasonTransportError {
			t.Errorf("reason is %q", engine.ReasonOf(err))
		}
		close(proceed)
	}
}

func TestAnswersPassEventsThatWait(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Events: 1}})
	done := make(chan error, 1)
	h.Of("/").On("x", func(ctx context.Context, s *Socket, _ *Message) error {
		done <- second(s.EmitAck(ctx, "q"))
		return nil
	})
	p, _ := connect(t, h)
	p.say(`2["x"]`)
	p.want(`420["q"]`)
	if p.client.Busy() == nil {
		t.Fatal("not busy")
	}
	p.say(`30[]`) // a transport that had stopped reading could not pass it: see Busy
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestLimitOfHeldPackets(t *testing.T) {
	for _, limits := range []Limits{{Held: 3}, {HeldBytes: 3 * 11}} {
		h := alone(t, Options{Limits: limits})
		var errs [4]error
		emit, hooked := 3, make(chan struct{}, 2)
		h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
			for i := range emit {
				errs[i] = s.Emit("e", i) // eleven bytes with the frame's header
			}
			hooked <- struct{}{}
			return nil
		})
		p, _ := connect(t, h)
		<-hooked
		p.want(`42["e",0]`, `42["e",1]`, `42["e",2]`)
		if err := errors.Join(errs[:]...); err != nil {
			t.Errorf("at the limit: %v", err)
		}
		emit = 4
		p = dial(t, h)
		p.say("0")
		<-p.ended
		<-hooked
		if !errors.Is(errs[3], ErrSlowConsumer) || p.closedFor() != ReasonServerClose {
			t.Errorf("past the limit: %v, closed for %q", errs[3], p.closedFor())
		}
	}
}

func TestDefaultsAreWhatTheDocumentationSays(t *testing.T) {
	got := Options{}.withDefaults().Limits
	want := Limits{16, 1024, 64 << 20, 16 << 10, 512, 1024, 256, 256, 10, 8 << 20, 256 << 20, 1024, 64, 1 << 20, 1024, 1 << 20}
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if got := fmt.Sprint(Options{DrainWindow: -1}.withDefaults().DrainWindow); got != "-1ns" {
		t.Errorf("a negative window becomes %s", got)
	}
}
