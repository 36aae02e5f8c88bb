package interop

import (
	"cmp"
	"slices"
	"testing"
)

// settled fails the test if any of the clients has heard anything that it was not asked about. The ack
// comes after all that was under way to the client.
func settled(t *testing.T, clients ...*client) {
	t.Helper()
	for _, c := range clients {
		c.call(t, "count")
		if rest := c.rest(); len(rest) > 0 {
			t.Fatalf("%s: got %v, want nothing", c.name, rest)
		}
	}
}

func joinRoom(t *testing.T, room string, clients ...*client) {
	t.Helper()
	for _, c := range clients {
		if got := c.call(t, "join", room); !slices.Equal(got, []any{"ok"}) {
			t.Fatalf("join %s: got %v", room, got)
		}
	}
}

func TestEmitsReachTheRoomAndNobodyElse(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		a, _ := w.join(t, n)
		b, id := w.join(t, n)
		c, _ := w.join(t, n)
		joinRoom(t, "one", a, b)
		joinRoom(t, "two", b, c)

		a.emit(t, "to-room", "one", "hi", 1, bin(1))
		a.event(t, "hi", 1, bin(1))
		b.event(t, "hi", 1, bin(1))
		settled(t, a, b, c)

		c.emit(t, "to-room", "one", "hi", 2)
		a.event(t, "hi", 2)
		b.event(t, "hi", 2)
		settled(t, a, b, c)

		a.emit(t, "to-room", []any{"one", "two"}, "hi", 3)
		for _, c := range []*client{a, b, c} {
			c.event(t, "hi", 3)
		}
		settled(t, a, b, c)

		a.emit(t, "to-others", "one", "hi", 4)
		b.event(t, "hi", 4)
		settled(t, a, b, c)

		a.emit(t, "to-except", "two", "one", "hi", 5)
		c.event(t, "hi", 5)
		settled(t, a, b, c)

		a.emit(t, "to-room", id, "hi", 6)
		b.event(t, "hi", 6)
		settled(t, a, b, c)

		a.emit(t, "broadcast", "hi", 7, bin(7))
		b.event(t, "hi", 7, bin(7))
		c.event(t, "hi", 7, bin(7))
		settled(t, a, b, c)

		a.emit(t, "all", "hi", 8)
		for _, c := range []*client{a, b, c} {
			c.event(t, "hi", 8)
		}
		settled(t, a, b, c)
	})
}

func TestSocketsLeaveTheRoomsTheyJoined(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		a, id := w.join(t, n)
		joinRoom(t, "one", a)
		joinRoom(t, "two", a)
		want := []any{id, "one", "two"}
		slices.SortFunc(want, func(x, y any) int { return cmp.Compare(x.(string), y.(string)) })
		if got, ok := a.call(t, "rooms")[0].([]any); !ok || !slices.Equal(got, want) {
			t.Errorf("got the rooms %v, want %v", got, want)
		}
		if got := a.call(t, "leave", "one"); !slices.Equal(got, []any{"ok"}) {
			t.Errorf("leave: got %v", got)
		}
		a.emit(t, "to-room", "one", "gone", 1)
		a.emit(t, "to-room", "two", "there", 2)
		a.event(t, "there", 2)
		settled(t, a)
	})
}
