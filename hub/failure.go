package hub

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"unicode/utf8"

	"tether/engine"
)

// panicError is a panic of the application's code.
type panicError struct {
	what  string // the error of a runtime error, the type of any other value: that may hold a secret
	stack []byte
}

func (p *panicError) Error() string { return "hub: panic: " + p.what }

// recoverInto is deferred around a call of the application's code.
func recoverInto(err *error) {
	v := recover()
	if v == nil {
		return
	}
	p := &panicError{what: fmt.Sprintf("%T", v), stack: debug.Stack()}
	if e, ok := v.(runtime.Error); ok {
		p.what = e.Error()
	}
	*err = p
}

// What of texts that may be a client's is logged, in bytes.
const (
	maxLoggedName  = 64
	maxLoggedError = 512
)

// loggable is text that may be a client's as it is logged: its beginning, without what does not print, so
// that nothing of it can pass for a line of its own, or hide.
func loggable(text string, limit int) string {
	if len(text) > limit {
		text = text[:limit]
	}
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
}

// who is what the log says of a socket: its user, where it is, and the name that its connection has in the metrics
// too.
func (s *Socket) who() []any {
	attrs := append(s.client.who(s.ns.name), slog.String("socket", s.ID()))
	if users := s.Users(); len(users) > 0 {
		attrs = append(attrs, slog.String("user", loggable(users[0].Name(), maxLoggedName)))
	}
	return attrs
}

func (c *client) who(namespace string) []any {
	return []any{slog.String("connection", engine.PublicID(c.first.conn.ID())), slog.String("namespace", loggable(namespace, maxLoggedName))}
}

// LogValue is the user of the connection, for the log of the transport; "" if it has none.
func (c *client) LogValue() slog.Value {
	sockets := c.all()
	c.mu.Lock()
	if c.closed && c.begun { // nothing sets first any more
		sockets = append(sockets, &c.first)
	}
	c.mu.Unlock()
	for _, s := range sockets {
		if users := s.Users(); len(users) > 0 {
			return slog.StringValue(loggable(users[0].Name(), maxLoggedName))
		}
	}
	return slog.StringValue("")
}

// traces reports whether the log tells of each client.
func (h *Hub) traces() bool { return h.log.Enabled(context.Background(), slog.LevelDebug) }

// failed deals with an error of the application's code: it is logged, and a panic closes the
// connection. What a client has caused is not the operator's business.
func (h *Hub) failed(where, event string, s *Socket, err error) {
	attrs := append([]any{slog.String("in", where), slog.String("event", loggable(event, maxLoggedName))}, s.who()...)
	if p := (*panicError)(nil); errors.As(err, &p) {
		h.counters.panics.Add(1)
		h.log.Error("handler panicked", append(attrs, slog.String("panic", p.what), slog.String("stack", string(p.stack)))...)
		s.conn.Close(ReasonServerClose)
		return
	}
	level := slog.LevelError
	if errors.Is(err, ErrArgs) {
		h.counters.unfit.Add(1)
	}
	if errors.Is(err, ErrArgs) || errors.Is(err, ErrDisconnected) || errors.Is(err, ErrSlowConsumer) || errors.As(err, new(*Refusal)) {
		level = slog.LevelDebug
	}
	// Errors of encoding/json quote what they are about.
	attrs = append(attrs, slog.String("error", loggable(err.Error(), maxLoggedError)))
	h.log.Log(context.Background(), level, "handler returned an error", attrs...)
}
