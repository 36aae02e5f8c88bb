package transport

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// CORS says which foreign origins may use the server. It holds for WebSocket too: a request whose
// Origin is neither the server's own nor allowed here is answered with 403, on every transport. A
// request without an Origin is served. The headers are those of the npm package cors, on every answer.
type CORS struct {
	// Origins are the allowed ones, as "https://app.example". "*" allows any. A single one is sent to
	// every requester, of several the requester's own. Default: none.
	Origins []string

	// Allow decides about an origin that Origins does not have. Default: nil, it is not allowed.
	Allow func(r *http.Request, origin string) bool

	// Credentials allows cookies and HTTP authentication. Browsers refuse it together with "*".
	Credentials bool

	// Methods that a preflight request is told are allowed. Default: GET, HEAD, PUT, PATCH, POST, DELETE.
	Methods []string

	// Status of the answer to a preflight request. Some old browsers want 200. Default 204.
	Status int

	// Headers that a preflight request is told are allowed. Default: those that it asks for.
	Headers []string

	// Exposed headers of answers. Default: none.
	Exposed []string

	// MaxAge is how long a browser may keep the answer of a preflight request, in whole seconds.
	// Default: not said.
	MaxAge time.Duration
}

func (c *CORS) enabled() bool { return len(c.Origins) > 0 || c.Allow != nil }

func (c *CORS) any() bool { return slices.Contains(c.Origins, "*") }

// serves reports whether a request from its origin is to be served.
func (c *CORS) serves(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	return origin == "" || c.allowed(r, origin) || sameOrigin(r, origin)
}

func (c *CORS) allowed(r *http.Request, origin string) bool {
	return c.any() || slices.ContainsFunc(c.Origins, func(o string) bool { return isOrigin(o, origin) }) ||
		c.Allow != nil && c.Allow(r, origin)
}

// isOrigin reports whether an allowed origin is that of a request. Browsers leave out the default port.
func isOrigin(allowed, origin string) bool {
	scheme, _, _ := strings.Cut(allowed, ":")
	return withoutPort(allowed, scheme) == origin
}

// sameOrigin compares hosts and ports only: behind a proxy that ends TLS the scheme is not known. A port
// that is not given is that of the origin's scheme: some proxies add it.
func sameOrigin(r *http.Request, origin string) bool {
	u, err := url.Parse(origin)
	return err == nil && u.Host != "" && strings.EqualFold(withoutPort(u.Host, u.Scheme), withoutPort(r.Host, u.Scheme))
}

// withoutPort leaves the port of scheme out of host.
func withoutPort(host, scheme string) string {
	switch scheme {
	case "http":
		return strings.TrimSuffix(host, ":80")
	case "https":
		return strings.TrimSuffix(host, ":443")
	}
	return host
}

// apply sets the headers that every answer carries.
func (c *CORS) apply(h http.Header, r *http.Request) {
	if !c.enabled() {
		return
	}
	origin := r.Header.Get("Origin")
	switch {
	case c.any():
		h.Set("Access-Control-Allow-Origin", "*")
	case len(c.Origins) == 1 && c.Allow == nil:
		h.Set("Access-Control-Allow-Origin", c.Origins[0])
		h.Add("Vary", "Origin")
	default:
		if origin != "" && c.allowed(r, origin) {
			h.Set("Access-Control-Allow-Origin", origin)
		}
		h.Add("Vary", "Origin")
	}
	if c.Credentials {
		h.Set("Access-Control-Allow-Credentials", "true")
	}
	if r.Method != http.MethodOptions && len(c.Exposed) > 0 {
		h.Set("Access-Control-Expose-Headers", strings.Join(c.Exposed, ","))
	}
}

// preflight answers an OPTIONS request. The headers of apply have been set.
func (c *CORS) preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	methods := "GET,HEAD,PUT,PATCH,POST,DELETE"
	if len(c.Methods) > 0 {
		methods = strings.Join(c.Methods, ",")
	}
	h.Set("Access-Control-Allow-Methods", methods)
	if len(c.Headers) > 0 {
		h.Set("Access-Control-Allow-Headers", strings.Join(c.Headers, ","))
	} else {
		h.Add("Vary", "Access-Control-Request-Headers")
		if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
			h.Set("Access-Control-Allow-Headers", asked)
		}
	}
	if c.MaxAge > 0 {
		h.Set("Access-Control-Max-Age", strconv.Itoa(int(c.MaxAge/time.Second)))
	}
	if len(c.Exposed) > 0 {
		h.Set("Access-Control-Expose-Headers", strings.Join(c.Exposed, ","))
	}
	h.Set("Content-Length", "0")
	w.WriteHeader(cmp.Or(c.Status, http.StatusNoContent))
}
