package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"tether/internal/client"
)

// writeCertificate makes a new certificate with the serial number, and puts it where the old one was.
func writeCertificate(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "127.0.0.1"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// serial is the number of the certificate that the server shows to a new connection.
func serial(t *testing.T, p *process) int64 {
	t.Helper()
	conn, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestANewCertificateIsTakenIntoUseWithoutARestart(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, every string
		hangUp      bool
		says        string
	}{
		{"when the files change", "20ms", false, "certificate reloaded"},
		{"at SIGHUP", "0s", true, "reloaded"},
	} {
		t.Run(c.name, func(t *testing.T) {
			dir := t.TempDir()
			cert, key := writeCertificate(t, dir, 1)
			p := start(t, enough, "--tls.cert="+cert, "--tls.key="+key, "--tls.check-every="+c.every)
			before := dialUser(t, client.Options{URL: "https://" + p.addr, TLS: &tls.Config{InsecureSkipVerify: true}}, "42")
			if got := serial(t, p); got != 1 {
				t.Errorf("before: got %d", got)
			}
			writeCertificate(t, dir, 2)
			if c.hangUp {
				p.signal(syscall.SIGHUP)
			}
			p.waitLog(c.says)
			if got := serial(t, p); got != 2 {
				t.Errorf("after: got %d", got)
			}
			select {
			case <-before.Ended():
				t.Errorf("a connection ended: %s", before.Reason())
			default:
			}
			for _, way := range []string{client.WebSocket, client.Polling, client.Upgrade} {
				dialUser(t, client.Options{URL: "https://" + p.addr, Transport: way, TLS: &tls.Config{InsecureSkipVerify: true}}, way)
			}
		})
	}
}

func TestTLSHasALowestVersion(t *testing.T) {
	cert, key := writeCertificate(t, t.TempDir(), 1)
	p := start(t, enough, "--tls.cert="+cert, "--tls.key="+key, "--tls.min-version=1.3")
	if conn, err := tls.Dial("tcp", p.addr, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		conn.Close()
		t.Error("TLS 1.2 is spoken")
	}
	if got := serial(t, p); got != 1 {
		t.Errorf("got %d", got)
	}
}
