package interop

import (
	"context"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/hub"
	"tether/internal/conformance"
	"tether/token"
)

func TestEmitsReachTheOtherNode(t *testing.T) {
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

func TestUserIsGreetedAndReachedOnEveryNode(t *testing.T) {
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
			if want := (hub.Receipt{Nodes: 2, Bound: broker.Exact}); err != nil || receipt != want {
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
