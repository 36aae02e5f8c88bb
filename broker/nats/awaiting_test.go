package nats

import (
	"strconv"
	"testing"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/beat"
)

// TestMoreCancellationsThanAreRememberedDropWhatTheyMayBeFor has a message wait for its mark while others are
// cancelled. Up to the limit it is delivered later; past it, nobody knows any more whether it is one of them.
func TestMoreCancellationsThanAreRememberedDropWhatTheyMayBeFor(t *testing.T) {
	r := &run{pulse: beat.NewPulse(), acks: newAcks(nil), backlog: newBacklog(1 << 20)}
	r.awaiting.add(taken{broker.Message{Subject: "s"}, nil, "inbox.kept", r.pulse.Last(), 1})
	cancel := func(i int) {
		r.take(&natsio.Msg{Subject: "s", Reply: "inbox." + strconv.Itoa(i) + cancellation})
	}
	for i := range maxCancelled {
		cancel(i)
	}
	if len(r.awaiting.current) != 1 || r.gaps.isOpen {
		t.Fatal("the message is dropped before the limit")
	}
	cancel(maxCancelled)
	if len(r.awaiting.current) != 0 {
		t.Error("the message still waits")
	}
	if !r.gaps.isOpen || r.gaps.subjects != nil || r.gaps.cause != errCancelled {
		t.Errorf("the gap is open %v, for %v, because of %v", r.gaps.isOpen, r.gaps.subjects, r.gaps.cause)
	}
	r.awaiting.begin()
	if len(r.awaiting.cancelled) != 0 {
		t.Error("cancellations are remembered of messages that are gone")
	}
}

// TestAMarkThatWasNotMadeYetLetsNothingGo has somebody else send one: the subject of the marks is no secret.
func TestAMarkThatWasNotMadeYetLetsNothingGo(t *testing.T) {
	var a awaiting
	a.flying = 7 // so that nothing is published
	for i := range 3 {
		a.add(taken{m: broker.Message{Subject: strconv.Itoa(i)}})
		a.mark(nil, "")
	}
	for _, mark := range []uint64{4, 1 << 62, 0} {
		if msgs, ok := a.next(mark); ok {
			t.Errorf("mark %d lets %v go", mark, msgs)
		}
	}
	for _, want := range []string{"0", "1"} {
		if msgs, ok := a.next(2); !ok || len(msgs) != 1 || msgs[0].m.Subject != want {
			t.Errorf("mark 2: got %v, %v; want %s", msgs, ok, want)
		}
	}
	if _, ok := a.next(2); ok {
		t.Error("mark 2 lets more go than was ahead of it")
	}
}
