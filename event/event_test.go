package event_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"tether/broker"
	"tether/broker/memory"
	"tether/event"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/deptest"
)

type point struct{ X, Y int }

// percent checks itself on the value, name on the pointer.
type percent int

func (p percent) Validate() error {
	if p < 0 || p > 100 {
		return fmt.Errorf("%d is no percentage", int(p))
	}
	return nil
}

type name struct{ Text string }

func (n *name) Validate() error {
	if n.Text == "" {
		return hub.Refuse("a name is needed", map[string]int{"at least": 1})
	}
	return nil
}

var (
	move   = event.New[point]("move")
	set    = event.New[percent]("set")
	volume = event.New[percent]("volume")
	add    = event.NewCall[point, int]("add")
	rename = event.NewCall[name, string]("rename")
	exact  = event.NewCall[point, int]("exact").Strict()
)

// newHub is an application with all of these events.
func newHub(moved chan<- point) func(b broker.Broker) (*hub.Hub, error) {
	return func(b broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(b, hub.Options{})
		if err != nil {
			return nil, err
		}
		n := h.Of("/")
		move.Handle(n, func(_ context.Context, _ *hub.Socket, v point) error { moved <- v; return nil })
		add.Handle(n, func(_ context.Context, _ *hub.Socket, v point) (int, error) {
			switch v.X {
			case -1:
				return 0, hub.Refuse("negative", "x")
			case -2:
				return 0, errors.New("logged, and not answered")
			}
			return v.X + v.Y, nil
		})
		volume.Handle(n, func(_ context.Context, s *hub.Socket, v percent) error { return set.EmitTo(s, v) })
		rename.Handle(n, func(_ context.Context, _ *hub.Socket, v name) (string, error) { return v.Text, nil })
		exact.Handle(n, func(_ context.Context, _ *hub.Socket, v point) (int, error) { return v.X * v.Y, nil })
		return h, nil
	}
}

// only is the one socket of a hub.
func only(h *hub.Hub) (s *hub.Socket) {
	for s = range h.Of("/").Sockets() {
	}
	return s
}

func TestTypedEventsAndCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		moved := make(chan point, 2)
		node := hubtest.Start(t, newHub(moved))
		c := node.Connect(nil)
		s := only(node.Hub)

		c.Emit("move", "not a point")
		c.Emit("move")
		c.Emit("move", point{1, 2})
		if got := <-moved; got != (point{1, 2}) {
			t.Errorf("got %v, want only what fits", got)
		}
		c.Call("add", point{2, 3}).Expect(5)
		c.Call("add", point{X: -1}).ExpectRefusal("negative", "x")

		if r, err := move.Emit(t.Context(), node.Hub.Emitter(), hub.Everyone, point{3, 4}); err != nil || r.Nodes != 1 {
			t.Error(r, err)
		}
		if _, err := move.EmitMany(t.Context(), node.Hub.Emitter(), []hub.Target{s.Target()}, point{5, 6}); err != nil {
			t.Error(err)
		}
		if err := move.EmitTo(s, point{7, 8}); err != nil {
			t.Error(err)
		}
		for _, want := range []point{{3, 4}, {5, 6}, {7, 8}} {
			c.Expect("move", want)
		}
		c.RefuteAny()
		if move.Name() != "move" || add.Name() != "add" {
			t.Error("names are lost")
		}
	})
}

func TestACallIsAnsweredWithItsType(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, newHub(nil))
		c := node.Connect(nil)
		s := only(node.Hub)
		type result struct {
			sum int
			err error
		}
		results := make(chan result, 1)
		for _, tt := range []struct {
			answer []any
			sum    int
			err    error
		}{{[]any{9}, 9, nil}, {[]any{"nine"}, 0, hub.ErrArgs}, {nil, 0, hub.ErrArgs}} {
			go func() { // received below
				sum, err := add.Call(t.Context(), s, point{4, 5})
				results <- result{sum, err}
			}()
			c.Expect("add", point{4, 5}).Answer(tt.answer...)
			if got := <-results; got.sum != tt.sum || !errors.Is(got.err, tt.err) {
				t.Errorf("%v: got %v", tt.answer, got)
			}
		}
		if _, err := event.NewCall[int, int]("connect").Call(t.Context(), s, 1); !errors.Is(err, hub.ErrEvent) {
			t.Errorf("a reserved name: %v", err)
		}
	})
}

func TestAnArgumentThatDoesNotFitIsRefusedBeforeTheHandler(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := hubtest.Start(t, newHub(nil))
		c := node.Connect(nil)
		for _, tt := range []struct {
			event string
			args  []any
			want  string
			data  []any
		}{
			{"volume", []any{101}, "arguments do not fit: 101 is no percentage", nil},
			{"rename", []any{map[string]string{"Text": ""}}, "a name is needed", []any{map[string]int{"at least": 1}}},
			{"add", []any{map[string]string{"X": "one"}}, `arguments do not fit: "X" cannot be a string`, nil},
			{"add", nil, "arguments do not fit", nil},
			{"add", []any{[]int{}}, "arguments do not fit", nil},
			{"exact", []any{map[string]int{"X": 1, "Y": 2, "Z": 3}}, `arguments do not fit: "Z" is not known`, nil},
			{"exact", []any{map[string]int{"X": 1}}, `arguments do not fit: "Y" is missing`, nil},
			{"exact", nil, "arguments do not fit", nil},
		} {
			c.Call(tt.event, tt.args...).ExpectRefusal(tt.want, tt.data...)
		}
		c.Emit("volume", -1)
		c.Emit("volume", 50)
		c.Expect("set", 50)
		c.RefuteAny()
		c.Call("rename", map[string]any{"text": "ann", "more": 1}).Expect("ann")
		c.Call("exact", point{2, 3}).Expect(6)
		if got := node.Hub.Stats().Unfit; got != 9 {
			t.Errorf("%d events are counted as unfit, want 9", got)
		}
	})
}

func TestAHandlerThatCannotBeCalledPanicsAtOnce(t *testing.T) {
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for want, add := range map[string]func(){
		"Handle of move": func() { move.Handle(h.Of("/"), nil) },
		"Handle of add":  func() { add.Handle(h.Of("/"), nil) },
	} {
		said := func() (said any) {
			defer func() { said = recover() }()
			add()
			return nil
		}()
		if text, _ := said.(string); !strings.Contains(text, want) {
			t.Errorf("panics with %v, want %q in it", said, want)
		}
	}
}

func TestEventsNeedNoTransportAndNoDriver(t *testing.T) {
	deptest.OnHub(t, "tether/event")
}
