package interop

import (
	"context"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/hub"
	"tether/internal/conformance"
	"tether/token"
)

func TestEmitsReachTheOtherNode(t *testing.T) {
	t.Parallel()
	bus := memory.NewBus()
	one, two := serve(t, setup{name: "A", bus: bus}), serve(t, setup{name: "B", bus: bus})
	everyWay(t, func(t *testing.T, w way) {
		a, _ := w.join(t, one)
		b, id := w.join(t, two)
		if got := b.call(t, "node")[0]; got != "B" {
			t.Errorf("got node %v", got)
		}
		joinRoom(t, "room", a, b)
		joinRoom(t, "only b", b)
		payload := map[string]any{"text": "é😀", "bytes": bin(1, 2), "list": []any{bin(3), nil}}

		a.emit(t, "to-room", "room", "hi", payload, bin(4))
		a.event(t, "hi", payload, bin(4))
		b.event(t, "hi", payload, bin(4))
		a.emit(t, "to-others", "room", "hi", 2)
		b.event(t, "hi", 2)
		a.emit(t, "to-room", []any{"room", "only b"}, "hi", 3)
		a.event(t, "hi", 3)
		b.event(t, "hi", 3)
		a.emit(t, "to-except", "room", "only b", "hi", 4)
		a.event(t, "hi", 4)
		a.emit(t, "to-room", id, "hi", 5)
		b.event(t, "hi", 5)
		b.emit(t, "broadcast", "hi", 6, bin())
		a.event(t, "hi", 6, bin())
		b.emit(t, "all", "hi", 7)
		a.event(t, "hi", 7)
		b.event(t, "hi", 7)
		settled(t, a, b)

		for i := range 200 {
			a.emit(t, "to-room", "only b", "seq", i)
		}
		for i := range 200 {
			b.event(t, "seq", i)
		}
		settled(t, a, b)

		a.emit(t, "cluster-disconnect", "only b", true)
		if got := b.on(t, "disconnect"); w.js && got.Reason != "io server disconnect" {
			t.Errorf("got %v", got)
		}
		settled(t, a)
	})
}

func TestNodesAskEachOther(t *testing.T) {
	t.Parallel()
	bus := memory.NewBus()
	one, two := serve(t, setup{name: "A", bus: bus}), serve(t, setup{name: "B", bus: bus})
	everyWay(t, func(t *testing.T, w way) {
		a, idA := w.join(t, one)
		b, idB := w.join(t, two)
		both := []any{idA, idB}
		slices.SortFunc(both, func(x, y any) int { return strings.Compare(x.(string), y.(string)) })
		joinRoom(t, "asked", a, b)
		for _, c := range []*client{a, b} {
			want(t, c.call(t, "cluster-sockets", "asked"), []any{both})
			want(t, c.call(t, "cluster-sockets", nil), []any{both})
			want(t, c.call(t, "cluster-sockets", idB), []any{[]any{idB}})
			want(t, c.call(t, "cluster-sockets", "nobody"), []any{[]any{}})
		}
		want(t, a.call(t, "cluster-join", "asked", "other"), []any{"ok"})
		b.emit(t, "to-room", "other", "hi", 1) // as soon as it has been confirmed
		a.event(t, "hi", 1)
		b.event(t, "hi", 1)
		want(t, b.call(t, "cluster-leave", "asked", "other"), []any{"ok"})
		a.emit(t, "to-room", "other", "hi", 2)
		settled(t, a, b)
		want(t, a.call(t, "cluster-sockets", "other"), []any{[]any{}})
		want(t, a.call(t, "server-side", "x"), []any{[]any{"B:x"}})
		want(t, b.call(t, "server-side", 7), []any{[]any{"A:7"}})
		want(t, b.call(t, "server-side", 1000000), []any{[]any{"A:1000000"}})

		answer := map[string]any{"timeout": false, "answers": []any{"why", "why"}}
		want(t, a.call(t, "ask-room", "asked", "why"), []any{answer})
		a.event(t, "question", "why")
		b.event(t, "question", "why")
		settled(t, a, b)
	})
}

func want(t testing.TB, got, want []any) {
	t.Helper()
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestUserIsGreetedAndReachedOnEveryNode(t *testing.T) {
	t.Parallel()
	key, err := token.NewKey(token.GenerateKey())
	if err != nil {
		t.Fatal(err)
	}
	keys := token.NewKeyring(key)
	bus := memory.NewBus()
	o := conformance.Options{Keys: keys}
	one, two := serve(t, setup{name: "A", bus: bus, conformance: o}), serve(t, setup{name: "B", bus: bus, conformance: o})
	outside := bus.Broker()
	defer outside.Close()
	worker := hub.NewEmitter(outside, hub.EmitterOptions{})

	everyWay(t, func(t *testing.T, w way) {
		user := "user of " + t.Name()
		sealed, err := keys.SealUser(user, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		auth := map[string]any{"auth": map[string]any{"token": sealed}}
		var clients []*client
		for _, n := range []*node{one, two} {
			c := w.dial(t, n, "", auth)
			id := c.on(t, "connect").SID
			c.event(t, "/ops/connection-success", map[string]any{"message": "Successfully connected"})
			c.event(t, "welcome", map[string]any{"id": id, "auth": auth["auth"], "node": n.hub.Node()})
			clients = append(clients, c)
		}
		for name, e := range map[string]*hub.Emitter{"node A": one.hub.Emitter(), "a worker": worker} {
			receipt, err := e.Emit(context.Background(), hub.User(user), "/users/ping", map[string]any{"from": name})
			if want := (broker.Receipt{Nodes: 2, Bound: broker.Exact}); err != nil || receipt.Receipt != want {
				t.Errorf("%s: got %v, %v, want %v", name, receipt, err, want)
			}
			for _, c := range clients {
				c.event(t, "/users/ping", map[string]any{"from": name})
			}
		}
		receipt, err := worker.Emit(context.Background(), hub.User("nobody"), "/users/ping")
		if err != nil || !receipt.Nobody() {
			t.Errorf("nobody: got %v, %v", receipt, err)
		}

		stranger := w.dial(t, one, "", map[string]any{"auth": map[string]any{"token": "not a token"}})
		if got := stranger.on(t, "connect_error").Message; got != "unauthorized" {
			t.Errorf("got %q, want unauthorized", got)
		}
	})
}
