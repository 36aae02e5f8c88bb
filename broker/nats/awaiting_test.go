package nats

import (
	"strconv"
	"testing"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/beat"
	"tether/broker/internal/dispatch"
)

// TestMoreCancellationsThanAreRememberedDropWhatTheyMayBeFor has a message wait for its mark while others are
// cancelled. Up to the limit it is delivered later; past it, nobody knows any more whether it is one of them.
func TestMoreCancellationsThanAreRememberedDropWhatTheyMayBeFor(t *testing.T) {
	r := &run{pulse: beat.NewPulse(), acks: newAcks(nil), backlog: newBacklog(1 << 20)}
	r.awaiting.add(taken{m: broker.Message{Subject: "s"}, reply: "inbox.kept", stamp: r.pulse.Last(), cost: 1})
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

// TestWhatHasBeenPassedOnHoldsNothingOfTheBacklog has messages confirmed, cancelled, and dropped.
func TestWhatHasBeenPassedOnHoldsNothingOfTheBacklog(t *testing.T) {
	b := &Broker{interest: newInterest(), names: newNames("p")}
	s := &subscription{subject: "s", sub: new(natsio.Subscription)}
	s.live.Store(true)
	wire, _ := b.names.wire("s")
	b.interest.subs[wire] = s
	r := &run{b: b, pulse: beat.NewPulse(), acks: newAcks(nil), backlog: newBacklog(1 << 20)}
	r.session = &dispatch.Session{Pulse: r.pulse}
	delivered := make(chan broker.Message, 16)
	r.out = dispatch.New(func(m broker.Message) { delivered <- m })
	defer r.out.Close()
	pass := func(n int) {
		for range n {
			r.backlog.put(&natsio.Msg{Subject: wire, Sub: s.sub, Data: make([]byte, 1000)}, false)
		}
		r.awaiting.flying = 1 // a mark is under way: none is published
		if !r.pass(r.backlog.take(nil)) {
			t.Fatal("it is over")
		}
		if got := r.backlog.held.Load(); got < 1000*int64(n) {
			t.Fatalf("%d messages that wait hold %d bytes", n, got)
		}
	}
	pass(3)
	r.confirmed(r.awaiting.last)
	r.out.Flush(r.session)
	for range 3 {
		<-delivered
	}
	if got := r.backlog.held.Load(); got != 0 {
		t.Errorf("messages that were delivered hold %d bytes", got)
	}
	pass(2)
	r.drop(errCut)
	if got := r.backlog.held.Load(); got != 0 {
		t.Errorf("messages that were dropped hold %d bytes", got)
	}
}
