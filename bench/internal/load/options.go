// Package load is a client of any Socket.IO v4 server, tens of thousands of them in one process: a
// raw epoll loop with its own minimal codec, so that the clients cost less than the server that is
// measured. It needs Linux.
package load

import (
	"cmp"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Options say what the clients of one process do. [Options.Resolve] fills in the defaults.
type Options struct {
	URL      string `json:"url"`                // of the server: http://HOST:PORT or https://HOST:PORT, and a path unless it is /socket.io/
	Remote   bool   `json:"remote,omitempty"`   // allow a server that is not on a loopback address
	Insecure bool   `json:"insecure,omitempty"` // believe any certificate

	Conns int    `json:"conns"`           // connections of this process
	First int    `json:"first,omitempty"` // number of the first connection's user
	Users int    `json:"users,omitempty"` // so many users share the connections; 0: a user each
	User  string `json:"user,omitempty"`  // the user's ID; default "u{n}", n being the number
	Auth  string `json:"auth,omitempty"`  // JSON sent with CONNECT, {user} and {n} replaced; "-" for none; default {"user":"{user}"}
	Ready string `json:"ready,omitempty"` // a connection is up when this event has arrived; default: when CONNECT is answered

	InFlight int           `json:"in_flight,omitempty"` // handshakes at the same time; default 128
	Rate     float64       `json:"rate,omitempty"`      // new connections a second; 0: as fast as InFlight allows
	Timeout  time.Duration `json:"timeout,omitempty"`   // of a handshake; default 15 s
	Source   uint32        `json:"source,omitempty"`    // number of the first source address in 127.0.0.0/8
	Run      uint32        `json:"run"`                 // marks of other runs are foreign

	SlowEvery  int           `json:"slow_every,omitempty"`  // every n-th connection stops reading once it is up; 0: none
	ChurnEvery int           `json:"churn_every,omitempty"` // every n-th connection leaves and comes back while churn is on; 0: none
	Life       time.Duration `json:"life,omitempty"`        // mean time that such a connection stays; default 2 s
	Away       time.Duration `json:"away,omitempty"`        // mean time that it is away; default 200 ms
	Polite     bool          `json:"polite,omitempty"`      // say goodbye at the end instead of resetting the connections

	host    string
	path    string
	address netip.AddrPort
	tls     *tls.Config // nil without TLS
}

// Errors of [Options.Resolve].
var (
	ErrRemote = errors.New("the server is not on a loopback address; -remote allows that, and only use it on machines that are yours")
	ErrScheme = errors.New("the URL must begin with http:// or https://")
)

// Resolve checks o, fills in the defaults and finds the address of the server.
func (o Options) Resolve() (Options, error) {
	u, err := url.Parse(o.URL)
	if err != nil || u.Host == "" {
		return o, fmt.Errorf("load: %q is no URL of a server", o.URL)
	}
	port := "80"
	switch u.Scheme {
	case "http", "ws":
	case "https", "wss":
		port = "443"
		o.tls = &tls.Config{ServerName: u.Hostname(), InsecureSkipVerify: o.Insecure}
		if o.SlowEvery > 0 {
			return o, errors.New("load: clients that stop reading need http://, because something else reads for them with TLS")
		}
	default:
		return o, fmt.Errorf("load: %w", ErrScheme)
	}
	o.host, o.path = u.Host, u.Path
	if o.path == "" || o.path == "/" {
		o.path = "/socket.io/"
	}
	if o.address, err = lookup(u.Hostname(), cmp.Or(u.Port(), port)); err != nil {
		return o, fmt.Errorf("load: %w", err)
	}
	if !o.address.Addr().IsLoopback() && !o.Remote {
		return o, fmt.Errorf("load: %w", ErrRemote)
	}
	if o.Conns < 0 || o.Users < 0 || o.First < 0 || o.SlowEvery < 0 || o.ChurnEvery < 0 {
		return o, errors.New("load: a count is negative")
	}
	if o.User == "" {
		o.User = "u{n}"
	}
	switch o.Auth {
	case "":
		o.Auth = `{"user":"{user}"}`
	case "-":
		o.Auth = ""
	default:
		if !json.Valid([]byte(o.Auth)) {
			return o, errors.New("load: auth is not JSON")
		}
	}
	o.InFlight = orInt(o.InFlight, 128)
	o.Timeout = orDuration(o.Timeout, 15*time.Second)
	o.Life = orDuration(o.Life, 2*time.Second)
	o.Away = orDuration(o.Away, 200*time.Millisecond)
	return o, nil
}

func orInt(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}

func orDuration(d, other time.Duration) time.Duration {
	if d == 0 {
		return other
	}
	return d
}

// lookup prefers IPv4, because a whole network of it is loopback.
func lookup(host, port string) (netip.AddrPort, error) {
	ips, err := net.LookupIP(host)
	if err != nil {
		return netip.AddrPort{}, err
	}
	slices.SortStableFunc(ips, func(a, b net.IP) int { return len(b.To4()) - len(a.To4()) })
	a, _ := netip.AddrFromSlice(ips[0])
	return netip.ParseAddrPort(net.JoinHostPort(a.Unmap().String(), port))
}

// Descriptors is how many a connection needs.
func (o Options) Descriptors() int {
	if strings.HasPrefix(o.URL, "https:") || strings.HasPrefix(o.URL, "wss:") {
		return 3
	}
	return 1
}

// user is the number of the user behind connection slot.
func (o *Options) user(slot int) uint32 {
	if o.Users > 0 {
		return uint32((o.First + slot) % o.Users)
	}
	return uint32(o.First + slot)
}

func (o *Options) auth(user uint32) string {
	if o.Auth == "" {
		return ""
	}
	n := fmt.Sprint(user)
	return strings.NewReplacer("{user}", strings.ReplaceAll(o.User, "{n}", n), "{n}", n).Replace(o.Auth)
}

// Emission makes the clients emit.
type Emission struct {
	Event     string        `json:"event"`
	Rate      float64       `json:"rate"`      // events a second, of all connections of this process together
	Size      int           `json:"size"`      // bytes of the only argument, a string that begins with a mark
	Ack       bool          `json:"ack"`       // ask for an answer, and time it from when the event was due
	Back      bool          `json:"back"`      // the server sends each event back, and what does not come is lost
	Publisher uint16        `json:"publisher"` // in the marks
	Start     int64         `json:"start"`     // on the clock
	Warm      time.Duration `json:"warm"`      // not timed
	Time      time.Duration `json:"time"`      // timed
}
