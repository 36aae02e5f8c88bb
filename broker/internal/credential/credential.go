// Package credential reads the files by which a driver and its backend know each other. Such files are
// renewed while a process runs, so each connection that is made reads them again.
package credential

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"
)

// Files are the files of TLS. Each may be "". The fields are not changed after [Files.Check].
type Files struct {
	CA   string // certificates to trust; "": those of the system
	Cert string // our own certificate; it needs Key
	Key  string

	Log *slog.Logger // told of certificates that expire, and of files that cannot be read any more

	mu     sync.Mutex
	pair   *tls.Certificate     // guarded by mu; the last that could be read
	roots  *x509.CertPool       // guarded by mu; likewise
	warned map[string]time.Time // guarded by mu; when each warning was given last
}

// Check reads the files for the first time, and says what is wrong with them.
func (f *Files) Check() error {
	if (f.Cert == "") != (f.Key == "") {
		return errors.New("cert and key need each other")
	}
	if _, err := f.Certificate(); err != nil {
		return err
	}
	_, err := f.Roots()
	return err
}

// Certificate reads our own certificate and its key; an empty one if there is none. When they cannot be
// read any more, as they are just being replaced, it is the one before.
func (f *Files) Certificate() (tls.Certificate, error) {
	if f.Cert == "" {
		return tls.Certificate{}, nil
	}
	pair, err := tls.LoadX509KeyPair(f.Cert, f.Key)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if f.pair == nil {
			return pair, fmt.Errorf("read cert and key: %w", err)
		}
		f.warnLocked("the certificate cannot be read; the one before is used", "file", f.Cert, "error", err)
		return *f.pair, nil
	}
	f.pair = &pair
	f.expiresLocked("our own certificate for the broker", pair.Leaf, "file", f.Cert)
	return pair, nil
}

// Roots reads the certificates to trust; nil are those of the system. When they cannot be read any more, it
// is those before.
func (f *Files) Roots() (*x509.CertPool, error) {
	if f.CA == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(f.CA)
	roots := x509.NewCertPool()
	if err == nil && !roots.AppendCertsFromPEM(pem) {
		err = fmt.Errorf("there is no certificate in %s", f.CA)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if err != nil {
		if f.roots == nil {
			return nil, fmt.Errorf("read ca: %w", err)
		}
		f.warnLocked("the certificates to trust cannot be read; those before are used", "file", f.CA, "error", err)
		return f.roots, nil
	}
	f.roots = roots
	return roots, nil
}

// Config returns base with what the files say now, for one connection.
func (f *Files) Config(base *tls.Config) (*tls.Config, error) {
	c := base.Clone()
	pair, err := f.Certificate()
	if err != nil {
		return nil, err
	}
	if f.Cert != "" {
		c.Certificates = []tls.Certificate{pair}
	}
	if f.CA != "" {
		if c.RootCAs, err = f.Roots(); err != nil {
			return nil, err
		}
	}
	c.VerifyConnection = func(s tls.ConnectionState) error {
		f.Peer(s)
		return nil
	}
	return c, nil
}

// Peer warns of a certificate of the backend that expires. It may be a VerifyConnection of tls.Config.
func (f *Files) Peer(s tls.ConnectionState) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(s.PeerCertificates) > 0 {
		f.expiresLocked("the broker's certificate", s.PeerCertificates[0], "server", s.ServerName)
	}
}

// Watch warns of our own certificate if it expires while no connection is made. To be called now and then.
func (f *Files) Watch() {
	_, _ = f.Certificate() // it warns itself
}

// expiresLocked warns of a certificate that has a tenth of its time left, or a week, if that is less.
func (f *Files) expiresLocked(what string, c *x509.Certificate, where ...any) {
	if c == nil {
		return
	}
	left := time.Until(c.NotAfter)
	if left > min(c.NotAfter.Sub(c.NotBefore)/10, 7*24*time.Hour) {
		return
	}
	text := what + " expires soon: renew it"
	if left <= 0 {
		text = what + " has expired: connections that break cannot be made again"
	}
	f.warnLocked(text, append(where, "expires", c.NotAfter)...)
}

// warnLocked gives a warning, the same one once an hour at most.
func (f *Files) warnLocked(text string, where ...any) {
	if time.Since(f.warned[text]) < time.Hour || f.Log == nil {
		return
	}
	if f.warned == nil {
		f.warned = make(map[string]time.Time)
	}
	f.warned[text] = time.Now()
	f.Log.Warn(text, where...)
}

// Secret reads a file that holds a password or a token, but for the line's end.
func Secret(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	s := strings.TrimRight(string(b), "\r\n")
	if s == "" {
		return "", fmt.Errorf("%s is empty", file)
	}
	return s, nil
}
