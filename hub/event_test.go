package hub

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestEventsOfAConnectionAreHandledInOrder(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Events: 1 << 20, EventBytes: 1 << 30}})
	const n = 2_000
	var got []int
	done := make(chan struct{})
	h.Of("/").On("n", func(_ context.Context, _ *Socket, m *Message) error {
		var i int
		if err := m.Decode(0, &i); err != nil {
			return err
		}
		if got = append(got, i); len(got) == n {
			close(done)
		}
		return nil
	})
	p, _ := connect(t, h)
	for i := range n {
		p.say(fmt.Sprintf(`2["n",%d]`, i))
	}
	<-done
	if !slices.IsSorted(got) {
		t.Error("events were handled out of order")
	}
}

func TestMiddlewareAndCatchAllHandlers(t *testing.T) {
	h := alone(t, Options{})
	ns := h.Of("/")
	calls := make(chan string, 20)
	ns.UseEvent(func(_ context.Context, _ *Socket, m *Message) error {
		calls <- "use " + m.Event()
		if m.Event() == "secret" {
			return errors.New("no")
		}
		return nil
	})
	ns.On("x", func(context.Context, *Socket, *Message) error { calls <- "on"; return errors.New("logged") })
	ns.On("x", func(_ context.Context, _ *Socket, m *Message) error { calls <- "on again"; return m.Ack() })
	ns.OnAny(func(_ context.Context, _ *Socket, m *Message) error { calls <- "any " + m.Event(); return nil })
	p, _ := connect(t, h)
	p.say(`2["secret"]`, `2[7]`, `20["x"]`)
	p.want(`430[]`)
	close(calls)
	want := []string{"use secret", "use 7", "any 7", "use x", "any x", "on", "on again"}
	if got := slices.Collect(values(calls)); !slices.Equal(got, want) {
		t.Errorf("calls are %q, want %q", got, want)
	}
}

func values[T any](c chan T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for v := range c {
			if !yield(v) {
				return
			}
		}
	}
}

func TestOutgoingEventsAreSeen(t *testing.T) {
	h := alone(t, Options{})
	var mu sync.Mutex
	var seen []string
	h.Of("/").OnAnyOutgoing(func(s *Socket, event string, args []any) {
		mu.Lock()
		defer mu.Unlock()
		text, err := json.Marshal(args)
		seen = append(seen, fmt.Sprintf("%s %s %v", event, text, err))
		if event == "panic" {
			panic("in a hook")
		}
	})
	p, s := connect(t, h)
	_, other := connect(t, h)
	if err := s.Emit("one", 1); err != nil {
		t.Error(err)
	}
	mustEmit(t, h.Emitter(), s.Target(), "two", 2.5)
	mustEmit(t, h.Emitter().Except(other.Target()), Everyone, "three", map[string]any{"a": "b"})
	mustEmit(t, h.Emitter(), Everyone, "four")
	s.Emit("panic")
	<-p.ended
	want := []string{`one [1] <nil>`, `two [2.5] <nil>`, `three [{"a":"b"}] <nil>`, `four [] <nil>`, `four [] <nil>`, `panic null <nil>`}
	if !slices.Equal(seen, want) {
		t.Errorf("seen are %q, want %q", seen, want)
	}
}

// Every callback panics; only the connection that it was about ends.
func TestAPanicEndsItsConnectionOnly(t *testing.T) {
	var log bytes.Buffer
	h := alone(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	gone := make(chan Reason, 10)
	boom := func() { panic("a secret that is not to be logged") }
	root := h.Of("/")
	root.On("boom", func(context.Context, *Socket, *Message) error { boom(); return nil })
	root.On("index", func(_ context.Context, _ *Socket, m *Message) error {
		m.Args()[len(m.args)] = 0
		return nil
	})
	root.OnDisconnect(func(_ *Socket, r Reason) { gone <- r })
	h.Of("/use").Use(func(context.Context, *Socket) error { boom(); return nil })
	h.Of("/connect").OnConnect(func(context.Context, *Socket) error { boom(); return nil })
	h.Of("/bye").OnDisconnect(func(*Socket, Reason) { boom() })
	h.Of("/bye").OnDisconnect(func(_ *Socket, r Reason) { gone <- r })
	bystander, _ := connect(t, h)

	for _, text := range []string{`2["boom"]`, `2["index"]`} {
		p, _ := connect(t, h)
		p.say(text)
		<-p.ended
		if got := <-gone; got != ReasonServerClose {
			t.Errorf("%s: ended for %q", text, got)
		}
	}
	for _, text := range []string{"0/use,", "0/connect,"} {
		p := dial(t, h)
		p.say(text)
		<-p.ended
		p.wantNothing()
	}
	p := dial(t, h)
	p.say("0/bye,")
	p.joined("/bye")
	p.say("1/bye,")
	if got := <-gone; got != ReasonClientDisconnect {
		t.Errorf("the second hook was told %q", got)
	}
	<-p.ended

	bystander.say(`2["nothing"]`)
	if bystander.closedFor() != "" {
		t.Error("a connection that had nothing to do with it was closed")
	}
	if got := h.Stats().Panics; got != 5 {
		t.Errorf("%d panics are counted, want 5", got)
	}
	if got := h.Stats().Connections; got != 1 {
		t.Errorf("%d connections are left, want 1", got)
	}
	if text := log.String(); strings.Contains(text, "a secret") || !strings.Contains(text, "index out of range") {
		t.Errorf("log: %s", text)
	}
}

func TestBinaryComesAndGoes(t *testing.T) {
	h := alone(t, Options{})
	type nested struct {
		Name string
		Data Binary
		List []map[string][]byte
	}
	h.Of("/").On("decode", func(_ context.Context, _ *Socket, m *Message) error {
		var top []byte
		var in nested
		if err := m.Bind(&top, &in); err != nil {
			return err
		}
		return m.Ack(top, string(in.Data), string(in.List[0]["x"]), in.Name)
	})
	h.Of("/").On("echo", func(_ context.Context, s *Socket, m *Message) error { return s.Emit("back", m.Args()...) })
	h.Of("/").On("second", func(_ context.Context, s *Socket, m *Message) error { return s.Emit("back", m.Args()[1:]...) })
	p, s := connect(t, h)
	send := func(text string, attachments ...string) {
		t.Helper()
		p.say(text)
		for _, a := range attachments {
			data := []byte(a)
			if err := p.client.Binary(data); err != nil {
				t.Fatal(err)
			}
			clear(data) // the transport uses it again
		}
	}
	want := func(text string, attachments ...string) {
		t.Helper()
		packet := p.nextPacket()
		got := []string{string(packet.Text())}
		for i := range packet.Attachments() {
			got = append(got, string(packet.Attachment(i)))
		}
		if want := append([]string{text}, attachments...); !slices.Equal(got, want) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	send(`53-4["decode",{"_placeholder":true,"num":0},{"Name":"n","Data":{"_placeholder":true,"num":1},"List":[{"x":{"num":2,"_placeholder":true}}]}]`,
		"\x00\x01", "data", "x")
	want(`461-4[{"_placeholder":true,"num":0},"data","x","n"]`, "\x00\x01")

	send(`52-["echo",{"b":{"_placeholder":true,"num":1},"a":1e2},{"_placeholder":true,"num":0},12345678901234567890]`, "", "two")
	want(`452-["back",{"b":{"_placeholder":true,"num":0},"a":1e2},{"_placeholder":true,"num":1},12345678901234567890]`, "two", "")

	var first int
	if m := (&Message{args: [][]byte{[]byte("7"), []byte("8")}}); m.Bind(&first, nil) != nil || first != 7 || m.Raw(2) != nil {
		t.Error("arguments are not bound")
	}
	inside, err := json.Marshal(passed{[]byte(`[{"_placeholder":true,"num":0}]`), [][]byte{[]byte("x")}})
	if err != nil || string(inside) != `["eA=="]` {
		t.Errorf("inside another value: %s, %v", inside, err)
	}

	send(`52-["second",{"_placeholder":true,"num":0},[{"_placeholder":true,"num":1}]]`, "one", "two")
	want(`451-["back",[{"_placeholder":true,"num":0}]]`, "two")

	if err := s.Emit("b", nested{"n", Binary("1"), []map[string][]byte{{"x": []byte("2")}}}, Binary(nil), []byte{}); err != nil {
		t.Fatal(err)
	}
	want(`452-["b",{"Name":"n","Data":{"_placeholder":true,"num":0},"List":[{"x":"Mg=="}]},null,{"_placeholder":true,"num":1}]`, "1", "")

	mustEmit(t, h.Emitter(), Everyone, "b", map[string]any{"z": Binary("9"), "a": []Binary{Binary("7"), Binary("8")}})
	want(`453-["b",{"a":[{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}],"z":{"_placeholder":true,"num":2}}]`, "7", "8", "9")
}

func TestArgumentsAreEncodedAsTheyAre(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	for _, c := range []struct {
		args []any
		want string
	}{
		{[]any{nil, true, -7, uint64(1 << 63), 1.5}, `42["e",null,true,-7,9223372036854775808,1.5]`},
		{[]any{"<a href=\"x\">&\u2028\x00é\xff"}, `42["e","<a href=\"x\">&\u2028\u0000é\ufffd"]`},
		{[]any{json.RawMessage(`{"b":1.0,"a":1e400, "c":[]}`)}, `42["e",{"b":1.0,"a":1e400, "c":[]}]`},
		{[]any{json.RawMessage(nil)}, `42["e",null]`},
		{[]any{struct{ R json.RawMessage }{json.RawMessage(`12345678901234567890`)}}, `42["e",{"R":12345678901234567890}]`},
	} {
		if err := s.Emit("e", c.args...); err != nil {
			t.Fatal(err)
		}
		p.want(c.want)
	}
	if err := s.Emit("ümlaut \"x\""); err != nil {
		t.Fatal(err)
	}
	p.want(`42["ümlaut \"x\""]`)
	for name, arg := range map[string]any{
		"channel":  make(chan int),
		"raw":      json.RawMessage(`{"a"`),
		"not utf8": json.RawMessage("\"\xff\""),
		"eleven":   make([]Binary, 11),
	} {
		if name == "eleven" {
			for i := range 11 {
				arg.([]Binary)[i] = Binary("x")
			}
		}
		if err := s.Emit("e", arg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	p.wantNothing()
}

func TestAMarkIsNotForged(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	text := string(marker[1:])
	if err := s.Emit("e", []string{text + "*", text}); err != nil {
		t.Fatal(err)
	}
	got := p.nextPacket()
	if !strings.Contains(string(got.Text()), text+"*") {
		t.Errorf("client got %s", got.Text())
	}
}

func TestEventNamesThatMayNotBeEmitted(t *testing.T) {
	h := alone(t, Options{Events: []string{"/users/ping"}})
	_, s := connect(t, h)
	ctx := t.Context()
	for name, err := range map[string]error{
		"emitter": second(h.Emitter().Emit(ctx, Everyone, "disconnect")),
		"union":   second(h.Emitter().EmitUnion(ctx, []Target{Room("a")}, "disconnecting")),
		"many":    second(h.Emitter().EmitMany(ctx, []Target{Room("a")}, "newListener")),
		"socket":  s.Emit("connect_error"),
		"ack":     second(s.EmitAck(ctx, "removeListener")),
	} {
		if !errors.Is(err, ErrEvent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.Emitter().Emit(ctx, Everyone, "/users/pong"); !errors.Is(err, ErrEvent) {
		t.Errorf("undeclared event: %v", err)
	}
	if err := s.Emit("/users/pong"); !errors.Is(err, ErrEvent) {
		t.Errorf("undeclared event: %v", err)
	}
	mustEmit(t, h.Emitter(), Everyone, "/users/ping")
	if _, err := New(h.broker, Options{Greeting: Greeting{Event: "connect"}}); !errors.Is(err, ErrEvent) {
		t.Errorf("greeting: %v", err)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAnAnswerIsGivenOnce(t *testing.T) {
	h := alone(t, Options{})
	errs := make(chan error, 4)
	h.Of("/").On("x", func(_ context.Context, _ *Socket, m *Message) error {
		errs <- m.Ack(make(chan int)) // not an answer
		errs <- m.Ack(1)
		errs <- m.Ack(2)
		return nil
	})
	p, _ := connect(t, h)
	p.say(`20["x"]`)
	p.want("430[1]")
	if a, b, c := <-errs, <-errs, <-errs; a == nil || b != nil || !errors.Is(c, errAcked) {
		t.Errorf("errors are %v, %v, %v", a, b, c)
	}
	p.say(`2["x"]`)
	if a, b, c := <-errs, <-errs, <-errs; a != nil || b != nil || c != nil {
		t.Errorf("errors are %v, %v, %v where no answer is wanted", a, b, c)
	}
	p.wantNothing()
}

func TestWaitingForAnAnswerEnds(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Acks: 2}})
	inHook := make(chan error, 1)
	h.Of("/").OnConnect(func(ctx context.Context, s *Socket) error {
		_, err := s.EmitAck(ctx, "q")
		inHook <- err
		return nil
	})
	p, s := connect(t, h)
	if err := <-inHook; !errors.Is(err, errConnecting) {
		t.Errorf("in a connect hook: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.EmitAck(canceled, "q"); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	p.want(`420["q"]`)
	p.say(`30[]`) // too late
	errs := make(chan error, 2)
	for range 2 {
		go func() { errs <- second(s.EmitAck(context.Background(), "q")) }() // received below
		p.next()
	}
	if _, err := s.EmitAck(t.Context(), "q"); !errors.Is(err, errTooManyAcks) {
		t.Errorf("past the limit: %v", err)
	}
	p.end(ReasonTransportClose)
	if a, b := <-errs, <-errs; !errors.Is(a, ErrDisconnected) || !errors.Is(b, ErrDisconnected) {
		t.Errorf("disconnected: %v, %v", a, b)
	}
	if _, err := s.EmitAck(t.Context(), "q"); !errors.Is(err, ErrDisconnected) {
		t.Errorf("afterwards: %v", err)
	}
}

// TestAClientThatAnswersTwiceHoldsNothingUp has the answers come before anybody looks at the first.
func TestAClientThatAnswersTwiceHoldsNothingUp(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	id, answer, err := s.await()
	if err != nil {
		t.Fatal(err)
	}
	said := make(chan struct{})
	go func() {
		defer close(said)
		for i := range 3 {
			p.say(fmt.Sprintf("3%d[%d]", id, i))
		}
	}()
	select {
	case <-said:
	case <-time.After(10 * time.Second):
		t.Fatal("the connection is not read any more")
	}
	if m := <-answer; string(m.Raw(0)) != "0" {
		t.Errorf("got answer %s, want the first", m.Raw(0))
	}
	if got := h.Stats().Acks; got != 1 {
		t.Errorf("%d answers are counted, want 1", got)
	}
}

func TestAClientThatWaitsForAnAnswerIsToldOfItsMistake(t *testing.T) {
	var log sharedBuffer
	h := alone(t, Options{Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	n := h.Of("/")
	n.On("move", func(_ context.Context, _ *Socket, m *Message) error {
		return m.Decode(0, &struct{ X, Y int }{})
	})
	n.On("refuse", func(context.Context, *Socket, *Message) error { return Refuse("not now", []int{1}) })
	n.On("refuse badly", func(context.Context, *Socket, *Message) error { return Refuse("not now", make(chan int)) })
	n.On("answer, and fail", func(_ context.Context, _ *Socket, m *Message) error { return errors.Join(m.Ack(1), ErrArgs) })
	n.On("decode", func(_ context.Context, _ *Socket, m *Message) error {
		if err := m.Decode(0, new(int)); err != nil {
			return err
		}
		return m.Ack()
	})
	n.On("fail", func(context.Context, *Socket, *Message) error { return errors.New("no such table") })
	n.UseEvent(func(_ context.Context, _ *Socket, m *Message) error {
		if m.Event() == "guarded" {
			return Refuse("guarded", nil)
		}
		return nil
	})
	p, _ := connect(t, h)
	for i, c := range []struct{ event, want string }{
		{`["move",{"X":"one"}]`, `[null,{"message":"arguments do not fit: \"X\" cannot be a string"}]`},
		{`["move","one"]`, `[null,{"message":"arguments do not fit"}]`},
		{`["move"]`, `[null,{"message":"arguments do not fit"}]`},
		{`["decode","x"]`, `[null,{"message":"arguments do not fit"}]`},
		{`["nobody handles this"]`, `[null,{"message":"no handler for this event"}]`},
		{`["refuse"]`, `[null,{"message":"not now","data":[1]}]`},
		{`["guarded"]`, `[null,{"message":"guarded"}]`},
		{`["answer, and fail"]`, `[1]`},
		{`["fail"]`, ""},
		{`["refuse badly"]`, ""},
	} {
		p.say(fmt.Sprintf("2%d%s", i, c.event))
		if c.want != "" {
			p.want(fmt.Sprintf("43%d%s", i, c.want))
		}
	}
	p.say(`2["move","and nobody waits"]`, `2["nobody handles this, nor waits"]`, `299["decode",1]`)
	p.want(`4399[]`)
	s := h.Stats()
	if s.Unhandled != 2 || s.Unfit != 6 {
		t.Errorf("%d events are counted as unhandled, want 2, and %d as unfit, want 6", s.Unhandled, s.Unfit)
	}
	text := log.String()
	if got := strings.Count(text, "level=DEBUG msg=\"event without a handler\""); got != 2 {
		t.Errorf("%d lines are about events without a handler, want 2:\n%s", got, text)
	}
	if got := strings.Count(text, "level=ERROR"); got != 2 { // "fail", and the data that cannot be sent
		t.Errorf("%d errors are logged, want 2:\n%s", got, text)
	}
}
