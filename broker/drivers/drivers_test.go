package drivers_test

import (
	"context"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"

	"tether/broker"
	"tether/broker/drivers"
	"tether/internal/backend"
	"tether/internal/deptest"
)

// reached publishes on from and returns how many nodes took it, while to is subscribed.
func reached(t *testing.T, from, to broker.Broker) int {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- to.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}}) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	if err := to.Subscribe(ctx, t.Name()); err != nil {
		t.Fatal(err)
	}
	for try := 1; ; try++ {
		reach, err := from.Publish(ctx, broker.Message{Subject: t.Name(), Data: []byte("x")})
		if err != nil {
			t.Fatal(err)
		}
		if reach[0].Bound != broker.Unknown || try == 5 { // a busy machine may answer too late
			return reach[0].Nodes
		}
	}
}

func open(t *testing.T, m broker.Mux, url string) broker.Broker {
	t.Helper()
	b, err := m.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestMemoryIsSharedByNameWithinOneMux(t *testing.T) {
	m := drivers.Mux()
	a, same, other := open(t, m, "memory://a"), open(t, m, "memory://a"), open(t, m, "memory://b")
	unnamed, unnamedToo := open(t, m, "memory://"), open(t, m, "memory://")
	elsewhere := open(t, drivers.Mux(), "memory://a")
	if got := reached(t, a, same); got != 1 {
		t.Errorf("the same name: got %d", got)
	}
	if got := reached(t, a, other); got != 0 {
		t.Errorf("another name: got %d", got)
	}
	if got := reached(t, unnamed, unnamedToo); got != 1 {
		t.Errorf("without a name: got %d", got)
	}
	if got := reached(t, a, elsewhere); got != 0 {
		t.Errorf("another mux: got %d", got)
	}
}

func TestTheSchemesOpenTheirDrivers(t *testing.T) {
	m := drivers.Mux()
	for _, url := range []string{backend.Redis(t).URL, backend.NATS(t).URL} {
		if got := reached(t, open(t, m, url), open(t, m, url)); got != 1 {
			t.Errorf("%s: got %d", url, got)
		}
	}
	want := []string{"memory", "nats", "redis", "redis+cluster", "redis+sentinel", "rediss", "rediss+cluster", "rediss+sentinel", "tls"}
	if got := slices.Sorted(maps.Keys(m)); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestAURLThatIsNotUnderstoodIsRefusedWithoutItsPassword(t *testing.T) {
	for _, url := range []string{
		"memory://a/b", "memory://a?x=hunter2", "memory://hunter2@a", "memory:a", "kafka://me:hunter2@a", "hunter2",
		"redis://me:hunter2@127.0.0.1:1/7", "nats://me:hunter2@127.0.0.1:1?x=y",
	} {
		b, err := drivers.Mux().Open(t.Context(), url)
		if err == nil {
			b.Close()
			t.Errorf("%s is opened", url)
			continue
		}
		if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error has the password: %v", url, err)
		}
	}
}

func TestCheckFindsWhatIsWrongWithAURLAndConnectsToNobody(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan struct{})
	go func() { // ends with the listener
		defer close(accepted)
		if c, err := ln.Accept(); err == nil {
			t.Errorf("%s has connected", c.RemoteAddr())
			c.Close()
		}
	}()
	here := ln.Addr().String()
	for _, url := range []string{
		"memory://", "memory://a", "memory://b?log=1m&log_length=7", "redis://h?log=1m&log_bytes=100", "redis://me:hunter2@" + here, "redis+sentinel://" + here + "/main", "redis+cluster://" + here,
		"rediss://" + here, "nats://" + here, "tls://" + here, "redis://127.0.0.1:1", "nats://no.such.host.invalid", "redis:///no/such/socket",
	} {
		if err := drivers.Mux().Check(url); err != nil {
			t.Errorf("%s: got %v", url, err)
		}
	}
	for url, want := range map[string]string{
		"hunter2":                           "unknown scheme",
		"kafka://me:hunter2@" + here:        "unknown scheme",
		"memory://a/b":                      "memory://NAME",
		"redis://me:hunter2@" + here + "/7": "no databases",
		"redis://me:hunter2@h?hunter=1":     `unknown key "hunter"`,
		"redis://h:99999":                   "65535",
		"redis://h?log=5":                   "5m is right",
		"memory://h?log=1s":                 "5m is right",
		"memory://h?log_length=3":           "needs log",
		"redis://h?log=5m&log_length=-1":    "positive",
		"redis+sentinel://me:hunter2@h":     "name of the master",
		"rediss://h?ca=/no/such/file":       "/no/such/file",
		"nats://me:hunter2@":                "has no name",
		"nats://h?creds=/no/such/file":      "/no/such/file",
	} {
		if err := drivers.Mux().Check(url); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: got %v, want an error with %q", url, err, want)
		}
	}
	ln.Close()
	<-accepted
}

func TestDriversKnowNoHub(t *testing.T) {
	const why = "a worker links drivers and emitter only"
	deptest.Forbid(t, "tether/broker/drivers", map[string]string{"tether/hub": why, "tether/transport": why})
}
