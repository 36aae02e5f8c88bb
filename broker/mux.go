package broker

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
)

// OpenFunc opens the broker that a URL names. It must not put the URL, which may carry a password,
// into an error. What is wrong with the URL, or with the files that it names, comes before all else; and
// when ctx is done nobody is connected to, and the error is ErrUnavailable or that of ctx.
type OpenFunc func(ctx context.Context, u *url.URL) (Broker, error)

// Mux opens brokers by the scheme of a URL. It is filled by the program that uses it; package
// broker/drivers has one with every driver of this module.
type Mux map[string]OpenFunc

// ParseURL is url.Parse for URLs of brokers, which may have several hosts with commas between them, each
// with a port or without: Host is then the list as it was written, and the driver's to check. Like that
// of url.Parse its error may have all of the URL.
func ParseURL(rawURL string) (*url.URL, error) {
	scheme, rest, ok := strings.Cut(rawURL, "://")
	end := strings.IndexAny(rest+"/", "/?#")
	begin := 0
	if ok {
		begin = strings.LastIndexByte(rest[:end], '@') + 1
	}
	hosts := rest[begin:end]
	if !ok || !strings.Contains(hosts, ",") || strings.Contains(rest[end:], "@") {
		return url.Parse(rawURL) // with the @ too late, these may be a part of a password
	}
	for _, r := range hosts {
		if r <= ' ' || r >= 0x7f || strings.ContainsRune("%\\\"<>^`{|}", r) {
			return nil, errors.New("invalid character in host name")
		}
	}
	u, err := url.Parse(scheme + "://" + rest[:begin] + "host" + rest[end:])
	if err == nil {
		u.Host = hosts
	}
	return u, err
}

// Check reports what is wrong with rawURL itself, or with the files that it names: what no waiting will
// mend. It connects to nobody.
func (m Mux) Check(rawURL string) error {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	b, err := m.Open(ctx, rawURL)
	switch {
	case err == nil:
		return b.Close()
	case errors.Is(err, ErrUnavailable), errors.Is(err, context.Canceled):
		return nil
	}
	return err
}

// Open opens the broker that rawURL names. The caller closes it.
func (m Mux) Open(ctx context.Context, rawURL string) (Broker, error) {
	u, err := ParseURL(rawURL)
	if err != nil {
		// The error of url.Parse prints the whole URL; only its cause is safe to show.
		if ue := (*url.Error)(nil); errors.As(err, &ue) {
			err = ue.Err
		}
		if strings.Contains(rawURL, "@") {
			err = errors.New("malformed") // the cause may quote a part of the password
		}
		return nil, fmt.Errorf("broker: parse URL: %w", err)
	}
	open, ok := m[u.Scheme]
	if !ok {
		known := strings.Join(slices.Sorted(maps.Keys(m)), "://, ") + "://"
		return nil, fmt.Errorf("broker: unknown scheme %q; known are %s", u.Scheme, known)
	}
	b, err := open(ctx, u)
	if err != nil {
		return nil, fmt.Errorf("broker: open %s://%s: %w", u.Scheme, u.Host, err)
	}
	return b, nil
}
