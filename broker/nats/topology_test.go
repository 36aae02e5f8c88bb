package nats_test

import (
	"bytes"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/nats"
	"tether/internal/backend"
)

// withConfig returns a server with a configuration file.
func withConfig(t *testing.T, format string, args ...any) *backend.Server {
	t.Helper()
	s, _ := configured(t, fmt.Sprintf(format, args...))
	return s
}

// Interest gets to the other side of a leaf node a little later than the server says that it has it.
func TestWhatIsSubscribedAtALeafNodeIsLiveAtTheHub(t *testing.T) {
	t.Parallel()
	leaves := backend.FreeAddress(t)
	hub := withConfig(t, "leafnodes: { listen: %q }", leaves)
	leaf := withConfig(t, "leafnodes: { remotes: [ { url: \"nats://%s\" } ] }", leaves)
	backend.AwaitRoutes(t, hub, leaf)
	for _, c := range []struct{ name, node, worker string }{
		{"node at the leaf", leaf.URL, hub.URL}, {"node at the hub", hub.URL, leaf.URL},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := run(t, open(t, c.node+"?prefix="+strings.ReplaceAll(c.name, " ", "-")), make(chan broker.Message, 1000))
			p := open(t, c.worker+"?prefix="+strings.ReplaceAll(c.name, " ", "-"))
			defer p.Close()
			for !publishOne(t, p, "nobody", "").Nobody() { // until it has joined
			}
			for i := range 200 {
				s := strconv.Itoa(i)
				n.subscribe(t, s)
				if reach := publishOne(t, p, s, s); reach != one && !late(reach) {
					t.Fatalf("%s: got %+v, want %+v", s, reach, one)
				}
				if m := receive(t, n.got); string(m.Data) != s {
					t.Fatalf("got %q, want %q", m.Data, s)
				}
				n.unsubscribe(t, s)
				if reach := publishOne(t, p, s, ""); reach != (broker.Receipt{}) && !late(reach) {
					t.Fatalf("%s, unsubscribed: got %+v, want nobody", s, reach)
				}
			}
			if len(n.gaps) > 0 {
				t.Errorf("there is a gap: %+v", <-n.gaps)
			}
		})
	}
}

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// A gateway sends interest and messages on different connections: nothing can be confirmed.
func TestThatNobodyIsThereIsNotCertainBetweenClusters(t *testing.T) {
	t.Parallel()
	gateways := []string{backend.FreeAddress(t), backend.FreeAddress(t)}
	var servers []*backend.Server
	for i, name := range []string{"east", "west"} {
		other := []string{"west", "east"}[i]
		servers = append(servers, withConfig(t, "gateway: { name: %s, listen: %q, gateways: [ { name: %s, url: \"nats://%s\" } ] }",
			name, gateways[i], other, gateways[1-i]))
	}
	backend.AwaitRoutes(t, servers...)
	n := run(t, open(t, servers[0].URL), make(chan broker.Message, 1000))
	n.subscribe(t, "s")
	log := new(buffer)
	p, err := nats.New(connect(t, servers[1].URL, nats.ConnectOptions(nil)...), nats.Options{Logger: slog.New(slog.NewTextHandler(log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	deadline := time.Now().Add(30 * time.Second)
	for publishOne(t, p, "s", "") != one {
		if time.Now().After(deadline) {
			t.Fatal("nothing gets to the other cluster")
		}
	}
	if reach := publishOne(t, p, "nobody", ""); reach != unknown {
		t.Errorf("got %+v, want %+v", reach, unknown)
	}
	for !strings.Contains(log.String(), "more than one cluster") {
		if time.Now().After(deadline) {
			t.Fatalf("the log says %q", log)
		}
		publishOne(t, p, "nobody", "")
	}
}
