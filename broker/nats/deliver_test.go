package nats

import (
	"strconv"
	"testing"

	"tether/broker"
)

// At MaxPending a message has room, one byte past it it has not; what is being delivered counts too.
func TestWhatWaitsForDeliverIsBounded(t *testing.T) {
	gate, delivered := make(chan struct{}), make(chan broker.Message)
	done := make(chan struct{})
	r := &room{subject: "s", wire: "tether.s.s"}
	r.live.Store(true)
	data := make([]byte, 100)
	w := newWorkers(func(m broker.Message) { <-gate; delivered <- m }, int(3*cost(r, data)-1), maxWorkers, done)
	defer w.wait()
	defer close(done)
	r.worker = w.of("s")
	for i := range 2 {
		if !w.put(r, 0, data) {
			t.Fatalf("message %d has no room", i)
		}
	}
	if w.put(r, 0, data) {
		t.Error("a message past the limit has room")
	}
	if !w.put(r, 0, data[:99]) {
		t.Error("a message at the limit has no room")
	}
	w.flush()
	gate <- struct{}{}
	<-delivered
	gate <- struct{}{} // it has come to the second: the first is done
	if !w.put(r, 0, data) {
		t.Error("there is no room again")
	}
	<-delivered
	gate <- struct{}{}
	<-delivered
}

func TestWhatComesAfterHasSeenAllBefore(t *testing.T) {
	const rooms, each = 20, 50
	done, after := make(chan struct{}), make(chan struct{})
	got := make(chan broker.Message, rooms*each)
	w := newWorkers(func(m broker.Message) { got <- m }, 1<<20, maxWorkers, done)
	defer w.wait()
	defer close(done)
	for i := range rooms {
		r := &room{subject: strconv.Itoa(i), worker: w.of(strconv.Itoa(i))}
		r.live.Store(i > 0) // nothing of the first is delivered
		for range each {
			w.put(r, 0, nil)
		}
	}
	w.flush()
	w.after(func() { close(after) })
	<-after
	if len(got) != (rooms-1)*each || w.held.Load() != 0 {
		t.Errorf("%d messages are delivered, and %d bytes held; want %d and none", len(got), w.held.Load(), (rooms-1)*each)
	}
}
