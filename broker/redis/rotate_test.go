package redis_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"tether/internal/backend"
)

// Files that are named in the URL are read again for each connection.
func TestRenewedCertificatesAndPasswordsAreUsed(t *testing.T) {
	t.Parallel()
	sec := secure(t)
	s := backend.SecureRedis(t, backend.RedisProduct, sec)
	dir, stale := t.TempDir(), t.TempDir()
	writeCertificate(t, stale)
	use := func(cert, key, password string) {
		t.Helper()
		for from, to := range map[string]string{cert: "cert.pem", key: "key.pem"} {
			b, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, to), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, "password"), []byte(password+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	use(sec.Cert, sec.Key, sec.Password)
	b := opened(t, fmt.Sprintf("rediss://%s@%s?ca=%s&cert=%s&key=%s&password_file=%s", sec.User, s.Addr, sec.CA,
		filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem"), filepath.Join(dir, "password")))
	n := observe(t, b)
	n.awaitState(true)
	n.subscribe("user:1")
	admin := sec.Admin(s.Addr)
	defer admin.Close()
	cut := func() {
		t.Helper()
		if err := admin.ClientKillByFilter(t.Context(), "USER", sec.User).Err(); err != nil {
			t.Fatal(err)
		}
	}
	for what, stop := range map[string]func(){
		"a certificate": func() { use(filepath.Join(stale, "cert.pem"), filepath.Join(stale, "key.pem"), sec.Password) },
		"a password":    func() { use(sec.Cert, sec.Key, "0ld") },
	} {
		stop()
		cut()
		n.awaitState(false)
		n.mu.Lock()
		if err := n.states[len(n.states)-1]; strings.Contains(err.Error(), "0ld") {
			t.Errorf("%s: a password in %v", what, err)
		}
		n.mu.Unlock()
		use(sec.Cert, sec.Key, sec.Password)
		n.awaitState(true)
	}
	n.awaitExact(n.b, "user:1", 0)
}

func TestAURLForSomethingElseSaysWhatItIsAndWhatToDo(t *testing.T) {
	t.Parallel()
	s, nats := backend.Redis(t), backend.NATS(t)
	sentinels := backend.RedisSentinels(t, backend.RedisProduct)
	c := backend.RedisCluster(t, backend.RedisProduct, 0)
	for url, want := range map[string]string{
		"redis://" + nats.Addr:                         "nats",
		"redis+sentinel://" + s.Addr + "/main":         "no Sentinel",
		"redis://" + sentinels.Sentinels[0].Addr:       "is a Sentinel",
		"redis://" + c.Nodes[0].Addr:                   "redis+cluster",
		"redis+cluster://" + s.Addr:                    "a server of its own",
		"redis+sentinel://" + c.Nodes[0].Addr + "/any": "no Sentinel",
		"redis://" + sentinels.Nodes[1].Addr:           "is a replica",
	} {
		b, err := openAny(url)
		if err == nil {
			b.Close()
			t.Errorf("%s was opened", url)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", url, err, want)
		}
	}
}
