package redis_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/redis"
	"tether/internal/backend"
	"tether/internal/deptest"
)

func TestDependencies(t *testing.T) {
	deptest.Forbid(t, "tether/broker/redis", map[string]string{
		"tether/hub":           "a driver knows nothing of what the bytes mean",
		"tether/transport":     "a driver knows nothing of clients",
		"tether/broker/memory": "drivers do not know each other",
		"tether/broker/nats":   "drivers do not know each other",
		"testing":              "this is not a test helper",
	})
}

// roundTrip checks that a message passes through b.
func roundTrip(t *testing.T, b broker.Broker) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	got := make(chan broker.Message, 1000)
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx, broker.Handler{Deliver: func(m broker.Message) { got <- m }}) }()
	defer func() {
		cancel()
		if err := errors.Join(<-ended, b.Close()); err != nil {
			t.Error(err)
		}
	}()
	errs := b.Subscribe(ctx, "s")
	for errs != nil && errors.Is(errs[0], broker.ErrUnavailable) && ctx.Err() == nil { // the machine is slow
		errs = b.Subscribe(ctx, "s")
	}
	if errs != nil {
		t.Fatalf("Subscribe: %v", errs)
	}
	hello := broker.Message{Subject: "s", Data: []byte("hello")}
	reach, err := b.Publish(ctx, hello)
	for err == nil && reach[0] == (broker.Receipt{Nodes: 1, Bound: broker.AtLeast}) && ctx.Err() == nil { // a connection was slow
		<-time.After(50 * time.Millisecond)
		reach, err = b.Publish(ctx, hello)
	}
	if err != nil || reach[0] != (broker.Receipt{Nodes: 1}) {
		t.Fatalf("Publish: %v, %v", reach, err)
	}
	select {
	case m := <-got:
		if string(m.Data) != "hello" {
			t.Errorf("got %q", m.Data)
		}
	case <-ctx.Done():
		t.Error("nothing arrived")
	}
}

func TestAURLThatIsNotUnderstoodIsRefusedWithoutItsPassword(t *testing.T) {
	for _, c := range []struct{ url, reason string }{
		{"redis://:s3cret@127.0.0.1:1/5", "no databases"},
		{"redis://u:s3cret@127.0.0.1:1/path", "path"},
		{"redis://u:s3cret@127.0.0.1:1?db=s3cret", `"db"`},
		{"redis://u:s3cret@127.0.0.1:1?skip_verify=true", `"skip_verify"`},
		{"rediss://u:s3cret@127.0.0.1:1?skip_verify=s3cret", "neither true nor false"},
		{"redis://u:s3cret@127.0.0.1:1?a=%zz", "malformed"},
		{"http://u:s3cret@127.0.0.1:1", "scheme"},
		{"redis://u:s3cret@127.0.0.1:1", "refused"},
		{"redis:///no/such/s.sock", "no such file"},
	} {
		b, err := open(c.url)
		if err == nil {
			b.Close()
			t.Errorf("%s was opened", c.url)
			continue
		}
		if !strings.Contains(err.Error(), c.reason) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want a reason with %q and no password", c.url, err, c.reason)
		}
	}
}

func TestARingIsRefused(t *testing.T) {
	ring := goredis.NewRing(&goredis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	defer ring.Close()
	if _, err := redis.New(ring, redis.Options{}); err == nil || !strings.Contains(err.Error(), "not supported") {
		t.Errorf("got %v", err)
	}
}

func TestOpenChecksTheServerAndItsPassword(t *testing.T) {
	s := backend.Redis(t, "--maxclients", "1000")
	admin := goredis.NewClient(&goredis.Options{Addr: s.Addr})
	defer admin.Close()
	ctx := context.Background()
	if err := errors.Join(
		admin.Do(ctx, "ACL", "SETUSER", "alice", "on", ">s3cret", "allchannels", "allkeys", "+@all").Err(),
		admin.ConfigSet(ctx, "requirepass", "d3fault").Err(),
	); err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"alice:s3cret", ":d3fault", "default:d3fault"} {
		b, err := open("redis://" + user + "@" + s.Addr + "/0?client_name=tether")
		if err != nil {
			t.Fatalf("%s: %v", user, err)
		}
		roundTrip(t, b)
	}
	for _, user := range []string{"", "alice:wr0ng@", ":wr0ng@", "bob:wr0ng@"} {
		b, err := open("redis://" + user + s.Addr)
		if err == nil {
			b.Close()
			t.Errorf("%q was let in", user)
			continue
		}
		if !strings.Contains(err.Error(), "authenticate") || strings.Contains(err.Error(), "wr0ng") {
			t.Errorf("%q: got %v", user, err)
		}
	}
}

// A user who may do nothing but pub/sub is enough; a channel that is forbidden fails its own calls.
func TestAUserWithFewRightsCanDoWhatItMay(t *testing.T) {
	t.Parallel()
	s := backend.Redis(t, "--maxclients", "1000")
	admin := goredis.NewClient(&goredis.Options{Addr: s.Addr})
	defer admin.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if err := admin.Do(ctx, "ACL", "SETUSER", "poor", "on", ">p", "resetchannels", "&s", "-@all", "+subscribe", "+unsubscribe", "+publish", "+ping").Err(); err != nil {
		t.Fatal(err)
	}
	b, err := open("redis://poor:p@" + s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, b)

	b, err = open("redis://poor:p@" + s.Addr)
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- b.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}}) }()
	if err := errors.Join(b.Subscribe(ctx, "forbidden")...); !errors.Is(err, broker.ErrRefused) || !strings.Contains(err.Error(), "NOPERM") {
		t.Errorf("Subscribe: got %v", err)
	}
	if err := b.Subscribe(ctx, "s"); err != nil {
		t.Errorf("Subscribe: got %v", err)
	}
	reach, err := b.Publish(ctx, broker.Message{Subject: "s"}, broker.Message{Subject: "forbidden"}, broker.Message{Subject: "s"})
	if !errors.Is(err, broker.ErrRefused) || reach[0].Nodes != 1 || reach[1].Bound != broker.Unknown || reach[2].Nodes != 1 {
		t.Errorf("Publish: got %v, %v", reach, err)
	}
	if err := errors.Join(b.Close(), <-ended); err != nil {
		t.Error(err)
	}
}

func TestAUnixSocketIsAnAddress(t *testing.T) {
	path := filepath.Join(t.TempDir(), "redis.sock")
	backend.Redis(t, "--unixsocket", path)
	b, err := open("redis://" + path)
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, b)
}

func TestTLSIsSpokenAndVerified(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pool := writeCertificate(t, dir)
	addr := backend.FreeAddress(t)
	_, port, _ := net.SplitHostPort(addr)
	backend.Redis(t, "--tls-port", port, "--tls-auth-clients", "no",
		"--tls-cert-file", filepath.Join(dir, "cert.pem"), "--tls-key-file", filepath.Join(dir, "key.pem"),
		"--tls-ca-cert-file", filepath.Join(dir, "cert.pem"))

	if b, err := open("rediss://" + addr); err == nil {
		b.Close()
		t.Error("an unknown certificate was accepted")
	}
	b, err := open("rediss://" + addr + "?skip_verify=true")
	if err != nil {
		t.Fatal(err)
	}
	roundTrip(t, b)

	client := goredis.NewClient(&goredis.Options{Addr: addr, TLSConfig: &tls.Config{RootCAs: pool}})
	defer client.Close()
	if b, err = redis.New(client, redis.Options{}); err != nil {
		t.Fatal(err)
	}
	roundTrip(t, b)
}

// writeCertificate writes cert.pem and key.pem for 127.0.0.1, and returns a pool that trusts them.
func writeCertificate(t *testing.T, dir string) *x509.CertPool {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for name, data := range map[string][]byte{
		"cert.pem": cert,
		"key.pem":  pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(cert)
	return pool
}
