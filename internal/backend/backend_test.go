package backend

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

var products = map[string]struct {
	product
	find, standIn func(testing.TB) *Server
}{
	"Redis": {redisServer, func(t testing.TB) *Server { return Redis(t) }, RedisStandIn},
	"NATS":  {natsServer, func(t testing.TB) *Server { return NATS(t) }, func(t testing.TB) *Server { return NATSStandIn(t) }},
}

// serves dials and waits for the sign of life that the product gives.
func serves(p product, s *Server) error { return servesWithin(p, s, 20*time.Second) }

func servesWithin(p product, s *Server, limit time.Duration) error {
	c, err := net.DialTimeout("tcp", s.Addr, limit)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(limit))
	return p.ready(c)
}

func TestAServerServesStopsAndServesAgainAtTheSameAddress(t *testing.T) {
	for name, p := range products {
		for kind, get := range map[string]func(testing.TB) *Server{"Found": p.find, "StandIn": p.standIn} {
			t.Run(name+kind, func(t *testing.T) {
				s := get(t)
				if err := serves(p.product, s); err != nil {
					t.Fatalf("%v does not serve: %v", s, err)
				}
				if !s.Restartable() {
					t.Skipf("%v cannot be restarted", s)
				}
				addr := s.Addr
				s.Stop()
				s.Stop()
				if serves(p.product, s) == nil {
					t.Errorf("%v serves after Stop", s)
				}
				s.Start()
				s.Restart()
				if err := serves(p.product, s); err != nil || s.Addr != addr {
					t.Errorf("%v does not serve at %s after Restart: %v", s, addr, err)
				}
			})
		}
	}
}

func TestAPausedServerIsSilentUntilItIsResumed(t *testing.T) {
	for name, p := range products {
		t.Run(name, func(t *testing.T) {
			s := p.find(t)
			s.Pause()
			err := servesWithin(p.product, s, time.Second)
			if ne, ok := err.(net.Error); !ok || !ne.Timeout() {
				t.Errorf("%v while paused: got %v, want a timeout", s, err)
			}
			s.Resume()
			if err := serves(p.product, s); err != nil {
				t.Errorf("%v does not serve after Resume: %v", s, err)
			}
		})
	}
}

func TestTheEnvironmentComesFirst(t *testing.T) {
	for address, want := range map[string]Server{
		"127.0.0.1:7":                {URL: "redis://127.0.0.1:7", Addr: "127.0.0.1:7"},
		"rediss://u:p@redis.test:99": {URL: "rediss://u:p@redis.test:99", Addr: "redis.test:99"},
	} {
		t.Setenv("TETHER_TEST_REDIS", address)
		s := Redis(t)
		if s.URL != want.URL || s.Addr != want.Addr || s.Kind != Env {
			t.Errorf("TETHER_TEST_REDIS=%s: got %s %s %s, want %s %s %s",
				address, s.URL, s.Addr, s.Kind, want.URL, want.Addr, Env)
		}
		if s.Restartable() || s.Pausable() {
			t.Errorf("%v could be stopped, but it is not ours", s)
		}
	}
}

func TestArgumentsReachTheServer(t *testing.T) {
	for name, get := range map[string]func(testing.TB) *Server{
		"Found":   func(t testing.TB) *Server { return NATS(t, "--auth", "secret") },
		"StandIn": func(t testing.TB) *Server { return NATSStandIn(t, "--auth", "secret") },
	} {
		t.Run(name, func(t *testing.T) {
			c, err := net.Dial("tcp", get(t).Addr)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(20 * time.Second))
			buf := make([]byte, 4096)
			n, err := c.Read(buf)
			if err != nil {
				t.Fatal(err)
			}
			if want := `"auth_required":true`; !strings.Contains(string(buf[:n]), want) {
				t.Errorf("got %s, want it to contain %s", buf[:n], want)
			}
		})
	}
}

func TestMain(m *testing.M) {
	// These tests say themselves where their servers come from.
	for _, p := range products {
		os.Unsetenv(p.env)
	}
	os.Exit(m.Run())
}
