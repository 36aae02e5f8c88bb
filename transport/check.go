package transport

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// check says what is wrong with the options, all of it.
func (o Options) check() error {
	var wrong []error
	fail := func(name, format string, args ...any) {
		wrong = append(wrong, fmt.Errorf("transport: Options.%s: %s", name, fmt.Sprintf(format, args...)))
	}
	if o.Path != "" && (o.Path[0] != '/' || !strings.HasSuffix(o.Path, "/")) {
		fail("Path", "%q must begin and end with a slash", o.Path)
	}
	for _, d := range []struct {
		name  string
		value time.Duration
	}{
		{"PingInterval", o.PingInterval}, {"PingTimeout", o.PingTimeout}, {"UpgradeTimeout", o.UpgradeTimeout}, {"UpgradeWait", o.UpgradeWait},
		{"WriteTimeout", o.WriteTimeout}, {"MessageTimeout", o.MessageTimeout},
	} {
		if d.value != 0 && (d.value < time.Millisecond || d.value > 24*time.Hour) {
			fail(d.name, "%v must be between 1ms and 24h, or 0 for the default", d.value)
		}
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"MaxPayload", o.MaxPayload}, {"QueueBytes", o.QueueBytes}, {"MessageRate", o.MessageRate},
		{"MaxConns", o.MaxConns}, {"CompressPolling", o.CompressPolling},
	} {
		if n.value < 0 {
			fail(n.name, "%d must not be negative", n.value)
		}
	}
	if o.MaxPayload > maxPayload {
		fail("MaxPayload", "%d must be %d at most", o.MaxPayload, maxPayload)
	}
	for i, name := range o.Transports {
		if name != Polling && name != WebSocket {
			fail("Transports", "there is no %q; there are %q and %q", name, Polling, WebSocket)
		} else if slices.Contains(o.Transports[:i], name) {
			fail("Transports", "%q is there twice", name)
		}
	}
	if !o.Overflow.Valid() {
		fail("Overflow", "there is no policy %d", o.Overflow)
	}
	if o.Cookie != (Cookie{}) && !isToken(o.Cookie.Name) {
		fail("Cookie", "%q is not the name of a cookie; \"io\" is one", o.Cookie.Name)
	}
	if o.Relay != nil && !validID(o.Relay.Node()) {
		fail("Relay", "the node is called %q; it must be 1 to 128 letters, digits and -._~", o.Relay.Node())
	}
	o.CORS.check(fail)
	return errors.Join(wrong...)
}

// maxPayload is the largest MaxPayload.
const maxPayload = 1 << 30

// check calls fail with what is wrong.
func (c *CORS) check(fail func(name, format string, args ...any)) {
	for _, origin := range c.Origins {
		if origin == "*" || origin == "null" {
			continue
		}
		u, err := url.Parse(origin)
		if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != origin {
			fail("CORS.Origins", "%q is not an origin; \"https://app.example\" is one, and \"*\" is any", origin)
		}
	}
	if c.Status != 0 && (c.Status < 200 || c.Status > 299) {
		fail("CORS.Status", "%d must be between 200 and 299", c.Status)
	}
	for _, method := range c.Methods {
		if !isToken(method) {
			fail("CORS.Methods", "%q is not the name of a method", method)
		}
	}
}
