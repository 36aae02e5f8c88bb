package nats

import (
	"testing"

	natsio "github.com/nats-io/nats.go"
)

// At MaxPending a message has room, one byte past it it has not; what this side sent itself always has.
func TestTheBacklogHoldsWhatItsLimitSays(t *testing.T) {
	m := &natsio.Msg{Subject: "s", Data: make([]byte, 100)}
	q := newBacklog(3*cost(m) - 1)
	for i := range 2 {
		if !q.put(m, false) {
			t.Fatalf("message %d has no room", i)
		}
	}
	if q.put(m, false) {
		t.Error("a message past the limit has room")
	}
	if !q.put(&natsio.Msg{Subject: "s", Data: make([]byte, 99)}, false) {
		t.Error("a message at the limit has no room")
	}
	if q.put(&natsio.Msg{}, false) || !q.put(m, true) {
		t.Error("past the limit there is room for others, or none for what is ours")
	}
	if got := q.take(nil); len(got) != 4 {
		t.Fatalf("%d messages wait, want 4", len(got))
	}
	if q.put(m, false) {
		t.Error("what has been taken and waits for Deliver does not count")
	}
	q.done(2 * cost(m))
	if !q.put(&natsio.Msg{}, false) {
		t.Error("there is no room again")
	}
}
