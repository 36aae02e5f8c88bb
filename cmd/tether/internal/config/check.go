package config

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"tether/broker"
	"tether/broker/drivers"
	"tether/broker/memory"
	"tether/hub"
	"tether/token"
	"tether/transport"
)

const leastKeyLength = 16 // characters of a bearer key

// checker gathers the mistakes that no single tag can say.
type checker struct {
	*Loaded
	all []error
}

func (l *Loaded) checkTogether() []error {
	c := &checker{Loaded: l}
	c.checkGeneral()
	c.checkClient()
	c.checkKeys()
	c.checkOrigins()
	c.checkTLS()
	return c.all
}

func (c *checker) wrong(key, format string, args ...any) {
	c.all = append(c.all, &Mistake{Key: key, Source: c.SourceOf(key), Problem: fmt.Sprintf(format, args...)})
}

func (c *checker) missing(key, what string) {
	c.all = append(c.all, &Mistake{Key: key, Problem: fmt.Sprintf("is missing: %s, in %s or as %s in the file", what, envName(key), key)})
}

func (c *checker) checkGeneral() {
	if !isAddress(c.Addr) {
		c.wrong("addr", "%q is not an address; :3000 or 127.0.0.1:3000 is right", c.Addr)
	}
	if problem := checkBroker(c.Broker); problem != "" {
		c.wrong("broker", "%s", problem)
	}
	if len(c.Namespaces) == 0 {
		c.wrong("namespaces", "is empty; / is right for most applications")
	}
	for _, n := range c.Namespaces {
		if !strings.HasPrefix(n, "/") || strings.ContainsAny(n, ", ?") {
			c.wrong("namespaces", "%q is not a namespace; / or /news is right", n)
		} else if len(n) > c.Limits.Namespace {
			c.wrong("limits.namespace", "%d is less than the length of %q, which is in namespaces", c.Limits.Namespace, n)
		}
	}
	for _, name := range c.Emit.Events {
		if problem := CheckEvent(name); problem != "" {
			c.wrong("emit.events", "%s", problem)
		}
	}
}

var (
	isPath   = regexp.MustCompile(`^(/[A-Za-z0-9_~-][A-Za-z0-9._~-]*)+/$`).MatchString
	isCookie = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]*$").MatchString // RFC 6265, section 4.1.1
)

func (c *checker) checkClient() {
	if !isPath(c.Client.Path) {
		c.wrong("client.path", "%q is not a path; /socket.io/ is right, with a slash at both ends", c.Client.Path)
	}
	if !isCookie(c.Client.Cookie) {
		c.wrong("client.cookie", "%q is not the name of a cookie; io is right", c.Client.Cookie)
	}
	if len(c.Client.Transports) == 0 {
		c.wrong("client.transports", "is empty; polling, websocket or both is right")
	}
	for _, t := range c.Client.Transports {
		if t != transport.Polling && t != transport.WebSocket {
			c.wrong("client.transports", "%q is not known; polling, websocket or both is right", t)
		}
	}
}

// checkKeys reads the keys, wherever they are kept.
func (c *checker) checkKeys() {
	if c.Auth.Mode == "token" {
		if keys, err := Expand(c.Auth.Keys); err != nil {
			c.wrong("auth.keys", "%s", err)
		} else if len(keys) == 0 {
			c.missing("auth.keys", "give the key of the encrypted tokens, or set auth.mode=none")
		} else if _, err := Keyring(keys); err != nil {
			c.wrong("auth.keys", "%s", err)
		}
	}
	if c.Emit.Enabled {
		if keys, err := Expand(c.Emit.Keys); err != nil {
			c.wrong("emit.keys", "%s", err)
		} else if len(keys) == 0 {
			c.missing("emit.keys", "give a bearer key for POST /emit, or set emit.enabled=false")
		} else {
			c.checkLength("emit.keys", keys)
		}
	}
	if keys, err := Expand(c.Stats.Keys); err != nil {
		c.wrong("stats.keys", "%s", err)
	} else {
		c.checkLength("stats.keys", keys)
	}
}

func (c *checker) checkLength(key string, keys []Secret) {
	if slices.ContainsFunc(keys, func(k Secret) bool { return len(k) < leastKeyLength }) {
		c.wrong(key, "a key is shorter than %d characters; tether key makes a good one", leastKeyLength)
	}
}

func (c *checker) checkOrigins() {
	for _, o := range c.CORS.Origins {
		if problem := checkOrigin(o); problem != "" {
			c.wrong("cors.origins", "%q %s", o, problem)
		}
	}
	if c.CORS.Credentials && slices.Contains(c.CORS.Origins, "*") {
		c.wrong("cors.credentials", "is not possible with the origin *; name the origins")
	}
}

func (c *checker) checkTLS() {
	const both = "is missing; a certificate needs both tls.cert and tls.key"
	switch {
	case c.TLS.Cert == "" && c.TLS.Key == "":
	case c.TLS.Cert == "":
		c.wrong("tls.cert", both)
	case c.TLS.Key == "":
		c.wrong("tls.key", both)
	default:
		if _, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key); err != nil {
			c.wrong("tls.cert", "%s", err)
		}
	}
}

// brokerURL is the URL itself, wherever it is kept.
func brokerURL(s Secret) (Secret, error) {
	urls, err := Expand([]Secret{s})
	switch {
	case err != nil:
		return "", err
	case len(urls) != 1:
		return "", fmt.Errorf("the file holds %d lines; one URL is right", len(urls))
	}
	return urls[0], nil
}

// isAddress reports whether a server may listen there: host:port, with a number or the name of a service.
func isAddress(addr string) bool {
	_, port, err := net.SplitHostPort(addr)
	if err != nil || port == "" {
		return false
	}
	_, err = net.LookupPort("tcp", port)
	return err == nil
}

// CheckEvent says what is wrong with the name of an event, "" for nothing. It asks an emitter with nobody to emit to.
func CheckEvent(name string) string {
	b := memory.NewBus().Broker()
	defer b.Close()
	_, err := hub.NewEmitter(b, hub.EmitterOptions{}).Emit(context.Background(), hub.Everyone, name)
	switch {
	case name == "":
		return "a name is empty; /users/ping would be right"
	case errors.Is(err, hub.ErrReservedEvent):
		return fmt.Sprintf("%q is reserved by Socket.IO; /users/ping would be right", name)
	case err != nil:
		return err.Error()
	}
	return ""
}

// checkBroker connects to nobody: a broker may be away when a server starts.
func checkBroker(s Secret) string {
	known := slices.Sorted(maps.Keys(drivers.Mux()))
	want := strings.Join(known, "://, ") + ":// is right"
	raw, err := brokerURL(s)
	if err != nil {
		return err.Error()
	}
	u, err := broker.ParseURL(string(raw))
	if err != nil || u.Scheme == "" {
		return "is not a URL; " + want
	}
	if !slices.Contains(known, u.Scheme) {
		return fmt.Sprintf("unknown scheme %q; %s", u.Scheme, want)
	}
	if err := drivers.Mux().Check(string(raw)); err != nil {
		return errors.Unwrap(err).Error() // without the URL, which the mux puts before it
	}
	return ""
}

func checkOrigin(o string) string {
	if o == "*" {
		return ""
	}
	u, err := url.Parse(o)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Path != "" || u.RawQuery != "" || u.User != nil {
		return "is not an origin; https://app.example.com or * is right"
	}
	return ""
}

// Keyring is made of keys in base64, the current one first.
func Keyring(keys []Secret) (*token.Keyring, error) {
	if len(keys) == 0 {
		return nil, &Mistake{Key: "auth.keys", Problem: "is missing"}
	}
	parsed := make([]token.Key, len(keys))
	for i, k := range keys {
		key, err := token.NewKey(string(k))
		if err != nil {
			return nil, fmt.Errorf("key %d of %d: %s; tether key makes a good one", i+1, len(keys), strings.TrimPrefix(err.Error(), "token: "))
		}
		parsed[i] = key
	}
	return token.NewKeyring(parsed[0], parsed[1:]...), nil
}

// OpenBroker opens the broker of the URL. The caller closes it.
func OpenBroker(ctx context.Context, s Secret) (broker.Broker, error) {
	raw, err := brokerURL(s)
	if err != nil {
		return nil, err
	}
	return drivers.Mux().Open(ctx, string(raw))
}
