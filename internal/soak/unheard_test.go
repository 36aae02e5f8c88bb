package soak

import (
	"context"
	"errors"
	"math/rand/v2"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/drivers"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/transport"
)

// TestAnEventWhoseAcknowledgementIsLostIsNotGivenTwice has a node of NATS deliver an event for one socket and not say so, so
// that the emitter publishes it once more, and another node go on with the session: it finds both in the log.
func TestAnEventWhoseAcknowledgementIsLostIsNotGivenTwice(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	url := s.URL + "?log=5m"
	r := newRig(t, url, s.Addr, 2, time.Second, hub.Options{Recovery: hub.Recovery{On: true, Log: true}}, transport.Options{})
	b, err := drivers.Mux().Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	worker := hub.NewEmitter(b, hub.EmitterOptions{})
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	g := &guest{t: t, name: "g", rng: rand.New(rand.NewPCG(1, 1)), next: map[string]int{}}
	g.come(ctx, r.nodes[0].addr)
	n := 0
	emit := func() hub.Receipt {
		t.Helper()
		receipt, err := worker.Emit(ctx, hub.SocketID(g.ID), "n", "worker", n)
		if errors.Is(err, broker.ErrUnavailable) {
			t.Skip("the machine is too busy: ", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
		return receipt
	}
	readAll := func() {
		t.Helper()
		for g.next["worker"] < n {
			if !g.read(ctx) { // which says what is wrong with an event
				t.Fatalf("%d of %d events have come", g.next["worker"], n)
			}
		}
	}
	for acknowledged := false; !acknowledged; readAll() { // on a busy machine, too
		acknowledged = emit().Bound == broker.AtLeast
	}
	r.nodes[0].proxy.Swallow(faultproxy.ToServer)
	if receipt := emit(); receipt.Bound != broker.Unknown {
		t.Fatalf("the receipt of what nobody has acknowledged is %+v", receipt)
	}
	readAll()
	g.Client.Close()
	if !g.come(ctx, r.nodes[1].addr) {
		t.Fatal("it is not recovered")
	}
	emit()
	readAll()
}
