package nats_test

import (
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
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"tether/broker"
	"tether/internal/backend"
)

// operator writes the configuration of a server that trusts one operator, with one account, and a
// credentials file of a user of that account.
func operator(t *testing.T, dir string) (config, creds string) {
	t.Helper()
	key := func(create func() (nkeys.KeyPair, error)) (nkeys.KeyPair, string) {
		pair, err := create()
		if err != nil {
			t.Fatal(err)
		}
		public, err := pair.PublicKey()
		if err != nil {
			t.Fatal(err)
		}
		return pair, public
	}
	encode := func(token string, err error) string {
		if err != nil {
			t.Fatal(err)
		}
		return token
	}
	operatorKey, operatorID := key(nkeys.CreateOperator)
	accountKey, accountID := key(nkeys.CreateAccount)
	userKey, userID := key(nkeys.CreateUser)
	operator := encode(jwt.NewOperatorClaims(operatorID).Encode(operatorKey))
	account := encode(jwt.NewAccountClaims(accountID).Encode(operatorKey))
	claims := jwt.NewUserClaims(userID)
	claims.Permissions.Pub.Allow.Add("tether.>", "_INBOX.>")
	claims.Permissions.Sub.Allow.Add("tether.>", "_INBOX.>")
	user := encode(claims.Encode(accountKey))
	seed, err := userKey.Seed()
	if err != nil {
		t.Fatal(err)
	}
	file, err := jwt.FormatUserConfig(user, seed)
	if err != nil {
		t.Fatal(err)
	}
	creds = filepath.Join(dir, "user.creds")
	write(t, creds, file)
	config = filepath.Join(dir, "operator.conf")
	write(t, config, fmt.Appendf(nil, "operator: %s\nresolver: MEMORY\nresolver_preload: { %s: %s }\n", operator, accountID, account))
	return config, creds
}

// authority writes ca.pem, and for each name a certificate that it has signed, with its key.
func authority(t *testing.T, dir string, names ...string) {
	t.Helper()
	issue := func(serial int64, name string, parent *x509.Certificate, by *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		template := &x509.Certificate{
			SerialNumber: big.NewInt(serial),
			Subject:      pkix.Name{CommonName: name},
			NotBefore:    time.Now().Add(-time.Hour),
			NotAfter:     time.Now().Add(time.Hour),
			KeyUsage:     x509.KeyUsageDigitalSignature,
			ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		}
		if parent == nil {
			template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign
			template.ExtKeyUsage, template.IPAddresses = nil, nil
			parent, by = template, key
		}
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), by)
		if err != nil {
			t.Fatal(err)
		}
		private, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name+".pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
		write(t, filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}))
		return template, key
	}
	ca, key := issue(1, "ca", nil, nil)
	for i, name := range names {
		issue(int64(i)+2, name, ca, key)
	}
}

// TestANodeIsKnownAtEveryServerOfACluster has all at once: an operator's credentials with the least
// permissions, TLS of an authority of our own both ways, and a server that dies.
func TestANodeIsKnownAtEveryServerOfACluster(t *testing.T) {
	t.Parallel()
	for kind, get := range map[string]func(testing.TB, int, backend.NATSRoutes) []*backend.Server{
		"Servers": backend.NATSCluster, "StandIns": backend.NATSClusterStandIn,
	} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			file := func(name string) string { return filepath.Join(dir, name) }
			config, creds := operator(t, dir)
			authority(t, dir, "server", "client")
			servers := get(t, 3, backend.NATSRoutes{
				Args: []string{"-c", config, "--tls", "--tlsverify",
					"--tlscert", file("server.pem"), "--tlskey", file("server.key"), "--tlscacert", file("ca.pem")},
				Options: []natsio.Option{
					natsio.UserCredentials(creds), natsio.RootCAs(file("ca.pem")),
					natsio.ClientCert(file("client.pem"), file("client.key")),
					natsio.CustomInboxPrefix("_INBOX.test"),
				},
			})
			tls := "?ca=" + file("ca.pem") + "&cert=" + file("client.pem") + "&key=" + file("client.key")
			all := "&creds=" + creds
			n := run(t, open(t, "tls://"+servers[0].Addr+tls+all), make(chan broker.Message, 10))
			p := open(t, "tls://"+servers[1].Addr+tls+all)
			defer p.Close()
			if err := n.Subscribe(t.Context(), "s"); err != nil {
				t.Fatal(err)
			}
			if reach := settled(t, p, "s", ""); reach != one {
				t.Errorf("got %+v, want %+v", reach, one)
			}
			servers[0].Stop() // the others are known from the server only
			n.moved(t)
			if reach := settled(t, p, "s", ""); reach != one {
				t.Errorf("after the death of a server: got %+v, want %+v", reach, one)
			}
			for name, bad := range map[string]string{
				"no credentials": "tls://" + servers[1].Addr + tls,
				"no certificate": "tls://" + servers[1].Addr + "?ca=" + file("ca.pem") + all,
				"no authority":   "tls://" + servers[1].Addr + "?cert=" + file("client.pem") + "&key=" + file("client.key") + all,
			} {
				if err := tryOpen(t.Context(), bad); !errors.Is(err, broker.ErrUnavailable) {
					t.Errorf("%s: got %v, want %v", name, err, broker.ErrUnavailable)
				}
			}
		})
	}
}
