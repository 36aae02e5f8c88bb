package backend

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// Security is TLS with an authority of its own, in both directions, and a user with a password and no more
// rights than the driver's documentation asks for. Nil is none of it. The servers speak TLS only.
type Security struct {
	CA        string // file with the certificate of the authority
	ForeignCA string // file with that of another, which has signed nothing here
	Cert, Key string // files of a certificate for clients, and servers, at 127.0.0.1

	User, Password string

	admin  string // password of the user "default", which may do all
	rights []string
	config *tls.Config
}

// Secure makes authorities, certificates, and passwords. rights are those of the user, as ACL SETUSER
// takes them.
func Secure(t testing.TB, rights ...string) *Security {
	t.Helper()
	dir := t.TempDir()
	s := &Security{
		CA: filepath.Join(dir, "ca.pem"), ForeignCA: filepath.Join(dir, "foreign.pem"),
		Cert: filepath.Join(dir, "cert.pem"), Key: filepath.Join(dir, "key.pem"),
		User: "tether", Password: "s3cret+/@:", admin: "adm1n", rights: rights,
	}
	authority, signer := authority(t, s.CA)
	authorityElsewhere(t, s.ForeignCA)
	key := newKey(t)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "node"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, authority, &key.PublicKey, signer)
	must(t, err)
	writePEM(t, s.Cert, "CERTIFICATE", der)
	der, err = x509.MarshalPKCS8PrivateKey(key)
	must(t, err)
	writePEM(t, s.Key, "PRIVATE KEY", der)
	pair, err := tls.LoadX509KeyPair(s.Cert, s.Key)
	must(t, err)
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	s.config = &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
	return s
}

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return key
}

// authority makes one and writes its certificate to a file.
func authority(t testing.TB, file string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority " + filepath.Base(file)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	writePEM(t, file, "CERTIFICATE", der)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	return cert, key
}

func authorityElsewhere(t testing.TB, file string) { t.Helper(); _, _ = authority(t, file) }

func writePEM(t testing.TB, file, kind string, der []byte) {
	t.Helper()
	var b bytes.Buffer
	must(t, pem.Encode(&b, &pem.Block{Type: kind, Bytes: der}))
	must(t, os.WriteFile(file, b.Bytes(), 0o600))
}

// URL returns the URL of hosts for the user of s. A nil s gives one without TLS and user. query comes
// before what TLS needs.
func (s *Security) URL(scheme string, hosts []string, path string, query ...string) string {
	list := strings.Join(hosts, ",")
	if s == nil {
		return scheme + "://" + list + path
	}
	query = append(query, "ca="+url.QueryEscape(s.CA), "cert="+url.QueryEscape(s.Cert), "key="+url.QueryEscape(s.Key))
	return strings.Replace(scheme, "redis", "rediss", 1) + "://" + url.UserPassword(s.User, s.Password).String() +
		"@" + list + path + "?" + strings.Join(query, "&")
}

// args are those of a server at a port.
func (s *Security) args(port string) []string {
	if s == nil {
		return nil
	}
	return append([]string{"--port", "0", "--tls-port", port, "--tls-cluster", "yes", "--tls-replication", "yes",
		"--tls-cert-file", s.Cert, "--tls-key-file", s.Key, "--tls-ca-cert-file", s.CA,
		"--requirepass", s.admin, "--masterauth", s.admin, "--user", s.User, "on", ">" + s.Password}, s.rights...)
}

// sentinel returns lines of the configuration of a Sentinel that watches a master.
func (s *Security) sentinel(name, port string) []string {
	if s == nil {
		return nil
	}
	return []string{"port 0", "tls-port " + port, "tls-replication yes",
		"tls-cert-file " + s.Cert, "tls-key-file " + s.Key, "tls-ca-cert-file " + s.CA,
		"requirepass " + s.admin, "sentinel sentinel-pass " + s.admin,
		"sentinel auth-pass " + name + " " + s.admin,
		"user " + s.User + " on >" + s.Password + " -@all +auth +sentinel|master +sentinel|get-master-addr-by-name"}
}

// ready reports whether a connection is to a server that serves.
func (s *Security) ready(c net.Conn) error {
	if s == nil {
		return redisReady(c)
	}
	config := s.config.Clone()
	config.ServerName = "127.0.0.1"
	return redisReady(tls.Client(c, config))
}

// Admin returns a client that may do all.
func (s *Security) Admin(addr string) *goredis.Client {
	o := &goredis.Options{Addr: addr, DialTimeout: time.Second, ReadTimeout: 2 * time.Second, MaxRetries: -1, DisableIdentity: true}
	if s != nil {
		o.TLSConfig, o.Password = s.config, s.admin
	}
	return goredis.NewClient(o)
}

// tell sends a command whose answer does not matter.
func (s *Security) tell(addr string, args ...any) error {
	c := s.Admin(addr)
	defer c.Close()
	if err := c.Do(context.Background(), args...).Err(); err != nil {
		return fmt.Errorf("%s: %v: %w", addr, args, err)
	}
	return nil
}

// says checks that the answer to a command contains a text.
func (s *Security) says(addr, text string, args ...any) error {
	c := s.Admin(addr)
	defer c.Close()
	got, err := c.Do(context.Background(), args...).Text()
	if err == nil && !strings.Contains(got, text) {
		err = fmt.Errorf("%s: %v: no %q in %q", addr, args, text, got)
	}
	return err
}
