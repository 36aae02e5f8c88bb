package nats

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"

	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"

	"tether/broker"
	"tether/broker/internal/credential"
)

// target is what a URL names.
type target struct {
	servers   []string // URLs without users
	addresses []string // of the servers: host:port
	prefix    string
	options   []natsio.Option
	files     *credential.Files // of TLS; nil without
	nkey      string            // file with a seed, or ""
	log       broker.LogOptions
	records   int // bytes; 0: the default
}

var known = append([]string{"prefix", "inbox", "password_file", "token_file", "creds", "nkey", "ca", "cert", "key", "discover", "log_records"}, broker.LogKeys()...)

func parseURL(u *url.URL) (*target, error) {
	if u.Scheme != "nats" && u.Scheme != "tls" {
		return nil, fmt.Errorf("nats: scheme %q is neither nats nor tls", u.Scheme)
	}
	if u.Opaque != "" || u.Path != "" && u.Path != "/" || u.Fragment != "" {
		return nil, errors.New("nats: a URL has servers and options, and no path or fragment")
	}
	t := new(target)
	for host := range strings.SplitSeq(u.Host, ",") {
		if host == "" || strings.HasPrefix(host, ":") {
			return nil, errors.New("nats: a server has no name")
		}
		t.servers = append(t.servers, u.Scheme+"://"+host)
		if _, _, err := net.SplitHostPort(host); err != nil {
			host = net.JoinHostPort(strings.Trim(host, "[]"), "4222")
		}
		t.addresses = append(t.addresses, host)
	}
	query, err := parseQuery(u)
	if err != nil {
		return nil, err
	}
	t.prefix = query.Get("prefix")
	if t.prefix != "" && !validPrefix(t.prefix) {
		return nil, fmt.Errorf("nats: prefix %q is not 1 to 64 letters, digits, \"-\", \"_\" and inner dots", t.prefix)
	}
	if t.log, err = broker.ParseLog(query.Get); err != nil {
		return nil, fmt.Errorf("nats: %w", err)
	}
	if text := query.Get("log_records"); text != "" {
		if t.records, err = strconv.Atoi(text); err != nil || t.records < 1 {
			return nil, errors.New("nats: log_records in the URL is no positive number")
		}
		if t.log.Age == 0 {
			return nil, errors.New("nats: log_records in the URL needs log=5m, say, beside it")
		}
	}
	if err := t.authenticate(u, query); err != nil {
		return nil, err
	}
	if u.Scheme == "tls" {
		if err := t.secure(query); err != nil {
			return nil, err
		}
	}
	if inbox := query.Get("inbox"); inbox != "" {
		if strings.ContainsAny(inbox, " \t\r\n*>") || strings.Contains("."+inbox+".", "..") {
			return nil, fmt.Errorf("nats: inbox %q is no subject", inbox)
		}
		t.options = append(t.options, natsio.CustomInboxPrefix(inbox))
	}
	if query.Get("discover") == "no" {
		t.options = append(t.options, natsio.IgnoreDiscoveredServers())
	}
	return t, nil
}

func parseQuery(u *url.URL) (url.Values, error) {
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, errors.New("nats: malformed options") // err may quote one
	}
	for key, values := range query {
		if !slices.Contains(known, key) {
			return nil, fmt.Errorf("nats: unknown option %q; known are %s", key, strings.Join(known, ", "))
		}
		if len(values) != 1 || values[0] == "" {
			return nil, fmt.Errorf("nats: option %s needs one value", key)
		}
	}
	switch query.Get("discover") {
	case "", "yes", "no":
	default:
		return nil, errors.New("nats: option discover is neither yes nor no")
	}
	if u.Scheme != "tls" && (query.Has("ca") || query.Has("cert") || query.Has("key")) {
		return nil, errors.New("nats: the options ca, cert and key need the scheme tls")
	}
	return query, nil
}

// authenticate takes the name and the secret of this client. Files are read for each connection, and now, to find what is
// wrong with them.
func (t *target) authenticate(u *url.URL, query url.Values) error {
	ways := 0
	for _, given := range []bool{u.User != nil, query.Has("token_file"), query.Has("creds"), query.Has("nkey")} {
		if given {
			ways++
		}
	}
	if ways > 1 {
		return errors.New("nats: only one of user, token_file, creds and nkey can be given")
	}
	name, password, hasPassword := u.User.Username(), "", false
	if u.User != nil {
		password, hasPassword = u.User.Password()
	}
	switch {
	case query.Has("password_file"):
		if u.User == nil || hasPassword {
			return errors.New("nats: the option password_file needs a user without a password")
		}
		read, err := secret("password_file", query)
		if err != nil {
			return err
		}
		t.options = append(t.options, natsio.UserInfoHandler(func() (string, string) { return name, read() }))
	case query.Has("token_file"):
		read, err := secret("token_file", query)
		if err != nil {
			return err
		}
		t.options = append(t.options, natsio.TokenHandler(read))
	case hasPassword:
		t.options = append(t.options, natsio.UserInfo(name, password))
	case u.User != nil:
		t.options = append(t.options, natsio.Token(name))
	case query.Has("creds"):
		if _, err := os.Stat(query.Get("creds")); err != nil {
			return fmt.Errorf("nats: creds: %w", err)
		}
		t.options = append(t.options, natsio.UserCredentials(query.Get("creds")))
	case query.Has("nkey"):
		nkey, err := natsio.NkeyOptionFromSeed(query.Get("nkey"))
		if err != nil {
			return fmt.Errorf("nats: nkey: %w", err)
		}
		t.options, t.nkey = append(t.options, nkey), query.Get("nkey")
	}
	return nil
}

// secret returns a function that reads a file with a secret. When that cannot be read the server will refuse us.
func secret(option string, query url.Values) (read func() string, err error) {
	file := query.Get(option)
	if _, err := credential.Secret(file); err != nil {
		return nil, fmt.Errorf("nats: read %s: %w", option, err)
	}
	return func() string {
		s, err := credential.Secret(file)
		if err != nil {
			slog.Default().Warn("nats: a file with a secret cannot be read", "option", option, "error", err)
		}
		return s
	}, nil
}

// secure takes what concerns TLS.
func (t *target) secure(query url.Values) error {
	t.files = &credential.Files{CA: query.Get("ca"), Cert: query.Get("cert"), Key: query.Get("key"), Log: slog.Default()}
	if err := t.files.Check(); err != nil {
		return fmt.Errorf("nats: %w", err)
	}
	config := &tls.Config{MinVersion: tls.VersionTLS12, VerifyConnection: func(s tls.ConnectionState) error {
		t.files.Peer(s)
		return nil
	}}
	t.options = append(t.options, natsio.Secure(config))
	var certificate natsio.TLSCertHandler
	var roots natsio.RootCAsHandler
	if t.files.Cert != "" {
		certificate = t.files.Certificate
	}
	if t.files.CA != "" {
		roots = t.files.Roots
	}
	if certificate != nil || roots != nil {
		t.options = append(t.options, natsio.ClientTLSConfig(certificate, roots))
	}
	return nil
}

// publicKey reads a file with the seed of an NKey.
func publicKey(file string) (string, error) {
	seed, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	pair, err := nkeys.ParseDecoratedNKey(seed)
	if err != nil {
		return "", err
	}
	defer pair.Wipe()
	return pair.PublicKey()
}
