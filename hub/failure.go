package hub

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"unicode/utf8"
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

const maxLogged = 64 // bytes of a client's text in a log record

// loggable is text that may be a client's as it is logged: without what does not print, so that nothing
// of it can pass for a line of its own, or hide.
func loggable(text string) string {
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
}

// failed deals with an error of the application's code: it is logged, and a panic closes the
// connection.
func (h *Hub) failed(where, event string, s *Socket, err error) {
	if len(event) > maxLogged {
		event = event[:maxLogged]
	}
	attrs := []any{slog.String("in", where), slog.String("event", loggable(event)),
		slog.String("namespace", loggable(s.ns.name)), slog.String("socket", s.ID())}
	var p *panicError
	switch {
	case errors.As(err, &p):
		h.counters.panics.Add(1)
		h.log.Error("handler panicked", append(attrs, slog.String("panic", p.what), slog.String("stack", string(p.stack)))...)
		s.conn.Close(ReasonServerClose)
	case errors.Is(err, ErrArgs), errors.Is(err, ErrDisconnected), errors.As(err, new(*Refusal)):
		h.log.Debug("handler returned an error", append(attrs, slog.Any("error", err))...)
	default:
		h.log.Error("handler returned an error", append(attrs, slog.Any("error", err))...)
	}
}
