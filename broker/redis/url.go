package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/internal/credential"
)

// target is what a URL or a client names.
type target struct {
	opts  *goredis.Options
	files *credential.Files // of TLS; nil: opts has what is needed

	seeds []string // servers of a Cluster; nil: it is none

	sentinels    []string // nil: opts.Addr is the server
	master       string   // the name that the Sentinels have for it
	sentinelAuth bool     // the Sentinels are given the user and password, too
}

func parseURL(u *url.URL) (target, Options, error) {
	var t target
	kind, secure, err := parseScheme(u.Scheme)
	if err != nil {
		return t, Options{}, err
	}
	t.opts = &goredis.Options{Network: "tcp"}
	if secure {
		t.opts.TLSConfig = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	query, err := parseQuery(u, kind, secure)
	if err != nil {
		return t, Options{}, err
	}
	if err := t.parseUser(u, query); err != nil {
		return t, Options{}, err
	}
	if err := t.parseTLS(query); err != nil {
		return t, Options{}, err
	}
	port := "6379"
	if kind == sentinelKind {
		port = "26379"
	}
	hosts, err := parseHosts(u.Host, port)
	if err != nil {
		return t, Options{}, err
	}
	t.sentinelAuth = query["sentinel_auth"] == "true"
	if err := t.parsePath(u, kind, hosts); err != nil {
		return t, Options{}, err
	}
	keep, err := broker.ParseLog(func(key string) string { return query[key] })
	if err != nil {
		return t, Options{}, fmt.Errorf("redis: %w", err)
	}
	return t, Options{Prefix: query["prefix"], Log: keep}, nil
}

// parseUser takes what names the user.
func (t *target) parseUser(u *url.URL, query map[string]string) error {
	t.opts.ClientName = query["client_name"]
	if u.User != nil {
		t.opts.Username = u.User.Username()
		t.opts.Password, _ = u.User.Password()
	}
	file, ok := query["password_file"]
	switch {
	case !ok:
		return nil
	case t.opts.Password != "":
		return errors.New("redis: the URL has a password and a password_file: one of them is enough")
	}
	if _, err := credential.Secret(file); err != nil {
		return fmt.Errorf("redis: read password_file: %w", err)
	}
	user := t.opts.Username
	t.opts.CredentialsProviderContext = func(context.Context) (string, string, error) {
		password, err := credential.Secret(file)
		if err != nil {
			return "", "", &secretError{err}
		}
		return user, password, nil
	}
	return nil
}

// secretError says that a file with a password cannot be read. It holds nothing of it.
type secretError struct{ err error }

func (e *secretError) Error() string { return "redis: read password_file: " + e.err.Error() }
func (e *secretError) Unwrap() error { return e.err }

// parseTLS takes what concerns TLS, and makes the dialer.
func (t *target) parseTLS(query map[string]string) error {
	base := t.opts.TLSConfig
	if base == nil {
		t.opts.Dialer = tlsDialer(func() (*tls.Config, error) { return nil, nil })
		return nil
	}
	base.InsecureSkipVerify = query["skip_verify"] == "true"
	t.files = &credential.Files{CA: query["ca"], Cert: query["cert"], Key: query["key"]}
	if err := t.files.Check(); err != nil {
		return fmt.Errorf("redis: %w", err)
	}
	t.opts.Dialer = tlsDialer(func() (*tls.Config, error) { return t.files.Config(base) })
	return nil
}

const (
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
func (t *target) parsePath(u *url.URL, kind string, hosts []string) error {
	path := strings.Trim(u.Path, "/")
	if kind == sentinelKind {
		name, database, _ := strings.Cut(path, "/")
		if isDatabase(database) && database != "0" {
			return errDatabase(database)
		}
		if name == "" || database != "" && database != "0" {
			return errors.New("redis: the path of the URL must be the name of the master, as the Sentinels know it")
		}
		t.sentinels, t.master = hosts, name
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

// parseQuery checks the query.
func parseQuery(u *url.URL, kind string, secure bool) (map[string]string, error) {
	known := map[string]bool{"client_name": true, "prefix": true, "password_file": true}
	for _, key := range broker.LogKeys() {
		known[key] = true
	}
	if secure {
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
	return query, nil
}
