package server

import (
	"context"
	"crypto/tls"
	"log/slog"
	"os"
	"sync/atomic"
	"time"

	"tether/cmd/tether/internal/config"
)

// certificate is the server's own, taken from two files whenever they change. Connections that are
// open keep the one that they began with.
type certificate struct {
	config  config.TLSConfig
	log     *slog.Logger
	seen    [2]fileStamp // of the files that were read; owned by watch once it runs
	current atomic.Pointer[tls.Certificate]
}

func newCertificate(c config.TLSConfig, log *slog.Logger) (*certificate, error) {
	out := &certificate{config: c, log: log}
	out.seen = out.stamp() // before they are read, so that no change is missed
	return out, out.load()
}

// load takes the files as they are now into use, or leaves everything as it is.
func (c *certificate) load() error {
	pair, err := tls.LoadX509KeyPair(c.config.Cert, c.config.Key)
	if err != nil {
		return err
	}
	c.current.Store(&pair)
	return nil
}

func (c *certificate) tlsConfig() *tls.Config {
	lowest := uint16(tls.VersionTLS12)
	if c.config.MinVersion == "1.3" {
		lowest = tls.VersionTLS13
	}
	return &tls.Config{
		MinVersion:     lowest,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.current.Load(), nil },
	}
}

// watch looks at the files until ctx is done.
func (c *certificate) watch(ctx context.Context) {
	if c.config.CheckEvery == 0 {
		<-ctx.Done()
		return
	}
	tick := time.NewTicker(c.config.CheckEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now := c.stamp()
		if now == c.seen {
			continue
		}
		if err := c.load(); err != nil {
			// Half of a new pair, most likely: look again.
			c.log.Warn("certificate has changed and cannot be read; the old one stays in use", "error", err)
			continue
		}
		c.seen = now
		c.log.Info("certificate reloaded")
	}
}

// stamp changes when one of the files does.
func (c *certificate) stamp() (s [2]fileStamp) {
	for i, path := range []string{c.config.Cert, c.config.Key} {
		if info, err := os.Stat(path); err == nil {
			s[i] = fileStamp{info.ModTime().UnixNano(), info.Size()}
		}
	}
	return s
}

type fileStamp struct{ modified, size int64 }
