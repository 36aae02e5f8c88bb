package redis

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"
)

// target is what a URL or a client names.
type target struct {
	opts  *goredis.Options
	find  finder   // nil: opts.Addr
	role  bool     // it must be a master
	seeds []string // servers of a Cluster; nil: it is none
}

func parseURL(u *url.URL) (target, Options, error) {
	var t target
	kind, secure, err := parseScheme(u.Scheme)
	if err != nil {
		return t, Options{}, err
	}
	o := &goredis.Options{Network: "tcp"}
	if u.User != nil {
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	if secure {
		o.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	query, err := parseQuery(u, kind, o)
	if err != nil {
		return t, Options{}, err
	}
	o.ClientName = query["client_name"]
	o.Dialer = dialer(o.TLSConfig)
	t.opts = o
	port := "6379"
	if kind == sentinelKind {
		port = "26379"
	}
	hosts, err := parseHosts(u.Host, port)
	if err != nil {
		return t, Options{}, err
	}
	if err := t.parsePath(u, kind, hosts, query["sentinel_auth"] == "true"); err != nil {
		return t, Options{}, err
	}
	return t, Options{Prefix: query["prefix"]}, nil
}

const (
	singleKind   = ""
	sentinelKind = "sentinel"
	clusterKind  = "cluster"
)

func parseScheme(scheme string) (kind string, secure bool, err error) {
	name, kind, plus := strings.Cut(scheme, "+")
	if name != "redis" && name != "rediss" || plus && kind != sentinelKind && kind != clusterKind {
		return "", false, fmt.Errorf("redis: unknown scheme %q", scheme)
	}
	return kind, name == "rediss", nil
}

// parsePath takes what the path says: a database that there is none of, a socket, or a master.
func (t *target) parsePath(u *url.URL, kind string, hosts []string, sentinelAuth bool) error {
	path := strings.Trim(u.Path, "/")
	if kind == sentinelKind {
		name, database, _ := strings.Cut(path, "/")
		if isDatabase(database) && database != "0" {
			return errDatabase(database)
		}
		if name == "" || database != "" && database != "0" {
			return errors.New("redis: the path of the URL must be the name of the master, as the Sentinels know it")
		}
		t.opts.Addr = "the master " + name
		t.find, t.role = newSentinels(t.opts, hosts, name, sentinelAuth).master, true
		return nil
	}
	switch {
	case path == "" || path == "0":
	case isDatabase(path):
		return errDatabase(path)
	case u.Host == "" && u.Scheme == "redis":
		t.opts.Network, t.opts.Addr = "unix", u.Path
		return nil
	default:
		return errors.New("redis: the path of the URL is not understood: after a host it may only be /0")
	}
	switch {
	case kind == clusterKind:
		t.seeds = hosts
	case len(hosts) > 1:
		return errors.New("redis: several hosts are for redis+cluster and redis+sentinel")
	default:
		t.opts.Addr = hosts[0]
	}
	return nil
}

func errDatabase(name string) error {
	return fmt.Errorf("redis: the URL names database %s, but the pub/sub of Redis has no databases: leave it out, and tell applications apart by a prefix", name)
}

func isDatabase(path string) bool {
	_, err := strconv.ParseUint(path, 10, 64)
	return err == nil
}

// parseHosts splits "a:1,b,[::1]:2" and gives those without a port the usual one.
func parseHosts(list, port string) ([]string, error) {
	var hosts []string
	for h := range strings.SplitSeq(list, ",") {
		host, p := h, ""
		if i := strings.LastIndexByte(h, ':'); i >= 0 && !strings.HasSuffix(h, "]") {
			host, p = h[:i], h[i+1:]
			if _, err := strconv.ParseUint(p, 10, 16); err != nil {
				return nil, errors.New("redis: a port in the URL is not a number up to 65535")
			}
		}
		if p == "" {
			p = port
		}
		bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
		if bare == "" {
			if strings.Contains(list, ",") {
				return nil, errors.New("redis: a host in the URL is empty")
			}
			bare = "localhost"
		}
		hosts = append(hosts, net.JoinHostPort(bare, p))
	}
	return hosts, nil
}

// parseQuery checks the query, and takes what concerns TLS.
func parseQuery(u *url.URL, kind string, o *goredis.Options) (map[string]string, error) {
	known := map[string]bool{"client_name": true, "prefix": true}
	if o.TLSConfig != nil {
		for _, key := range []string{"ca", "cert", "key", "skip_verify"} {
			known[key] = true
		}
	}
	if kind == sentinelKind {
		known["sentinel_auth"] = true
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("redis: the query of the URL is malformed")
	}
	query := make(map[string]string)
	for key, list := range values {
		if !known[key] {
			return nil, fmt.Errorf("redis: unknown key %q in the query of the URL; with %s known are %s",
				key, u.Scheme, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if len(list) > 1 {
			return nil, fmt.Errorf("redis: the key %q is twice in the query of the URL", key)
		}
		query[key] = list[0]
	}
	for _, key := range []string{"skip_verify", "sentinel_auth"} {
		if v, ok := query[key]; ok && v != "true" && v != "false" {
			return nil, fmt.Errorf("redis: %s in the URL is neither true nor false", key)
		}
	}
	if strings.ContainsAny(query["prefix"], "{}") {
		return nil, errBraces
	}
	if o.TLSConfig == nil {
		return query, nil
	}
	return query, configureTLS(o.TLSConfig, query)
}

func configureTLS(c *tls.Config, query map[string]string) error {
	c.InsecureSkipVerify = query["skip_verify"] == "true"
	if file, ok := query["ca"]; ok {
		pem, err := os.ReadFile(file)
		if err != nil {
			return fmt.Errorf("redis: read ca: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return fmt.Errorf("redis: ca: there is no certificate in %s", file)
		}
	}
	cert, key := query["cert"], query["key"]
	if (cert == "") != (key == "") {
		return errors.New("redis: cert and key in the URL need each other")
	}
	if cert != "" {
		pair, err := tls.LoadX509KeyPair(cert, key)
		if err != nil {
			return fmt.Errorf("redis: read cert and key: %w", err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return nil
}

// dialer is like that of go-redis, but a context ends it also during the TLS handshake.
func dialer(config *tls.Config) func(context.Context, string, string) (net.Conn, error) {
	plain := &net.Dialer{KeepAlive: 15 * time.Second}
	if config == nil {
		return plain.DialContext
	}
	return (&tls.Dialer{NetDialer: plain, Config: config}).DialContext
}
