package nats

import (
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

// Open connects to the servers that a URL names, and returns when it is connected.
//
//	nats://user:password@host:4222,other:4222
//	tls://token@host?ca=ca.pem&cert=node.pem&key=node-key.pem
//
// The scheme tls insists on TLS 1.2 or later; with nats it depends on the server. The port is 4222
// unless it is given. A user without a password is a token. The options, of which no others are
// known and each may be given once:
//
//	prefix         what every subject begins with; default "tether"
//	inbox          what every inbox begins with; default "_INBOX"
//	password_file  file with the password of the user
//	token_file     file with a token
//	creds          file with a user's JWT and seed
//	nkey           file with the seed of an NKey
//	ca             file with the certificates to trust; default those of the system. With tls only
//	cert           file with our own certificate, and
//	key            the file with its key. With tls only
//	log            for how long JetStream keeps what is published, 5m say; default not at all
//	log_length     how many messages of each subject, at most; default 10,000
//	log_bytes      how many bytes of all that is kept; default 1 GiB
//	log_records    how many bytes of the records that nodes save; default 256 MiB
//	discover       no: only the servers of the URL are used, and none that they tell of, which may have
//	               addresses that cannot be reached from here. Default yes
//
// All files are read again for each connection. Of several servers one that does not answer within a quarter
// of a second is passed over if another does.
//
// Nothing that a URL may keep secret appears in an error.
func Open(ctx context.Context, u *url.URL) (broker.Broker, error) {
	t, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // before the names of the servers are looked up
	}
	d := newDialer(ctx, t.addresses)
	options := append(ConnectOptions(d.dial), t.options...)
	options = append(options,
		natsio.Name("tether"),
		natsio.ErrorHandler(logError),
		natsio.SkipHostLookup(), // the dialer does
		natsio.SkipSubjectValidation(),
	)
	conn, err := natsio.Connect(strings.Join(t.servers, ","), options...)
	for err != nil && d.again() {
		conn, err = natsio.Connect(strings.Join(t.servers, ","), options...)
	}
	d.connected()
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, unavailable("connect", err)
	}
	l, err := linkOf(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	l.nkeyOf(conn, t.nkey)
	b, err := newBroker(ctx, conn, l, Options{Prefix: t.prefix, Log: t.log, LogRecords: t.records}, true, t.files)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return b, nil
}

// logError logs what happens on a connection of our own. Dropped messages are reported as gaps.
func logError(_ *natsio.Conn, _ *natsio.Subscription, err error) {
	if !errors.Is(err, natsio.ErrSlowConsumer) {
		slog.Default().Debug("nats: connection", "error", err)
	}
}
