package nats_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"tether/broker"
	"tether/internal/backend"
)

// Files with secrets are renewed while a node is connected; then the server restarts and knows only the new ones.
func TestWhatIsRenewedInFilesIsReadForTheNextConnection(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		renew func(t *testing.T, dir string, i int) // writes the files of both sides
		url   func(addr, dir string) string
	}{
		{"password", func(t *testing.T, dir string, i int) {
			write(t, filepath.Join(dir, "secret"), fmt.Appendf(nil, "secret%d\n", i))
			write(t, filepath.Join(dir, "nats.conf"), fmt.Appendf(nil, "authorization: { user: u, password: secret%d }", i))
		}, func(addr, dir string) string {
			return "nats://u@" + addr + "?password_file=" + filepath.Join(dir, "secret")
		}},
		{"token", func(t *testing.T, dir string, i int) {
			write(t, filepath.Join(dir, "secret"), fmt.Appendf(nil, "secret%d", i))
			write(t, filepath.Join(dir, "nats.conf"), fmt.Appendf(nil, "authorization: { token: secret%d }", i))
		}, func(addr, dir string) string { return "nats://" + addr + "?token_file=" + filepath.Join(dir, "secret") }},
		{"nkey", renewNKey, func(addr, dir string) string { return "nats://" + addr + "?nkey=" + filepath.Join(dir, "seed") }},
		{"certificates", func(t *testing.T, dir string, _ int) {
			certificate(t, dir, "node")
			write(t, filepath.Join(dir, "nats.conf"), fmt.Appendf(nil, "tls: { cert_file: %q, key_file: %q, ca_file: %q, verify: true }",
				filepath.Join(dir, "node.pem"), filepath.Join(dir, "node.key"), filepath.Join(dir, "node.pem")))
		}, func(addr, dir string) string {
			return "tls://" + addr + "?ca=" + filepath.Join(dir, "node.pem") + "&cert=" + filepath.Join(dir, "node.pem") + "&key=" + filepath.Join(dir, "node.key")
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			c.renew(t, dir, 1)
			s := backend.NATS(t, "-c", filepath.Join(dir, "nats.conf"))
			n := run(t, open(t, c.url(s.Addr, dir)), make(chan broker.Message, 10))
			for i := range 2 {
				c.renew(t, dir, 2+i)
				s.Restart()
				n.moved(t)
				if reach := settled(t, n, "nobody", ""); !reach.Nobody() {
					t.Errorf("got %+v, want nobody", reach)
				}
			}
		})
	}
}

func renewNKey(t *testing.T, dir string, _ int) {
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	seed, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "seed"), seed)
	write(t, filepath.Join(dir, "nats.conf"), fmt.Appendf(nil, "authorization: { users: [ { nkey: %s } ] }", public))
}

func TestOnlyTheServersOfTheURLAreUsedWhereThatIsAsked(t *testing.T) {
	t.Parallel()
	servers := backend.NATSCluster(t, 2, backend.NATSRoutes{})
	stays := run(t, open(t, servers[0].URL+"?discover=no"), make(chan broker.Message, 10))
	moves := run(t, open(t, servers[0].URL), make(chan broker.Message, 10))
	servers[0].Stop()
	moves.moved(t)
	if err := receive(t, stays.states); err == nil {
		t.Fatal("State: got nil, want an error")
	}
	select {
	case err := <-stays.states:
		t.Errorf("State: got %v: it has moved", err)
	case <-time.After(500 * time.Millisecond): // two attempts
	}
	servers[0].Start()
	if err := receive(t, stays.states); err != nil {
		t.Errorf("State: got %v, want nil", err)
	}
}
