package interop

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"tether/transport"
)

// values are arguments that a codec could spoil.
func values() [][]any {
	return [][]any{
		{},
		{nil},
		{"", 0, -1.5, 1e21, true, false, nil},
		{"é€😀\u2028\x00\x1e\"\\/", "42[\"x\"]"},
		{map[string]any{"a": map[string]any{"b": []any{1, []any{}, map[string]any{}}}, "": "empty"}},
		{[]any{"one argument that is an array"}},
		{bin(1, 2, 3)},
		{bin()},
		{map[string]any{"file": bin(0, 255), "list": []any{bin(9), 1, map[string]any{"deep": bin(8)}}}, "text", bin(7)},
		{strings.Repeat("x", 70_000), bin([]byte(strings.Repeat("y", 70_000))...)},
	}
}

func TestEventsComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		for _, args := range values() {
			c.emit(t, "echo", args...)
			c.event(t, "echo-back", args...)
		}
	})
}

// TestAClientMayForceBase64 has binary go as text in both directions.
func TestAClientMayForceBase64(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyJS(t, func(t *testing.T, w way) {
		c := w.dial(t, n, "", map[string]any{"forceBase64": true})
		w.welcome(t, c, n, c.on(t, "connect").SID)
		for _, args := range values() {
			c.emit(t, "echo", args...)
			c.event(t, "echo-back", args...)
		}
	})
}

func TestPollingResponsesMayBeCompressed(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{transport: transport.Options{CompressPolling: 10}})
	someWays(t, func(*kind) bool { return true }, []string{"polling"}, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		for _, args := range values() {
			c.emit(t, "echo", args...)
			c.event(t, "echo-back", args...)
		}
	})
}

func TestAcksCarryWhatTheEventCarried(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		for _, args := range values() {
			if !w.js && len(args) == 1 && args[0] == nil {
				continue // python-socketio does not tell an ack with None from an empty one
			}
			if got, want := fmt.Sprint(c.call(t, "echo-ack", args...)), fmt.Sprint(plain(args)); got != want {
				t.Errorf("got %.300s, want %.300s", got, want)
			}
		}
	})
}

func TestClientsAnswerQuestions(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		for _, args := range values()[2:] {
			c.emit(t, "ask", args...)
			c.event(t, "question", args...)
			c.event(t, "answer", append([]any{"ok"}, args...)...)
		}
	})
}

func TestQuestionsWithoutAnAnswerTimeOut(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	someWays(t, func(*kind) bool { return true }, []string{"default"}, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		if w.js {
			c.emit(t, "ask", "silence")
			c.event(t, "question", "silence")
			c.event(t, "answer", "timeout")
		}
		call := map[string]any{"do": "call", "client": c.name, "event": "echo", "args": []any{"no answer"}, "timeout": 100}
		if l := c.d.do(t, call); l.Error != "timeout" {
			t.Errorf("got %v, want a timeout", l)
		}
		c.event(t, "echo-back", "no answer")
		c.emit(t, "echo", "still here")
		c.event(t, "echo-back", "still here")
	})
}

func TestAnEventThatNobodyHandlesIsAnsweredWithAnError(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	someWays(t, func(*kind) bool { return true }, []string{"default"}, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		l := c.d.do(t, map[string]any{"do": "call", "client": c.name, "event": "nobody listens to this", "args": []any{1}, "timeout": 20_000})
		if want := []any{nil, map[string]any{"message": "no handler for this event"}}; l.Error != "" || !reflect.DeepEqual(l.Args, want) {
			t.Errorf("got %v, want %v", l, want)
		}
	})
}

func TestManyEventsComeInOrder(t *testing.T) {
	t.Parallel()
	const count = 2000
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		c.emit(t, "many", count)
		for i := range count {
			c.event(t, "seq", i)
		}
		const sent = 300
		c.d.must(t, map[string]any{"do": "burst", "client": c.name, "event": "echo", "n": sent})
		for i := range sent {
			c.event(t, "echo-back", i)
		}
	})
}

func TestLargeMessagesPassBothWays(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		c.emit(t, "big", 900_000)
		c.event(t, "big", strings.Repeat("x", 900_000))
		large := strings.Repeat("z", 600_000)
		c.emit(t, "echo", large)
		c.event(t, "echo-back", large)
		blob := bin([]byte(large[:300_000])...) // not every client splits a polling request at the limit
		c.emit(t, "echo", blob, "and", blob)
		c.event(t, "echo-back", blob, "and", blob)
	})
}

func TestVolatileEventsComeInOrderOrNotAtAll(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		for i := range 20 {
			c.emit(t, "volatile", "tick", i)
		}
		c.emit(t, "echo", "end")
		last := -1.0
		for l := c.next(t); l.Event != "echo-back"; l = c.next(t) {
			i, ok := l.Args[0].(float64)
			if l.Event != "tick" || !ok || i <= last {
				t.Fatalf("got %v after tick %v", l, last)
			}
			last = i
		}
		if w.transports == "websocket" && last < 0 {
			t.Error("all volatile events were dropped on an idle websocket")
		}
	})
}
