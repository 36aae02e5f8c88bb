// Package redis connects nodes through the pub/sub of Redis 6.2 or later, or of what speaks its protocol:
// of one server, of the master that Sentinels name, or of a Cluster, which must be Redis 7 or Valkey.
//
// On one server a subject is a channel of the same name, after [Options.Prefix]. A node has one
// subscribed connection, one that looks after the server, and up to [Options.Lanes] for publishing, all of its
// own: the pool, the retries and the hooks of a given client are not used, only its options, so that nothing
// is sent twice, and nothing reconnects behind the driver's back. Receipts are what PUBLISH answers,
// and exact; but for four seconds after a connection has failed, when others may not have subscribed again
// yet, a count is [broker.AtLeast], and 0 is [broker.Unknown]. Nodes that have not come back by then count as
// gone, as does one whose lease has run out. A process that has just begun, and knows of no failure, takes the
// server at its word.
//
// # What is proven
//
// The address may be a name that comes to lead elsewhere, and a master may become a replica, while
// connections stay open. So behind each pipeline goes a HELLO, which tells whether the server was a master when
// it counted. A keeper asks the same twice a second, for the subscribed connection, and a lane asks before it uses a
// connection that has been idle for a second. Every two seconds the name is tried, and must lead to the server with
// the same run id. A replica is left at once. If the name leads to another master all stay for five seconds, and call
// nothing exact, so that nobody leaves before all have heard of it. What Redis refuses is an answer: a server that
// cannot save, is out of memory, or is busy, is not taken for a dead one.
//
// # Leases
//
// Redis counts a connection for as long as it is open, also when the node behind it is frozen or cut
// off. So each node renews a lease of four seconds in the sorted set "tether:nodes" of database 0,
// and all that run or publish look there twice a second. Of nodes whose lease is over Redis is asked how long
// their two connections have been idle; they are used twice a second, and one that has not been for four seconds
// belongs to a node that is dead: it is dropped. This needs TIME, ZADD, PEXPIRE, ZRANGEBYSCORE, ZREM, CLIENT INFO,
// CLIENT LIST and CLIENT KILL; while one is refused the log says so once, and receipts may count such a node until
// Redis notices. It is tried again all the time.
//
// A node that is too slow pushes back on its connection, and when Redis's output buffer for it is
// full (client-output-buffer-limit pubsub, by default 32 MiB, or 8 MiB for a minute) Redis cuts it
// off. That is a gap like any other. A node's own emitters never are the reason: Publish waits, with its
// context, while more than 4 MiB of what this node has published may not have been read by it, and while
// beats take longer than half a second more than 256 KiB.
//
// # Sentinel
//
// Every Sentinel is asked for the master, and the one that knows of the latest failover is believed:
// before every connection, and every half second while Run is running or messages are published. A failover is
// a gap of all subjects, from the last beat of the old master until all is subscribed at the new one. A master
// that has been replaced and lives on is used for another second; receipts are exact only if most Sentinels have
// named the server within the last second, and for five seconds after a failover they are lower bounds, or
// unknown.
//
// # Cluster
//
// Pub/sub is sharded, with SSUBSCRIBE and SPUBLISH. A subject belongs to one of 256 partitions, by
// FNV-1a of 32 bits whose bytes are combined by exclusive or. The n-th partition has the hash tag
// that is the smallest number whose slot is one of the n-th 64; so a master with a part of the slots
// has the same part of the subjects. The channel is "{tag}", the prefix, and the subject: interest stays
// exact, and a receipt, which the one server of the slot gives, is exact, too. Each master that has
// partitions has connections and lanes of its own, as above, and its leases, in its first and its last
// partition. So a master that dies, or falls silent, concerns its own subjects and no others.
//
// All masters are asked once a second which master serves what, and at once when one redirects or fails; of
// different answers the one of the latest epoch is believed. What is redirected (MOVED) was not
// executed, and is sent to where it belongs, in order; nothing else is ever sent again. When a slot
// leaves a server, the server says so, and its subjects are subscribed at the new one: a gap of
// theirs, which begins two seconds before the last beat, or when all last agreed on the owner, as
// messages may have gone to the new owner before the old one knew.
//
// An owner that others say has been replaced decides itself when that is true: as long as it says nothing of
// the kind, messages are published there for two seconds, and subjects subscribed for 3.5 seconds. Then it
// is taken to be cut off from the others, and left. A receipt is exact if the owner is a master, if all agreed
// on the owner less than two seconds ago, and if it has been the same for four seconds, in which everybody
// has subscribed there. Else a count is [broker.AtLeast], and 0
// is [broker.Unknown]. After a pause of 1.5 seconds Publish asks first, which takes a round trip.
//
// Gaps name their subjects. The state that Run tells is that of the whole: while one part of the
// slots is not served it is a [broker.ErrPart], though the rest is at work.
package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
)

// Options of a broker. The zero value of every field is its default.
type Options struct {
	// Logger is told what nobody else is. Default slog.Default().
	Logger *slog.Logger

	// Lanes is the number of connections for publishing, 255 at most, and in a Cluster for each of its
	// masters; each is opened when it is first needed. Default 4.
	Lanes int

	// DialTimeout is how long connecting may take, with authentication. Default 1 s. A TLS dialer of
	// go-redis itself looks at its client's own DialTimeout instead.
	DialTimeout time.Duration

	// PublishTimeout is how long the server may be silent before Publish fails. Default 1.5 s.
	PublishTimeout time.Duration

	// SubscribeTimeout is how long Subscribe and Unsubscribe wait for the server, reconnecting
	// included, before they fail. Default 5 s.
	SubscribeTimeout time.Duration

	// Prefix is what every channel, and the key of the leases, begins with, so that applications can
	// share a Redis and be told apart in its access rules. It must not have braces. Default "".
	Prefix string

	// MaxMessage is the length of the largest subject and data, in bytes; more is ErrTooLarge.
	// Default 16 MiB, two of which fit into the output buffer that Redis has for a subscriber.
	MaxMessage int

	// Log has the server keep what is published, see [broker.Logger], in streams that are named as the subjects are: of
	// each as much as is said here, and all of it until Age after the last message. In a Cluster all messages go through
	// the master of partition 0 then. This needs EVAL, EVALSHA, SCRIPT LOAD, MULTI, HMGET, XRANGE and INFO, and all that
	// share the server must have one. Zero: there is no log.
	Log broker.LogOptions
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
// its master, a client of a Cluster (goredis.NewClusterClient) stands for all its servers. A Ring is
// refused. The client is not closed by the broker, and must be open as long.
func New(client goredis.UniversalClient, o Options) (broker.Broker, error) {
	if strings.ContainsAny(o.Prefix, "{}") {
		return nil, errBraces
	}
	// What embeds a *goredis.Client, or a ClusterClient, is one.
	switch c := client.(type) {
	case interface{ Options() *goredis.Options }:
		opts := *c.Options()
		if opts.StreamingCredentialsProvider != nil {
			return nil, errStreaming
		}
		return newDriver(target{opts: &opts}, o), nil
	case interface {
		Options() *goredis.ClusterOptions
	}:
		t, err := clusterTarget(c.Options())
		if err != nil {
			return nil, err
		}
		return newDriver(t, o), nil
	}
	return nil, fmt.Errorf("redis: a %T is not supported: its pub/sub is divided between servers", client)
}

var (
	errStreaming = errors.New("redis: a StreamingCredentialsProvider is not supported; CredentialsProviderContext is")
	errBraces    = errors.New("redis: a prefix must not have braces, which mark what a Cluster hashes")
)

// clusterTarget takes from the options of a client what is used.
func clusterTarget(c *goredis.ClusterOptions) (target, error) {
	if c.StreamingCredentialsProvider != nil {
		return target{}, errStreaming
	}
	o := &goredis.Options{
		Network: "tcp", Dialer: c.Dialer, TLSConfig: c.TLSConfig, ClientName: c.ClientName,
		Username: c.Username, Password: c.Password,
		CredentialsProvider: c.CredentialsProvider, CredentialsProviderContext: c.CredentialsProviderContext,
	}
	if o.Dialer == nil {
		o.Dialer = tlsDialer(func() (*tls.Config, error) { return o.TLSConfig, nil })
	}
	return target{opts: o, seeds: c.Addrs}, nil
}

// Open returns a broker for one of
//
//	redis://[[user]:password@]host[:6379]
//	redis:///path/of.sock
//	redis+sentinel://[[user]:password@]host[:26379][,host…]/master-name
//	redis+cluster://[[user]:password@]host[:6379][,host…]
//
// with rediss for redis where TLS is spoken. Every host may have a port. The query may have
//
//	prefix         what every channel begins with; default nothing
//	client_name    what CLIENT LIST shows
//	password_file  a file with the password, in the place of the one in the URL
//	log            for how long the server keeps what is published: 5m, say. See [Options.Log]
//	log_length     how many messages of each subject it keeps
//	log_bytes      how much of each subject it keeps
//	ca             file with the certificates to trust; default those of the system. With TLS only
//	cert, key      files with our own certificate and its key. With TLS only
//	skip_verify    true: the server's certificate is not verified. With TLS only
//	sentinel_auth  true: the Sentinels are given the user and password, too
//
// Files are read again for each connection; a certificate that is about to expire is warned of.
// Open fails if no server answers.
func Open(ctx context.Context, u *url.URL) (broker.Broker, error) {
	t, o, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, unavailable(err)
	}
	d := newDriver(t, o)
	if err := d.ping(ctx); err != nil {
		d.Close()
		return nil, unavailable(err)
	}
	return d, nil
}
