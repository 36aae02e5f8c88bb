package redis_test

import (
	"context"
	"log/slog"
	"net/url"
	"os"
	"testing"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/brokertest"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

func TestMain(m *testing.M) {
	if addr := os.Getenv(childVariable); addr != "" {
		child(addr)
		return
	}
	long.Parallel(4)
	os.Exit(m.Run())
}

// newBroker is quiet about what the tests do to Redis.
func newBroker(client goredis.UniversalClient) (broker.Broker, error) {
	return redis.New(client, redis.Options{Logger: slog.New(slog.DiscardHandler)})
}

// node returns a broker at addr.
func node(tb testing.TB, addr string) broker.Broker {
	tb.Helper()
	client := goredis.NewClient(&goredis.Options{Addr: addr})
	b, err := newBroker(client)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		b.Close()
		if err := client.Close(); err != nil {
			tb.Errorf("close the client: %v", err)
		}
	})
	return b
}

func harness(s *backend.Server) brokertest.Harness {
	h := brokertest.Harness{
		New:         func(tb testing.TB) broker.Broker { return node(tb, s.Addr) },
		MaxData:     16 << 20,
		KeepsFrozen: s.Kind == backend.StandIn,
		Overtakes:   s.Kind == backend.StandIn,
		Freezable: func(tb testing.TB) (broker.Broker, func(), func()) {
			p := faultproxy.New(tb, s.Addr)
			return node(tb, p.Addr()), func() { p.Hold(faultproxy.Both) }, p.Heal
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

func TestBrokerContract(t *testing.T) {
	long.Alone(t)
	brokertest.Run(t, harness(backend.Redis(t)))
}

func open(rawURL string) (broker.Broker, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		return nil, err
	}
	return redis.Open(context.Background(), u)
}

func BenchmarkBroker(b *testing.B) { brokertest.Benchmark(b, harness(backend.Redis(b))) }
