package nats

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
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
//	prefix  what every subject begins with; default "tether"
//	inbox   what every inbox begins with; default "_INBOX"
//	creds   file with a user's JWT and seed
//	nkey    file with the seed of an NKey
//	ca      file with the certificates to trust; default those of the system. With tls only
//	cert    file with our own certificate, and
//	key     the file with its key. With tls only
//
// Nothing that a URL may keep secret appears in an error.
func Open(ctx context.Context, u *url.URL) (broker.Broker, error) {
	servers, query, err := parseURL(u)
	if err != nil {
		return nil, err
	}
	prefix := query.Get("prefix")
	if prefix != "" && !validPrefix(prefix) {
		return nil, fmt.Errorf("nats: prefix %q is not 1 to 64 letters, digits, \"-\", \"_\" and inner dots", prefix)
	}
	options, err := credentials(u, query)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err // before the names of the servers are looked up
	}
	dial, connected := dialWithin(ctx)
	defer connected()
	options = append(options,
		natsio.Name("tether"),
		natsio.ErrorHandler(logError),
	)
	conn, err := natsio.Connect(strings.Join(servers, ","), append(ConnectOptions(dial), options...)...)
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
	b, err := newBroker(conn, l, Options{Prefix: prefix})
	if err != nil {
		conn.Close()
		return nil, err
	}
	b.owned = true
	return b, nil
}

// logError logs what happens on a connection of our own. Dropped messages are reported as gaps.
func logError(_ *natsio.Conn, _ *natsio.Subscription, err error) {
	if !errors.Is(err, natsio.ErrSlowConsumer) {
		slog.Default().Debug("nats: connection", "error", err)
	}
}

// dialWithin returns a dial function that ends with ctx, and takes what it has dialled with it, until
// connected is called.
func dialWithin(ctx context.Context) (dial func(network, address string) (net.Conn, error), connected func()) {
	first, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, cancel)
	isConnected := make(chan struct{})
	d := net.Dialer{Timeout: dialTimeout}
	dial = func(network, address string) (net.Conn, error) {
		select {
		case <-isConnected:
			return d.Dial(network, address)
		default:
		}
		c, err := d.DialContext(first, network, address)
		if err != nil {
			return nil, err
		}
		return abortable{c, context.AfterFunc(first, func() { c.Close() })}, nil
	}
	return dial, func() {
		stop()
		close(isConnected)
	}
}

// abortable is a connection that is closed by a context unless it is closed before.
type abortable struct {
	net.Conn
	stop func() bool
}

func (a abortable) Close() error {
	a.stop()
	return a.Conn.Close()
}

var known = []string{"prefix", "inbox", "creds", "nkey", "ca", "cert", "key"}

func parseURL(u *url.URL) (servers []string, query url.Values, err error) {
	if u.Scheme != "nats" && u.Scheme != "tls" {
		return nil, nil, fmt.Errorf("nats: scheme %q is neither nats nor tls", u.Scheme)
	}
	if u.Opaque != "" || u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return nil, nil, errors.New("nats: a URL has servers and options, and no path or fragment")
	}
	for host := range strings.SplitSeq(u.Host, ",") {
		if host == "" || strings.HasPrefix(host, ":") {
			return nil, nil, errors.New("nats: a server has no name")
		}
		servers = append(servers, u.Scheme+"://"+host)
	}
	query, err = url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, nil, errors.New("nats: malformed options") // err may quote one
	}
	for key, values := range query {
		if !slices.Contains(known, key) {
			return nil, nil, fmt.Errorf("nats: unknown option %q; known are %s", key, strings.Join(known, ", "))
		}
		if len(values) != 1 || values[0] == "" {
			return nil, nil, fmt.Errorf("nats: option %s needs one value", key)
		}
	}
	if u.Scheme != "tls" && (query.Has("ca") || query.Has("cert") || query.Has("key")) {
		return nil, nil, errors.New("nats: the options ca, cert and key need the scheme tls")
	}
	if query.Has("cert") != query.Has("key") {
		return nil, nil, errors.New("nats: the options cert and key need each other")
	}
	ways := 0
	for _, given := range []bool{u.User != nil, query.Has("creds"), query.Has("nkey")} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		return nil, nil, errors.New("nats: only one of user, creds and nkey can be given")
	}
	return servers, query, nil
}

// credentials returns the options that say who we are and whom we trust.
func credentials(u *url.URL, query url.Values) ([]natsio.Option, error) {
	var options []natsio.Option
	if u.User != nil {
		if password, ok := u.User.Password(); ok {
			options = append(options, natsio.UserInfo(u.User.Username(), password))
		} else {
			options = append(options, natsio.Token(u.User.Username()))
		}
	}
	if file := query.Get("creds"); file != "" {
		if _, err := os.Stat(file); err != nil {
			return nil, fmt.Errorf("nats: creds: %w", err)
		}
		options = append(options, natsio.UserCredentials(file))
	}
	if file := query.Get("nkey"); file != "" {
		nkey, err := natsio.NkeyOptionFromSeed(file)
		if err != nil {
			return nil, fmt.Errorf("nats: nkey: %w", err)
		}
		options = append(options, nkey)
	}
	if inbox := query.Get("inbox"); inbox != "" {
		options = append(options, natsio.CustomInboxPrefix(inbox))
	}
	if u.Scheme == "tls" {
		config, err := tlsConfig(query)
		if err != nil {
			return nil, err
		}
		options = append(options, natsio.Secure(config))
	}
	return options, nil
}

func tlsConfig(query url.Values) (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if file := query.Get("ca"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("nats: ca: %w", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("nats: ca: no certificate in %s", file)
		}
	}
	if file := query.Get("cert"); file != "" {
		pair, err := tls.LoadX509KeyPair(file, query.Get("key"))
		if err != nil {
			return nil, fmt.Errorf("nats: cert: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}
