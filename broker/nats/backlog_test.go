package nats

import (
	"slices"
	"testing"

	natsio "github.com/nats-io/nats.go"

	"tether/broker/internal/beat"
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

// TestACancellationThatFindsNoRoomLeavesItsMark has the backlog full when a cancellation comes: what waits may be
// what it is for, so what has come by then is dropped before anything else is done.
func TestACancellationThatFindsNoRoomLeavesItsMark(t *testing.T) {
	held := &natsio.Msg{Subject: "s", Data: make([]byte, 100)}
	for name, overflow := range map[string]struct {
		reply string
		lost  bool
	}{"a cancellation": {"inbox.1.0" + cancellation, true}, "a message": {"inbox.1.0", false}} {
		t.Run(name, func(t *testing.T) {
			r := &run{
				b:       &Broker{interest: newInterest()},
				subject: "ours",
				in:      make(chan *natsio.Msg, 8),
				backlog: newBacklog(cost(held)),
				pulse:   beat.NewPulse(),
				lost:    new(natsio.Msg),
				done:    make(chan struct{}),
			}
			ours := &natsio.Msg{Subject: "ours", Data: []byte("1 0")}
			for _, m := range []*natsio.Msg{held, {Subject: "s", Reply: overflow.reply}, ours} {
				r.in <- m
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				r.pump()
			}()
			var got []*natsio.Msg
			for len(got) == 0 || got[len(got)-1] != ours {
				<-r.backlog.wake
				got = append(got, r.backlog.take(nil)...)
			}
			close(r.done)
			<-ended
			want := []*natsio.Msg{held, ours}
			if overflow.lost {
				want = []*natsio.Msg{held, r.lost, ours}
			}
			if !slices.Equal(got, want) {
				t.Errorf("%d messages, or others, are passed on; want %d", len(got), len(want))
			}
		})
	}
}
