package nats

import (
	"context"
	"strconv"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/lane"
)

// publishing publishes one message through receipts that read and send nothing, in the epoch of r's link,
// has happen called when the message waits to be acknowledged, and returns its reach.
func publishing(t *testing.T, r *receipts, happen func(b *batch)) broker.Reach {
	t.Helper()
	lanes := lane.New(lane.Options{Send: func(_ int, lb *lane.Batch) error {
		b := r.begin(1)
		r.wrote(b, []string{"wire"})
		r.settle(b, lb, r.link.current(), true)
		happen(b)
		for _, a := range r.out {
			a.Took(a.reach)
		}
		r.out = nil
		if b.left > 0 {
			r.giveUpLocked(b)
			for _, a := range r.out {
				a.Fail(context.DeadlineExceeded)
			}
			r.out = nil
		}
		return nil
	}})
	defer lanes.Wait()
	defer lanes.Close()
	reach, err := lanes.Publish(t.Context(), broker.Message{Subject: "s"})
	if err != nil {
		t.Fatalf("the message has not been answered: %v", err)
	}
	return reach[0]
}

func TestNobodyIsSaidWhenItIsCertainOnly(t *testing.T) {
	var r *receipts
	read := func(tail string, data []byte, status string) {
		r.read(&natsio.Msg{Subject: r.inbox + tail, Data: data, Header: natsio.Header{"Status": []string{status}}})
	}
	ack := func(b *batch) { read("_", []byte{byte(b.id), 0}, "") }
	round := func() {
		r.mu.Lock()
		r.rounds = append(r.rounds, round{number: r.numberLocked(), begun: time.Now(), msgs: r.fresh})
		r.fresh = nil
		r.mu.Unlock()
		read("R."+strconv.FormatUint(r.last, 36), nil, "")
	}
	late := func(b *batch, intact bool) { // looks when it has waited too long; the verdict is on its way then
		r.look(b.deadline.Add(time.Millisecond))
		r.verdict.intact = intact
	}
	verdict := func() { read("V."+strconv.FormatUint(r.last, 36), nil, "") }
	reconnect := func() { r.link.now = epoch{n: r.link.now.n + 1, down: make(chan struct{}), end: new(time.Time)} }
	question := func(b *batch) { read(strconv.FormatUint(b.id, 36)+".0._", nil, "503") }

	deny := func(b *batch) { read(strconv.FormatUint(b.id, 36)+".0._", []byte("no"), "") }

	nobody, unknown := broker.Reach{}, broker.Reach{Bound: broker.Unknown}
	atLeast := func(n int) broker.Reach { return broker.Reach{Nodes: n, Bound: broker.AtLeast} }
	for _, c := range []struct {
		name   string
		happen func(b *batch)
		want   broker.Reach
	}{
		{"acknowledged", func(b *batch) { ack(b); round() }, atLeast(1)},
		{"acknowledged twice in a round", func(b *batch) { ack(b); ack(b); round() }, atLeast(2)},
		{"acknowledged, and the round does not end", func(b *batch) {
			ack(b)
			r.rounds, r.fresh = append(r.rounds, endless(r)), nil
			r.look(time.Now().Add(time.Second))
		}, atLeast(1)},
		{"nobody is subscribed any more", func(b *batch) { question(b) }, nobody},
		{"acknowledged before that", func(b *batch) { ack(b); question(b); round() }, atLeast(1)},
		{"nobody is subscribed, but an acknowledgement may have gone with the connection", func(b *batch) {
			reconnect()
			question(b)
			r.look(time.Now())
		}, unknown},
		{"nobody is subscribed at our server of a cluster, and all servers are there", func(b *batch) {
			r.clustered = func() bool { return true }
			question(b)
			r.look(time.Now())
			r.verdict.intact = true
			verdict()
		}, nobody},
		{"nobody is subscribed at our server of a cluster, and another is not there", func(b *batch) {
			r.clustered = func() bool { return true }
			question(b)
			r.look(time.Now())
			verdict()
		}, unknown},
		{"denied by a node that is up", func(b *batch) {
			deny(b)
			r.look(time.Now().Add(deniedWait))
			r.verdict.intact = true
			verdict()
		}, nobody},
		{"denied by a node, and acknowledged by another", func(b *batch) {
			deny(b)
			r.look(time.Now().Add(deniedWait))
			r.verdict.intact = true
			ack(b)
			verdict()
			round()
		}, atLeast(1)},
		{"denied, and nobody is subscribed any more", func(b *batch) { deny(b); question(b) }, nobody},
		{"cancelled", func(b *batch) { late(b, true); verdict() }, nobody},
		{"acknowledged long ago, and not read until it is cancelled", func(b *batch) {
			late(b, true) // we were starved: this lay in front of the verdict
			ack(b)
			verdict()
			round()
		}, atLeast(1)},
		{"cancelled on a connection that is gone", func(b *batch) { late(b, true); reconnect(); verdict() }, unknown},
		{"cancelled, and a server of the cluster is not there", func(b *batch) { late(b, false); verdict() }, unknown},
		{"cancelled, and nothing comes back", func(b *batch) {
			late(b, true)
			r.look(b.deadline.Add(timeout + time.Second))
		}, unknown},
		{"cancelled, by the mark of somebody who guesses", func(b *batch) {
			late(b, true)
			read("V.0", nil, "")
			read("V.zzz", nil, "")
			reconnect()
			r.look(time.Now())
		}, unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			r = reading()
			r.wake = make(chan struct{}, 1)
			r.spawn = func(func()) bool { return true } // nothing is sent
			reconnect()
			if got := publishing(t, r, c.happen); got != c.want {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
			if len(r.open) > 0 {
				t.Error("the batch is kept")
			}
		})
	}
}

// endless returns a round for what has been acknowledged, which nobody ends.
func endless(r *receipts) round {
	return round{number: r.numberLocked(), begun: time.Now(), msgs: r.fresh}
}
