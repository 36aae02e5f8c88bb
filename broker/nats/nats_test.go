package nats_test

import (
	"context"
	"net/url"
	"os"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/nats"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

func TestMain(m *testing.M) {
	long.Parallel(4)
	os.Exit(m.Run())
}

// maxPayload is what a server takes by default.
const maxPayload = 1 << 20

func open(tb testing.TB, address string) broker.Broker {
	tb.Helper()
	u, err := url.Parse(address)
	if err != nil {
		tb.Fatal(err)
	}
	b, err := long.Again(broker.ErrUnavailable, func() (broker.Broker, error) {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		return nats.Open(ctx, u)
	})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// harness has a prefix of its own, because a server from the environment may have other users.
func harness(s *backend.Server) brokertest.Harness {
	query := "?prefix=" + natsio.NewInbox()[len("_INBOX."):]
	h := brokertest.Harness{
		New:     func(tb testing.TB) broker.Broker { return open(tb, s.URL+query) },
		Bound:   broker.AtLeast,
		MaxData: maxPayload,
		Freezable: func(tb testing.TB) (b broker.Broker, freeze, thaw func()) {
			p := faultproxy.New(tb, s.Addr)
			return open(tb, "nats://"+p.Addr()+query), func() { p.Hold(faultproxy.Both) }, p.Heal
		},
	}
	if s.Restartable() {
		h.Stop = func(testing.TB) { s.Stop() }
		h.Start = func(testing.TB) { s.Start() }
	}
	if s.Pausable() {
		h.Pause = func(testing.TB) { s.Pause() }
		h.Resume = func(testing.TB) { s.Resume() }
	}
	return h
}

func TestTheDriverDoesWhatABrokerMust(t *testing.T) {
	long.Alone(t)
	brokertest.Run(t, harness(backend.NATS(t)))
}

func TestTheDriverDoesSoOnTheApplicationsConnection(t *testing.T) {
	long.Alone(t)
	h := harness(backend.NATS(t))
	s := backend.NATSStandIn(t)
	h.Stop, h.Start, h.Pause, h.Resume, h.Freezable = nil, nil, nil, nil, nil
	h.New = func(tb testing.TB) broker.Broker {
		conn, err := natsio.Connect(s.URL, nats.ConnectOptions(nil)...)
		if err != nil {
			tb.Fatal(err)
		}
		tb.Cleanup(conn.Close)
		b, err := nats.New(conn, nats.Options{})
		if err != nil {
			tb.Fatal(err)
		}
		return b
	}
	brokertest.Run(t, h)
}
