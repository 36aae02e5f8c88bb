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
	"tether/broker/seal"
	"tether/hub"
	"tether/relay"
	"tether/token"
	"tether/transport"
)

const leastKeyLength = 16 // characters of a bearer key

// LogParts are the parts of the program that log.parts gives levels to.
var LogParts = []string{"server", "hub", "transport", "broker"}

var logLevels = []string{"debug", "info", "warn", "error"} // as the tag of log.level has them

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
	c.checkAdminUI()
	c.checkTracing()
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
	if c.Admin.Addr != "" && !isAddress(c.Admin.Addr) {
		c.wrong("admin.addr", "%q is not an address; 127.0.0.1:3001 is right", c.Admin.Addr)
	}
	if err := relay.CheckPeer(c.Relay.Peer); err != nil {
		c.wrong("relay.peer", "%s", err)
	} else if c.Relay.Peer != "" && !c.Relay.On {
		c.wrong("relay.peer", "nothing comes there with relay.on=false; leave one of them out")
	}
	if problem := checkBroker(c.Broker); problem != "" {
		c.wrong("broker", "%s", problem)
	}
	c.checkRecovery()
	for _, one := range c.Log.Parts {
		part, level, _ := strings.Cut(one, "=")
		if !slices.Contains(LogParts, part) || !slices.Contains(logLevels, level) {
			c.wrong("log.parts", "%q is not a part and a level; hub=debug is right. Parts: %s. Levels: %s", one, strings.Join(LogParts, ", "), strings.Join(logLevels, ", "))
		}
	}
	if _, err := c.ClusterKeys(); err != nil {
		c.wrong("key", "%s", err)
	}
	if len(c.Namespaces) == 0 {
		c.wrong("namespaces", "is empty; / is right for most applications")
	}
	for _, n := range c.Namespaces {
		if problem := checkNamespace(n); problem != "" {
			c.wrong("namespaces", "%s", problem)
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
	if c.Admin.FollowEvery > 0 && len(c.Admin.Keys) == 0 {
		c.missing("admin.keys", "admin.follow-every needs a key; tether key makes one")
	}
	if keys, err := Expand(c.Admin.Keys); err != nil {
		c.wrong("admin.keys", "%s", err)
	} else if len(keys) == 0 && isAddress(c.Admin.Addr) && !isLoopback(c.Admin.Addr) {
		c.missing("admin.keys", "others than this host reach "+c.Admin.Addr+"; give a key, or 127.0.0.1 in admin.addr")
	} else {
		c.checkLength("admin.keys", keys)
	}
	if c.Webhook.URL != "" {
		if keys, err := Expand(c.Webhook.Keys); err != nil {
			c.wrong("webhook.keys", "%s", err)
		} else if len(keys) == 0 {
			c.missing("webhook.keys", "give a key that signs the requests, or no webhook.url")
		} else {
			c.checkLength("webhook.keys", keys)
		}
	}
	if keys, err := Expand(c.Stats.Keys); err != nil {
		c.wrong("stats.keys", "%s", err)
	} else {
		c.checkLength("stats.keys", keys)
	}
}

func (c *checker) checkAdminUI() {
	u := &c.AdminUI
	if u.Mode == AdminUIOff {
		return
	}
	if passwords, err := Expand([]Secret{u.Password}); err != nil {
		c.wrong("admin-ui.password", "%s", err)
	} else if u.Password == "" {
		c.missing("admin-ui.password", "the page can disconnect clients, and needs a password; tether key makes one")
	} else if len(passwords) != 1 {
		c.wrong("admin-ui.password", "the file holds %d lines; one password is right", len(passwords))
	} else {
		c.checkLength("admin-ui.password", passwords)
	}
	if u.Username == "" {
		c.wrong("admin-ui.username", "is empty; admin is right")
	}
	if problem := checkNamespace(u.Namespace); problem != "" {
		c.wrong("admin-ui.namespace", "%s", problem)
	} else if slices.Contains(c.Namespaces, u.Namespace) {
		c.wrong("admin-ui.namespace", "%s is among namespaces, which are for clients; leave it out there", u.Namespace)
	} else if len(u.Namespace) > c.Limits.Namespace {
		c.wrong("limits.namespace", "%d is less than the length of %q, which is admin-ui.namespace", c.Limits.Namespace, u.Namespace)
	}
}

func checkNamespace(n string) string {
	if !strings.HasPrefix(n, "/") || strings.ContainsAny(n, ", ?") {
		return fmt.Sprintf("%q is not a namespace; / or /news is right", n)
	}
	return ""
}

func (c *checker) checkTracing() {
	t := &c.Tracing
	if t.Endpoint == "" {
		return
	}
	if u, err := url.Parse(t.Endpoint); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		c.wrong("tracing.endpoint", "is not a URL without a password; http://localhost:4318 is right. OTEL_EXPORTER_OTLP_HEADERS is for passwords")
	} else if !t.On {
		c.wrong("tracing.endpoint", "nothing is sent there with tracing.on=false; leave one of them out")
	}
}

// isLoopback reports whether only this host reaches an address.
func isLoopback(addr string) bool {
	host, _, _ := net.SplitHostPort(addr)
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
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
	case errors.Is(err, hub.ErrEvent):
		return fmt.Sprintf("%q is reserved by Socket.IO; /users/ping would be right", name)
	case err != nil:
		return err.Error()
	}
	return ""
}

// checkRecovery says what recovery.all and recovery.log lack.
func (c *checker) checkRecovery() {
	if c.Recover.All && !c.Recover.On {
		c.wrong("recovery.all", "nobody comes back with recovery.on=false; leave one of them out")
	}
	if !c.Recover.Log {
		return
	}
	if !c.Recover.On {
		c.wrong("recovery.log", "nobody comes back with recovery.on=false; leave one of them out")
	}
	raw, _ := brokerURL(c.Broker) // what is wrong with it has been said
	u, err := broker.ParseURL(string(raw))
	if err != nil {
		return
	}
	o, err := broker.ParseLog(u.Query().Get)
	if err == nil && o.Age < 2*c.Recover.Window {
		c.wrong("recovery.log", "the URL of the broker has to say log=%v or more behind its question mark, on all nodes and for all emitters: twice recovery.window", 2*c.Recover.Window)
	}
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

// ClusterKeys are the keys of what goes through the broker.
func (c *Config) ClusterKeys() (seal.Keys, error) {
	k := seal.Keys{
		Seal:  c.Seal,
		Plain: map[string]seal.Plain{"send": seal.SendPlain, "accept": seal.AcceptPlain}[c.Plain],
	}
	texts, err := Expand(c.Key)
	if err != nil {
		return k, err
	}
	for i, text := range texts {
		key, err := seal.ParseKey(string(text))
		if err != nil {
			return k, fmt.Errorf("key %d of %d is not the base64 of 16, 24 or 32 bytes; tether key makes a good one", i+1, len(texts))
		}
		if i == 0 {
			k.Current = key
		} else {
			k.Accept = append(k.Accept, key)
		}
	}
	if len(texts) == 0 && (k.Seal || k.Plain != seal.RefusePlain) {
		return k, errors.New("is missing: seal and plain mean nothing without a key; tether key makes one")
	}
	return k, nil
}

// OpenBroker opens the broker of the URL. The caller closes it.
func OpenBroker(ctx context.Context, s Secret) (broker.Broker, error) {
	raw, err := brokerURL(s)
	if err != nil {
		return nil, err
	}
	return drivers.Mux().Open(ctx, string(raw))
}
