package hub

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
)

// notes is a tracer that notes everything. It follows the event "followed".
type notes struct {
	name string
	mark string
	none bool // follows nothing

	mu    sync.Mutex
	notes []string // guarded by mu
}

func (n *notes) note(format string, args ...any) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.notes = append(n.notes, fmt.Sprintf(format, args...))
}

func (n *notes) take() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	taken := n.notes
	n.notes = nil
	return taken
}

func (n *notes) want(t *testing.T, want ...string) {
	t.Helper()
	if got := n.take(); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func (n *notes) Name() string { return n.name }

func (n *notes) Sampled(_ context.Context, _ string, to Target, event string) bool {
	return !n.none && event == "followed"
}

func (n *notes) Emit(_ context.Context, namespace string, to []Target, event string) ([]byte, func([]Receipt, error)) {
	n.note("emit %s %v %s", namespace, to, event)
	return []byte(n.mark), func(r []Receipt, err error) { n.note("done %v %v", r, err) }
}

func (n *notes) Arrived(mark []byte, namespace, event string) engine.Watcher {
	n.note("arrived %s %s %s", mark, namespace, event)
	return watching{n}
}

type watching struct{ *notes }

func (w watching) Became(_ engine.Conn, o engine.Outcome) { w.note("%s", o) }
func (w watching) Routed(sockets int)                     { w.note("routed %d", sockets) }

type handledKey struct{}

func (n *notes) Handle(ctx context.Context, _ *Socket, m *Message, declared bool) (context.Context, func(error)) {
	if n.none {
		return ctx, nil
	}
	n.note("handle %s %v", m.Event(), declared)
	return context.WithValue(ctx, handledKey{}, "yes"), func(err error) { n.note("handled %v", err) }
}

func TestATracerIsToldOfAnEventOnItsWay(t *testing.T) {
	a, b := &notes{name: "a", mark: "mark"}, &notes{name: "b", mark: "other"}
	h := start(t, memory.NewBus().Broker(), Options{Tracers: []Tracer{a, b}})
	p, s := connect(t, h)
	if err := s.Register(t.Context(), "42"); err != nil {
		t.Fatal(err)
	}
	<-p.packets // the greeting
	emitter := h.Emitter()
	took := "[1 node took it] <nil>"
	for name, emit := range map[string]func() error{
		"user:42": func() error { _, err := emitter.Emit(t.Context(), User("42"), "followed"); return err },
		"socket:" + s.ID(): func() error {
			_, err := emitter.Emit(t.Context(), s.Target(), "followed", Binary("attached"))
			return err
		},
		"everyone": func() error {
			_, err := emitter.Local().Overflow(DropOldest).Except(Room("else")).Emit(t.Context(), Everyone, "followed")
			return err
		},
	} {
		if err := emit(); err != nil {
			t.Fatal(err)
		}
		if got := string((<-p.packets).Text()); !strings.Contains(got, `["followed"`) {
			t.Errorf("the client gets %q", got)
		}
		a.want(t, "emit / ["+name+"] followed", "arrived mark / followed", "written", "routed 1", "done "+took)
		b.want(t, "emit / ["+name+"] followed", "arrived other / followed", "written", "routed 1", "done "+took)
	}
	if _, err := emitter.Emit(t.Context(), User("43"), "followed"); err != nil {
		t.Fatal(err)
	}
	a.want(t, "emit / [user:43] followed", "done [nobody is there] <nil>")
	if _, err := emitter.EmitUnion(t.Context(), []Target{User("42"), {}}, "followed"); !errors.Is(err, ErrTarget) {
		t.Error(err)
	}
	if got := a.take(); len(got) != 2 || !strings.HasSuffix(got[1], ErrTarget.Error()) {
		t.Errorf("an error: %q", got)
	}
	if _, err := emitter.Emit(t.Context(), User("42"), "plain"); err != nil {
		t.Fatal(err)
	}
	a.want(t)
	b.take()

	data := eventData(t, emitter, "", a.mark, "followed")
	h.deliver(broker.Message{Subject: roomSubject("tether", "/", User("gone")), Data: data})
	a.want(t, "arrived mark / followed", "routed 0")
	gone := roomSubject("tether", "/", SocketID(h.tag+strings.Repeat("A", idLength-tagLength)))
	for target, namespace := range map[string]string{gone: "/", "": "", "x": ""} {
		h.deliver(broker.Message{Subject: h.subject, Data: eventData(t, emitter, target, a.mark, "followed")})
		a.want(t, "arrived mark "+namespace+" followed", "routed 0")
	}
}

// telling is a tracer that says what its marks mean.
type telling struct{ *notes }

func (n telling) Trace(mark []byte) *broker.Trace {
	return &broker.Trace{Parent: n.name + string(mark)}
}

// TestAMarkIsToldToOthersAtTheBroker by the first tracer that can, with all that is emitted.
func TestAMarkIsToldToOthersAtTheBroker(t *testing.T) {
	seen := &spy{Broker: memory.NewBus().Broker()}
	h := start(t, seen, Options{Tracers: []Tracer{
		&notes{name: "a", mark: "silent"}, telling{&notes{name: "b", mark: "1"}}, telling{&notes{name: "c", mark: "2"}},
	}})
	_, s := connect(t, h)
	if err := s.Register(t.Context(), "42"); err != nil {
		t.Fatal(err)
	}
	e := h.Emitter()
	emits := map[string]func(event string) error{
		"to a user":   func(event string) error { _, err := e.Emit(t.Context(), User("42"), event, "payload"); return err },
		"to a socket": func(event string) error { _, err := e.Emit(t.Context(), s.Target(), event, "payload"); return err },
		"to a socket that has moved": func(event string) error {
			_, err := e.Emit(t.Context(), SocketID(newTag()+strings.Repeat("A", idLength-tagLength)), event, "payload")
			return err
		},
		"to several": func(event string) error {
			_, err := e.EmitUnion(t.Context(), []Target{User("41"), User("42")}, event, "payload")
			return err
		},
		"with a question": func(event string) error {
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // nobody answers
			for range e.EmitAck(ctx, User("42"), event, "payload").All {
			}
			return nil
		},
	}
	for name, emit := range emits {
		for event, want := range map[string]bool{"followed": true, "plain": false} {
			seen.trace = &broker.Trace{Parent: "none was published"}
			if err := emit(event); err != nil {
				t.Fatal(err)
			}
			if got := seen.trace; (got != nil) != want || want && got.Parent != "b1" {
				t.Errorf("%s, %s: the broker is told %v", name, event, got)
			}
		}
	}
}

// eventData is an envelope with a mark of tracer a, and one of a tracer that nobody has.
func eventData(t testing.TB, e *Emitter, target, mark, event string) []byte {
	t.Helper()
	enc := newEncoder()
	defer enc.free()
	if err := enc.event(event, nil); err != nil {
		t.Fatal(err)
	}
	marks := appendText(appendText(nil, "unknown"), "x")
	m := batch{emitter: e, encoder: enc, flags: flagMarks, marks: appendText(appendText(marks, "a"), mark)}
	return m.envelope(target, nil)
}

func TestANodeWithoutATracerDeliversWhatIsFollowed(t *testing.T) {
	h := start(t, memory.NewBus().Broker(), Options{})
	p, _ := connect(t, h)
	everyone := roomSubject("tether", "/", Everyone)
	h.deliver(broker.Message{Subject: everyone, Data: eventData(t, h.Emitter(), "", "mark", "x")})
	p.want(`42["x"]`)
	for _, broken := range []string{"\x09", "\x01a", "\x01a\x09"} {
		h.follow(engine.NewPacket(engine.Terms{}, []byte(`42["x"]`)), []byte(broken), "/", "") // reads no further
	}
	data := appendEnvelope(nil, kindEvent, flagMarks, "", nil)
	for _, n := range []int{maxMarks, maxMarks + 1} {
		_, err := parseEnvelope(appendText(slices.Clone(data), strings.Repeat("x", n)))
		if (err != nil) != (n > maxMarks) {
			t.Errorf("marks of %d bytes: %v", n, err)
		}
	}
}

func TestAHandlerGetsTheContextOfTheTracer(t *testing.T) {
	a := &notes{name: "a"}
	h := start(t, memory.NewBus().Broker(), Options{Tracers: []Tracer{a, &notes{name: "b", none: true}}})
	handled := make(chan any, 1)
	fails := errors.New("fails")
	h.Of("/").On("x", func(ctx context.Context, _ *Socket, _ *Message) error {
		handled <- ctx.Value(handledKey{})
		return fails
	})
	h.Of("/").OnDisconnect(func(*Socket, Reason) { handled <- nil })
	p, _ := connect(t, h)
	p.say(`2["x"]`)
	if got := <-handled; got != "yes" {
		t.Errorf("the context has %v", got)
	}
	p.say(`2["unknown"]`)
	p.Close(ReasonServerClose)
	<-handled
	a.want(t, "handle x true", "handled fails", "handle unknown false", "handled <nil>")
}

func TestTracersAreChecked(t *testing.T) {
	for _, row := range []struct {
		tracers []Tracer
		wrong   string
	}{
		{tracers: []Tracer{&notes{name: strings.Repeat("x", 16)}, &notes{name: "b"}, &notes{name: "c"}, &notes{name: "d"}}},
		{[]Tracer{&notes{name: "a"}, &notes{name: "b"}, &notes{name: "c"}, &notes{name: "d"}, &notes{name: "e"}}, "at most 4"},
		{[]Tracer{&notes{name: strings.Repeat("x", 17)}}, "a name of its own"},
		{[]Tracer{&notes{}}, "a name of its own"},
		{[]Tracer{&notes{name: "a"}, &notes{name: "a"}}, "a name of its own"},
		{[]Tracer{nil}, "nil"},
	} {
		_, err := New(memory.NewBus().Broker(), Options{Tracers: row.tracers})
		if row.wrong == "" && err != nil || row.wrong != "" && (err == nil || !strings.Contains(err.Error(), row.wrong)) {
			t.Errorf("%d tracers: %v, want %q", len(row.tracers), err, row.wrong)
		}
	}
	for n, travels := range map[int]bool{0: false, 1: true, maxMark: true, maxMark + 1: false} {
		var m emission
		m.begin(&notes{name: "a", mark: strings.Repeat("x", n)}, t.Context(), "/", nil, "x")
		if (len(m.marks) > 0) != travels {
			t.Errorf("a mark of %d bytes: %d bytes of marks", n, len(m.marks))
		}
	}
}

// TestWhatIsNotFollowedPaysNothing: not an allocation of the emit and the delivery, not a byte of the envelope.
func TestWhatIsNotFollowedPaysNothing(t *testing.T) {
	if raceDetector {
		t.Skip("with the race detector pools lose what they have, at random")
	}
	allocations := func(o Options) (float64, []byte) {
		bus := memory.NewBus()
		seen := &spy{Broker: bus.Broker()}
		h := start(t, seen, o)
		p, s := connect(t, h)
		emitter := h.Emitter()
		emit := func() {
			if _, err := emitter.Emit(t.Context(), s.Target(), "plain", "payload"); err != nil {
				t.Fatal(err)
			}
			<-p.packets
		}
		emit()
		data := bytes.Clone(seen.last)
		return testing.AllocsPerRun(1000, emit), data
	}
	tracers := Options{Tracers: []Tracer{&notes{name: "a"}, &notes{name: "b"}}}
	without, plain := allocations(Options{})
	with, same := allocations(tracers)
	for range 2 { // the collector may have emptied a pool meanwhile
		again, _ := allocations(Options{})
		without = max(without, again)
		again, _ = allocations(tracers)
		with = min(with, again)
	}
	if with > without || len(same) != len(plain) {
		t.Errorf("with tracers %v allocations and %d bytes, without %v and %d", with, len(same), without, len(plain))
	}
}

// spy is a broker that keeps the last message that was emitted: nodes publish others, too.
type spy struct {
	broker.Broker
	last  []byte
	trace *broker.Trace
}

func (s *spy) Publish(ctx context.Context, m ...broker.Message) ([]broker.Receipt, error) {
	if data := m[len(m)-1].Data; bytes.Contains(data, []byte("payload")) {
		s.last, s.trace = append(s.last[:0], data...), m[len(m)-1].Trace
	}
	return s.Broker.Publish(ctx, m...)
}

// BenchmarkFollow is an emit to one socket and its delivery: without tracers, and with one that does not follow it.
func BenchmarkFollow(b *testing.B) {
	for _, c := range []struct {
		name    string
		tracers []Tracer
	}{{"off", nil}, {"not followed", []Tracer{&notes{name: "a"}}}} {
		b.Run(c.name, func(b *testing.B) {
			h := start(b, memory.NewBus().Broker(), Options{Tracers: c.tracers})
			p, s := connect(b, h)
			emitter, to := h.Emitter(), s.Target()
			b.ReportAllocs()
			for b.Loop() {
				if _, err := emitter.Emit(b.Context(), to, "plain", payload); err != nil {
					b.Fatal(err)
				}
				<-p.packets
			}
		})
	}
}
