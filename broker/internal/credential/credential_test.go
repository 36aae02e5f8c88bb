package credential

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// issue writes a certificate, with its key, that was made an hour ago and lives for so long from now on.
func issue(t *testing.T, f *Files, name string, life time.Duration) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
	}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	write(t, f.Cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	write(t, f.Key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: secret}))
}

func write(t *testing.T, file string, data []byte) {
	t.Helper()
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func files(t *testing.T) (*Files, *bytes.Buffer) {
	dir, log := t.TempDir(), new(bytes.Buffer)
	return &Files{
		CA: filepath.Join(dir, "cert.pem"), Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"),
		Log: slog.New(slog.NewTextHandler(log, nil)),
	}, log
}

func TestEveryConnectionReadsTheFilesAgain(t *testing.T) {
	f, log := files(t)
	issue(t, f, "first", time.Hour)
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"first", "second"} {
		issue(t, f, name, time.Hour)
		c, err := f.Config(&tls.Config{MinVersion: tls.VersionTLS12})
		if err != nil {
			t.Fatal(err)
		}
		if got := c.Certificates[0].Leaf.Subject.CommonName; got != name {
			t.Errorf("the certificate is that of %s, want %s", got, name)
		}
		if _, err := c.Certificates[0].Leaf.Verify(x509.VerifyOptions{Roots: c.RootCAs}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if log.Len() > 0 {
		t.Errorf("got %s", log)
	}
}

func TestFilesThatAreBeingReplacedLeaveWhatWasThere(t *testing.T) {
	f, log := files(t)
	issue(t, f, "good", time.Hour)
	if err := f.Check(); err != nil {
		t.Fatal(err)
	}
	write(t, f.Cert, []byte("half"))
	c, err := f.Config(&tls.Config{MinVersion: tls.VersionTLS12})
	if err != nil || c.Certificates[0].Leaf.Subject.CommonName != "good" || c.RootCAs == nil {
		t.Errorf("got %v", err)
	}
	if !strings.Contains(log.String(), "cannot be read") {
		t.Errorf("nobody is told: %q", log)
	}
}

func TestACertificateThatExpiresIsWarnedOfOnce(t *testing.T) {
	for _, c := range []struct {
		life time.Duration
		want string
	}{{time.Hour, ""}, {time.Minute, "expires soon"}, {-time.Minute, "has expired"}} {
		f, log := files(t)
		issue(t, f, "node", c.life)
		for range 3 {
			f.Watch()
		}
		if got := log.String(); c.want == "" && got != "" || strings.Count(got, c.want) != 1 && c.want != "" {
			t.Errorf("%v left: got %q, want %q", c.life, got, c.want)
		}
	}
}

func TestAPairThatIsNotWholeIsRefused(t *testing.T) {
	for name, f := range map[string]*Files{
		"no key":       {Cert: "a"},
		"no cert":      {Key: "a"},
		"no such file": {CA: filepath.Join(t.TempDir(), "none.pem")},
	} {
		if f.Check() == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestASecretIsOneLine(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	write(t, file, []byte("s3cret \r\n"))
	if got, err := Secret(file); got != "s3cret " || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
	write(t, file, []byte("\n"))
	if _, err := Secret(file); err == nil {
		t.Error("an empty file is a secret")
	}
}
