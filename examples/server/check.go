package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"

	"tether/broker"
	"tether/broker/drivers"
	"tether/token"
)

const leastKeyLength = 16 // characters of a bearer key

// checkTogether is what no single tag can say.
func (l *loaded) checkTogether() []error {
	var all []error
	wrong := func(key, format string, args ...any) {
		all = append(all, &mistake{Key: key, Source: l.sourceOf(key), Problem: fmt.Sprintf(format, args...)})
	}
	missing := func(key, what string) {
		all = append(all, &mistake{Key: key, Problem: fmt.Sprintf("is missing: %s, in %s or as %s in the file", what, envName(key), key)})
	}
	if _, port, err := net.SplitHostPort(l.Addr); err != nil || port == "" {
		wrong("addr", "%q is not an address; :3000 or 127.0.0.1:3000 is right", l.Addr)
	}
	if problem := checkBroker(l.Broker); problem != "" {
		wrong("broker", "%s", problem)
	}
	for _, n := range l.Namespaces {
		if !strings.HasPrefix(n, "/") || strings.ContainsAny(n, ", ?") {
			wrong("namespaces", "%q is not a namespace; / or /news is right", n)
		}
	}
	if len(l.Namespaces) == 0 {
		wrong("namespaces", "is empty; / is right for most applications")
	}
	if l.Auth.Mode == "token" {
		if keys, err := expand(l.Auth.Keys); err != nil {
			wrong("auth.keys", "%s", err)
		} else if len(keys) == 0 {
			missing("auth.keys", "give the key of the encrypted tokens, or set auth.mode=none")
		} else if _, err := keyring(keys); err != nil {
			wrong("auth.keys", "%s", err)
		}
	}
	if l.Emit.Enabled {
		if keys, err := expand(l.Emit.Keys); err != nil {
			wrong("emit.keys", "%s", err)
		} else if len(keys) == 0 {
			missing("emit.keys", "give a bearer key for POST /emit, or set emit.enabled=false")
		} else if slices.ContainsFunc(keys, func(k Secret) bool { return len(k) < leastKeyLength }) {
			wrong("emit.keys", "a key is shorter than %d characters; -new-key makes a good one", leastKeyLength)
		}
	}
	for _, t := range l.Client.Transports {
		if t != "polling" && t != "websocket" {
			wrong("client.transports", "%q is not known; polling, websocket or both is right", t)
		}
	}
	if len(l.Client.Transports) == 0 {
		wrong("client.transports", "is empty; polling, websocket or both is right")
	}
	for _, o := range l.CORS.Origins {
		if problem := checkOrigin(o); problem != "" {
			wrong("cors.origins", "%q %s", o, problem)
		}
	}
	if l.CORS.Credentials && slices.Contains(l.CORS.Origins, "*") {
		wrong("cors.credentials", "is not possible with the origin *; name the origins")
	}
	if (l.TLS.Cert == "") != (l.TLS.Key == "") {
		wrong(map[bool]string{true: "tls.cert", false: "tls.key"}[l.TLS.Cert == ""], "is missing; a certificate needs both tls.cert and tls.key")
	} else if l.TLS.Cert != "" {
		if _, err := tls.LoadX509KeyPair(l.TLS.Cert, l.TLS.Key); err != nil {
			wrong("tls.cert", "%s", err)
		}
	}
	return all
}

// brokerURL is the URL itself, wherever it is kept.
func brokerURL(s Secret) (Secret, error) {
	urls, err := expand([]Secret{s})
	switch {
	case err != nil:
		return "", err
	case len(urls) != 1:
		return "", fmt.Errorf("the file holds %d lines; one URL is right", len(urls))
	}
	return urls[0], nil
}

// checkBroker opens nothing: a broker may be away when a server starts.
func checkBroker(s Secret) string {
	known := slices.Sorted(maps.Keys(drivers.Mux()))
	want := strings.Join(known, "://, ") + ":// is right"
	raw, err := brokerURL(s)
	if err != nil {
		return err.Error()
	}
	u, err := url.Parse(string(raw))
	if err != nil || u.Scheme == "" {
		return "is not a URL; " + want
	}
	if !slices.Contains(known, u.Scheme) {
		return fmt.Sprintf("unknown scheme %q; %s", u.Scheme, want)
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

// keyring is made of keys in base64, the current one first.
func keyring(keys []Secret) (*token.Keyring, error) {
	parsed := make([]token.Key, len(keys))
	for i, k := range keys {
		key, err := token.NewKey(string(k))
		if err != nil {
			return nil, fmt.Errorf("key %d of %d: %w", i+1, len(keys), err)
		}
		parsed[i] = key
	}
	return token.NewKeyring(parsed[0], parsed[1:]...), nil
}

// openBroker opens the broker of the URL. The caller closes it.
func openBroker(ctx context.Context, s Secret) (broker.Broker, error) {
	raw, err := brokerURL(s)
	if err != nil {
		return nil, err
	}
	return drivers.Mux().Open(ctx, string(raw))
}
