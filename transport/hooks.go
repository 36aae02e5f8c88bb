package transport

import (
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"sync"
)

// ConnectionError is a request that was refused: it opens no session, or names one that is not there, or not
// on this transport.
type ConnectionError struct {
	Request *http.Request // it must not be kept
	Status  int           // of the answer

	// Code is that of Engine.IO, 0 to 5, and -1 where the reference server has none: too many connections
	// for example. Message is what the client is told.
	Code    int
	Message string

	// Context is what was wrong, in the words of the reference server: "transport", "sid", "method",
	// "protocol", "origin", "previousTransport", "name" for "TRANSPORT_MISMATCH" and the like. It may be
	// nil. The values are the client's, and not to be trusted.
	Context map[string]string
}

// refuse answers a request that is not served.
func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, f *refusal, upgrade bool) {
	if h.o.OnConnectionError != nil {
		h.o.OnConnectionError(ConnectionError{Request: r, Status: f.status, Code: f.code, Message: f.message, Context: f.context})
	}
	f.write(w, upgrade)
}

// because is f with what was wrong: names and values.
func (f *refusal) because(context ...string) *refusal {
	with := *f
	with.context = make(map[string]string, len(context)/2)
	for i := 0; i < len(context); i += 2 {
		with.context[context[i]] = context[i+1]
	}
	return &with
}

// Cookie is a cookie whose value is the ID of a session: Options.Cookie. Without a name there is none.
type Cookie struct {
	Name     string
	Path     string        // default "/"
	Domain   string        // default: the host of the request
	MaxAge   int           // in seconds; default: until the browser ends
	SameSite http.SameSite // default http.SameSiteLaxMode
	Secure   bool
	Script   bool // scripts of the page may read it: no HttpOnly
}

func (c Cookie) with(value string) *http.Cookie {
	cookie := &http.Cookie{Name: c.Name, Value: value, Path: c.Path, Domain: c.Domain, MaxAge: c.MaxAge,
		SameSite: c.SameSite, Secure: c.Secure, HttpOnly: !c.Script}
	if cookie.Path == "" {
		cookie.Path = "/"
	}
	if cookie.SameSite == 0 {
		cookie.SameSite = http.SameSiteLaxMode
	}
	return cookie
}

// opens is called with the headers of the answer that opens a session.
func (h *Handler) opens(w http.ResponseWriter, r *http.Request) {
	if h.o.OnHandshake != nil {
		h.o.OnHandshake(w.Header(), r)
	}
}

// mistakes are those of the program around the handler. Each is logged once.
type mistakes struct{ path, hijack sync.Once }

// otherPath tells of a request for a path that is not served, which a mount that differs would bring.
func (h *Handler) otherPath(r *http.Request) {
	h.mistakes.path.Do(func() {
		h.o.Logger.Warn("transport: a request is for no path below Options.Path: mount the handler at that path, without http.StripPrefix",
			slog.String("path", r.URL.Path[:min(len(r.URL.Path), 100)]), slog.String("served", h.o.Path))
	})
}

// noHijack tells of a connection that cannot become a WebSocket.
func (h *Handler) noHijack(w http.ResponseWriter, err error) {
	h.mistakes.hijack.Do(func() {
		h.o.Logger.Error("transport: no client gets a WebSocket: middleware around the handler must pass on http.Hijacker, by a method Unwrap() http.ResponseWriter",
			slog.String("writer", fmt.Sprintf("%T", w)), slog.Any("error", err))
	})
}

// isClientFile reports whether the client's file has name, or its source map.
func isClientFile(name string) bool {
	name, ok := strings.CutPrefix(name, "socket.io.")
	name = strings.TrimSuffix(name, ".map")
	switch name {
	case "js", "min.js", "esm.min.js", "msgpack.min.js":
		return ok
	}
	return false
}
