package nats_test

import (
	"fmt"
	"net/url"
	"path/filepath"
	"strings"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/nats"
	"tether/internal/backend"
)

// TestALeafNodeKeepsNoLog if the server at its other side does, whether it has a JetStream of its own or not, for another account, or in
// another domain. What the stream of one server takes, that of the other would take as well.
func TestALeafNodeKeepsNoLog(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ hub, leaf, account string }{
		"no JetStream":                  {"jetstream: {}", "", ""},
		"one for another account":       {"jetstream: {}", "jetstream: {}", ""},
		"one of its own":                {"jetstream: {}", "jetstream: {}", "jetstream: enabled,"},
		"one of its own, in its domain": {"jetstream: { domain: hub }", "jetstream: { domain: leaf }", "jetstream: enabled,"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := func(format string, args ...any) *backend.Server {
				file := filepath.Join(t.TempDir(), "nats.conf")
				write(t, file, fmt.Appendf(nil, "store_dir: %q\n"+format, append([]any{t.TempDir()}, args...)...))
				return backend.NATSStandIn(t, "-c", file)
			}
			leaves := backend.FreeAddress(t)
			hub := server("%s\nleafnodes: { listen: %q }\naccounts: { A: { jetstream: enabled, users: [ { user: u, password: p } ] } }", c.hub, leaves)
			leaf := server("%s\nleafnodes: { remotes: [ { url: \"nats://u:p@%s\", account: A } ] }\naccounts: { A: { %s users: [ { user: u, password: p } ] } }", c.leaf, leaves, c.account)
			from, to := connect(t, "nats://u:p@"+leaf.Addr), connect(t, "nats://u:p@"+hub.Addr)
			if err := awaitInterest(from, to); err != nil {
				t.Fatal(err)
			}
			n := run(t, open(t, withLog("nats://u:p@"+hub.Addr, "tether", kept)), make(chan broker.Message, 10))
			n.subscribe(t, "x")
			l := logged(t, n.Broker)
			before := l.head(t)
			l.add(t, "x", "1")
			if m := receive(t, n.got); string(m.Data) != "1" || l.read(t, "x", before) != "1" {
				t.Errorf("at the server that it belongs to: got %q", m.Data)
			}
			u, err := url.Parse(withLog("nats://u:p@"+leaf.Addr, "tether", kept))
			if err != nil {
				t.Fatal(err)
			}
			b, err := nats.Open(t.Context(), u)
			if err == nil {
				b.Close()
			}
			if err == nil || c.account != "" && !strings.Contains(err.Error(), "at the other side of a leaf node") {
				t.Errorf("Open at the leaf node: %v", err)
			}
			l.add(t, "x", "2")
			if m := receive(t, n.got); string(m.Data) != "2" || l.read(t, "x", before) != "1 2" || len(n.gaps) > 0 {
				t.Errorf("afterwards: got %q, %d gaps", m.Data, len(n.gaps))
			}
		})
	}
}

// awaitInterest returns when a question gets from one connection to the other, and its answer back.
func awaitInterest(from, to *natsio.Conn) error {
	sub, err := to.Subscribe("hello", func(m *natsio.Msg) { _ = m.Respond(nil) }) // else it is asked again
	if err != nil {
		return err
	}
	for begin := time.Now(); ; {
		_, err := from.Request(sub.Subject, nil, 100*time.Millisecond)
		if err == nil || time.Since(begin) > 20*time.Second {
			return err
		}
	}
}
