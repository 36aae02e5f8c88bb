package nats_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"tether/broker"
	"tether/broker/nats"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

func TestURLsThatAreRefusedDoNotShowTheirSecrets(t *testing.T) {
	gone := filepath.Join(t.TempDir(), "gone")
	for _, c := range []struct{ url, want string }{
		{"http://u:s3cret@h", "neither nats nor tls"},
		{"nats://u:s3cret@h/path", "no path"},
		{"nats://u:s3cret@h#s3cret", "no path"},
		{"nats:u:s3cret", "no path"},
		{"nats://u:s3cret@", "has no name"},
		{"nats://u:s3cret@:4222", "has no name"},
		{"nats://u:s3cret@a,,b", "has no name"},
		{"nats://u:s3cret@h?passwort=s3cret", `unknown option "passwort"`},
		{"nats://u:s3cret@h?prefix=%zz&x=s3cret", "malformed"},
		{"nats://u:s3cret@h?prefix=a&prefix=b", "needs one value"},
		{"nats://u:s3cret@h?prefix=", "needs one value"},
		{"nats://u:s3cret@h?prefix=a.*", "prefix"},
		{"nats://u:s3cret@h?inbox=a%20b", "inbox"},
		{"nats://u:s3cret@h?inbox=a.", "inbox"},
		{"nats://u:s3cret@h?discover=maybe", "neither yes nor no"},
		{"nats://u:s3cret@h?password_file=x", "password_file needs a user"},
		{"nats://u@h?password_file=" + gone, "password_file"},
		{"nats://u:s3cret@h?token_file=x", "only one of"},
		{"nats://h?token_file=" + gone, "token_file"},
		{"nats://u:s3cret@h?ca=x", "scheme tls"},
		{"nats://u:s3cret@h?nkey=x", "only one of"},
		{"nats://h?nkey=x&creds=y", "only one of"},
		{"nats://h?nkey=" + gone, "nkey"},
		{"nats://h?creds=" + gone, "creds"},
		{"tls://u:s3cret@h?ca=" + gone, "ca"},
		{"tls://u:s3cret@h?cert=x", "need each other"},
		{"tls://u:s3cret@h?cert=x&key=" + gone, "cert"},
	} {
		u, err := url.Parse(c.url)
		if err != nil {
			t.Fatal(err)
		}
		_, err = nats.Open(t.Context(), u)
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: got %v, want an error with %q", c.url, err, c.want)
		}
	}
}

func tryOpen(ctx context.Context, address string) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	b, err := nats.Open(ctx, u)
	if err != nil {
		return err
	}
	_, err = b.Publish(ctx, broker.Message{Subject: "s"})
	return errors.Join(err, b.Close())
}

func TestOpenSaysWhoItIs(t *testing.T) {
	seed := filepath.Join(t.TempDir(), "seed")
	pair, err := nkeys.CreateUser()
	if err != nil {
		t.Fatal(err)
	}
	secret, err := pair.Seed()
	if err != nil {
		t.Fatal(err)
	}
	write(t, seed, secret)
	public, err := pair.PublicKey()
	if err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "nats.conf")
	write(t, config, fmt.Appendf(nil, "authorization: { users: [ { nkey: %s } ] }", public))
	for _, c := range []struct {
		name       string
		args       []string
		good, evil string // before and after the address
	}{
		{"password", []string{"--user", "u", "--pass", "s3cret"}, "nats://u:s3cret@%s", "nats://u:wr0ng@%s"},
		{"token", []string{"--auth", "s3cret"}, "nats://s3cret@%s", "nats://wr0ng@%s"},
		{"nkey", []string{"-c", config}, "nats://%s?nkey=" + seed, "nats://%s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := backend.NATS(t, c.args...)
			if err := tryOpen(t.Context(), fmt.Sprintf(c.good, s.Addr)); err != nil {
				t.Error(err)
			}
			err := tryOpen(t.Context(), fmt.Sprintf(c.evil, s.Addr))
			if !errors.Is(err, broker.ErrUnavailable) || strings.Contains(err.Error(), "wr0ng") {
				t.Errorf("with a wrong secret: got %v, want %v", err, broker.ErrUnavailable)
			}
		})
	}
}

func TestOpenTrustsOnlyTheCertificatesItWasGiven(t *testing.T) {
	dir := t.TempDir()
	certificate(t, dir, "ours")
	certificate(t, dir, "other")
	file := func(name string) string { return filepath.Join(dir, name) }
	s := backend.NATS(t, "--tls", "--tlscert", file("ours.pem"), "--tlskey", file("ours.key"),
		"--tlsverify", "--tlscacert", file("ours.pem"))
	mutual := "&cert=" + file("ours.pem") + "&key=" + file("ours.key")
	if err := tryOpen(t.Context(), "tls://"+s.Addr+"?ca="+file("ours.pem")+mutual); err != nil {
		t.Error(err)
	}
	for _, c := range []struct{ name, url string }{
		{"another certificate is trusted", "tls://" + s.Addr + "?ca=" + file("other.pem") + mutual},
		{"we have none", "tls://" + s.Addr + "?ca=" + file("ours.pem")},
		{"only the system's are trusted", "tls://" + s.Addr},
	} {
		if err := tryOpen(t.Context(), c.url); !errors.Is(err, broker.ErrUnavailable) {
			t.Errorf("%s: got %v, want %v", c.name, err, broker.ErrUnavailable)
		}
	}
	plain := backend.NATS(t)
	if err := tryOpen(t.Context(), "tls://"+plain.Addr); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("a server without TLS: got %v, want %v", err, broker.ErrUnavailable)
	}
}

func TestOpenTriesEveryServer(t *testing.T) {
	t.Parallel()
	gone := backend.FreeAddress(t)
	s := backend.NATS(t)
	if err := tryOpen(t.Context(), "nats://"+gone+","+s.Addr); err != nil {
		t.Error(err)
	}
	if err := tryOpen(t.Context(), "nats://"+gone); !errors.Is(err, broker.ErrUnavailable) {
		t.Errorf("got %v, want %v", err, broker.ErrUnavailable)
	}
}

func TestOpenEndsWithItsContext(t *testing.T) {
	p := faultproxy.New(t, backend.NATS(t).Addr)
	p.Hold(faultproxy.Both)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin := time.Now()
	if err := tryOpen(ctx, "nats://"+p.Addr()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want %v", err, context.DeadlineExceeded)
	}
	if took := time.Since(begin); took > long.Limit(time.Second) {
		t.Errorf("took %v", took)
	}
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// certificate writes name.pem and name.key, for server and client on loopback.
func certificate(t *testing.T, dir, name string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: name},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IsCA:         true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
}
