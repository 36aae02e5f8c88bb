package soak

import (
	"context"
	"errors"
	"fmt"
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
	for range 20 {
		var err error
		if !t.Run("session", func(t *testing.T) { err = unheard(t) }) || err == nil {
			return
		}
		t.Log("the machine is busy:", err)
	}
	t.Error("no session has got to its end")
}

// unheard is one session. It returns an error where a machine that is busy has ended it too early to say something.
func unheard(t *testing.T) error {
	s := backend.JetStreamStandIn(t, t.TempDir())
	url := s.URL + "?log=5m"
	r := newRig(t, url, s.Addr, 2, time.Second, hub.Options{Recovery: hub.Recovery{On: true, Log: true}}, transport.Options{})
	b, err := drivers.Mux().Open(t.Context(), url)
	if err != nil {
		return err
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	g := &guest{t: t, name: "g", rng: rand.New(rand.NewPCG(1, 1)), next: map[string]int{}}
	g.come(ctx, r.nodes[0].addr)
	worker, n := hub.NewEmitter(b, hub.EmitterOptions{}), 0
	emit := func(at *node) (hub.Receipt, error) { // and the guest reads it there
		receipt, err := worker.Emit(ctx, hub.SocketID(g.ID), "n", "worker", n)
		if errors.Is(err, broker.ErrUnavailable) { // nobody knows whether it comes
			return receipt, err
		}
		if err != nil {
			t.Fatal(err)
		}
		for n++; g.next["worker"] < n; {
			if !g.read(ctx) { // which says what is wrong with an event
				return receipt, at.hadGap(fmt.Sprintf("%d of %d events have come", g.next["worker"], n))
			}
		}
		return receipt, nil
	}
	for heard := false; !heard; {
		receipt, err := emit(r.nodes[0])
		if err != nil {
			return err
		}
		heard = receipt.Bound == broker.AtLeast
	}
	r.nodes[0].proxy.Swallow(faultproxy.ToServer)
	switch receipt, err := emit(r.nodes[0]); {
	case err != nil:
		return err
	case receipt.Bound != broker.Unknown:
		t.Fatalf("the receipt of what nobody has acknowledged is %+v", receipt)
	}
	g.Client.Close()
	if !g.come(ctx, r.nodes[1].addr) {
		return r.nodes[1].hadGap("it is not recovered")
	}
	_, err = emit(r.nodes[1])
	return err
}

// hadGap is what has happened as an error, if the node had a gap, which ends sessions. It fails the test otherwise.
func (n *node) hadGap(what string) error {
	if _, in := within(wait, func() bool { return n.rig.book.Gaps(n.name) > 0 }); !in {
		n.rig.t.Fatalf("%s: %s, without a gap", n.name, what)
	}
	return errors.New(what)
}
