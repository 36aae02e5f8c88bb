// Package redis connects nodes through the pub/sub of one Redis, 6.2 or later, or of what speaks its
// protocol.
//
// A subject is a channel of the same name. A node has one subscribed connection, one for its lease,
// and up to [Options.Lanes] for publishing, all of its own: the pool, the retries and the hooks of a
// given client are not used, only its options, so that nothing is sent twice, and nothing reconnects
// behind the driver's back. Receipts are what PUBLISH answers, and exact.
//
// Redis counts a connection for as long as it is open, also when the node behind it is frozen or cut
// off. So each node renews a lease of four seconds in the sorted set "tether:nodes" of database 0,
// and whoever runs or publishes looks there once a second and has Redis drop the connections of
// nodes whose lease is over. This needs EVAL, CLIENT INFO and CLIENT KILL; where one is refused it
// is said once in the log, and receipts may count such a node until Redis notices.
//
// A node that is too slow pushes back on its connection, and when Redis's output buffer for it is
// full (client-output-buffer-limit pubsub, by default 32 MiB, or 8 MiB for a minute) Redis cuts it
// off. That is a gap like any other.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
)

// Options of a broker. The zero value of every field is its default.
type Options struct {
	// Logger is told what nobody else is. Default slog.Default().
	Logger *slog.Logger

	// Lanes is the number of connections for publishing, 255 at most; each is opened when it is first
	// needed. Default 4.
	Lanes int

	// DialTimeout is how long connecting may take, with authentication. Default 1 s. A TLS dialer of
	// go-redis itself looks at its client's own DialTimeout instead.
	DialTimeout time.Duration

	// PublishTimeout is how long the server may be silent before Publish fails. Default 1.5 s.
	PublishTimeout time.Duration

	// SubscribeTimeout is how long Subscribe and Unsubscribe wait for the server, reconnecting
	// included, before they fail. Default 5 s.
	SubscribeTimeout time.Duration

	// MaxMessage is the length of the largest subject and data, in bytes; more is ErrTooLarge.
	// Default 16 MiB, two of which fit into the output buffer that Redis has for a subscriber.
	MaxMessage int
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	if o.Lanes <= 0 {
		o.Lanes = 4
	}
	o.Lanes = min(o.Lanes, 255)
	for _, d := range []struct {
		value *time.Duration
		to    time.Duration
	}{{&o.DialTimeout, time.Second}, {&o.PublishTimeout, 1500 * time.Millisecond}, {&o.SubscribeTimeout, 5 * time.Second}} {
		if *d.value <= 0 {
			*d.value = d.to
		}
	}
	if o.MaxMessage <= 0 {
		o.MaxMessage = 16 << 20
	}
	return o
}

// New returns a broker that connects as client does: to its address, through its dialer, with its
// credentials and TLS configuration. The database is not selected, as pub/sub has none; OnConnect,
// hooks, retries and timeouts are not used. A client of Sentinel (goredis.NewFailoverClient) follows
// its master. Clients of a Cluster and of a Ring are refused. The client is not closed by the broker,
// and must be open as long.
func New(client goredis.UniversalClient, o Options) (broker.Broker, error) {
	// What embeds a *goredis.Client is one.
	c, ok := client.(interface{ Options() *goredis.Options })
	if !ok {
		return nil, fmt.Errorf("redis: a %T is not supported: its pub/sub is divided between servers", client)
	}
	opts := *c.Options()
	if opts.StreamingCredentialsProvider != nil {
		return nil, errors.New("redis: a StreamingCredentialsProvider is not supported; CredentialsProviderContext is")
	}
	return newDriver(&opts, o), nil
}

// Open returns a broker for redis://[[user]:password@]host[:port][/0], the same with rediss for TLS,
// and redis:///path/of.sock for a Unix socket. The query may have client_name and, with rediss,
// skip_verify=true. It fails if the server does not answer.
func Open(ctx context.Context, u *url.URL) (broker.Broker, error) {
	opts, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	d := newDriver(opts, Options{})
	if err := d.ping(ctx); err != nil {
		d.Close()
		return nil, unavailable(err)
	}
	return d, nil
}

func parseURL(u *url.URL) (*goredis.Options, error) {
	o := &goredis.Options{Network: "tcp"}
	if u.User != nil {
		o.Username = u.User.Username()
		o.Password, _ = u.User.Password()
	}
	host, port := u.Hostname(), u.Port()
	if host == "" {
		host = "localhost"
	}
	if port == "" {
		port = "6379"
	}
	o.Addr = net.JoinHostPort(host, port)
	switch path := strings.Trim(u.Path, "/"); {
	case path == "" || path == "0":
	case isDatabase(path):
		return nil, fmt.Errorf("redis: the URL names database %s, but the pub/sub of Redis has no databases: leave it out", path)
	case u.Host == "" && u.Scheme == "redis":
		o.Network, o.Addr = "unix", u.Path
	default:
		return nil, errors.New("redis: the path of the URL is not understood: after a host it may only be /0")
	}
	switch u.Scheme {
	case "redis":
	case "rediss":
		o.TLSConfig = &tls.Config{ServerName: host, MinVersion: tls.VersionTLS12}
	default:
		return nil, fmt.Errorf("redis: unknown scheme %q", u.Scheme)
	}
	if err := parseQuery(u, o); err != nil {
		return nil, err
	}
	o.Dialer = dialer(o.TLSConfig)
	return o, nil
}

func isDatabase(path string) bool {
	_, err := strconv.ParseUint(path, 10, 64)
	return err == nil
}

func parseQuery(u *url.URL, o *goredis.Options) error {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errors.New("redis: the query of the URL is malformed")
	}
	for key, values := range query {
		value := values[len(values)-1]
		switch {
		case key == "client_name":
			o.ClientName = value
		case key == "skip_verify" && o.TLSConfig != nil:
			if o.TLSConfig.InsecureSkipVerify, err = strconv.ParseBool(value); err != nil {
				return errors.New("redis: skip_verify in the URL is neither true nor false")
			}
		default:
			return fmt.Errorf("redis: unknown key %q in the query of the URL", key)
		}
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
