package conformance

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"tether/broker"
	"tether/hub"
)

// askTimeout is how long a client has for answering a question.
const askTimeout = 2 * time.Second

// A client may ask for as much as that of "big" and "many".
const (
	maxBig  = 4 << 20   // bytes
	maxMany = 1_000_000 // events
)

func installEvents(ns *hub.Namespace) {
	ns.On("echo", echo)
	ns.On("echo-ack", func(_ context.Context, _ *hub.Socket, m *hub.Message) error { return m.Ack(m.Args()...) })
	ns.On("ask", ask)
	ns.On("volatile", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		event, args, err := forwarded(m, 0)
		if err != nil {
			return err
		}
		return forwarding(s.Volatile().Emit(event, args...))
	})
	ns.On("big", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		var n int
		if err := m.Bind(&n); err != nil {
			return err
		}
		return s.Emit("big", strings.Repeat("x", min(max(n, 0), maxBig)))
	})
	ns.On("many", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		var n int
		if err := m.Bind(&n); err != nil {
			return err
		}
		for i := range min(n, maxMany) {
			if err := s.Emit("seq", i); err != nil {
				return err
			}
		}
		return nil
	})
	ns.On("transport", func(_ context.Context, s *hub.Socket, m *hub.Message) error { return m.Ack(s.Transport()) })
	ns.On("handshake", handshake)
	ns.On("count", func(_ context.Context, _ *hub.Socket, m *hub.Message) error { return m.Ack(ns.Len()) })
	ns.On("bye", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		var closing bool
		if m.Len() > 0 {
			if err := m.Decode(0, &closing); err != nil {
				return err
			}
		}
		s.Disconnect(closing)
		return nil
	})
	ns.On("drop", func(_ context.Context, s *hub.Socket, _ *hub.Message) error {
		s.Drop()
		return nil
	})
}

func echo(_ context.Context, s *hub.Socket, m *hub.Message) error {
	return s.Emit("echo-back", m.Args()...)
}

// asks are the questions of one socket that are still open.
type asks struct{ open sync.WaitGroup }

// Data is where the data of a socket goes that comes from another node: see hub.Recovery.
func Data() any { return new(asks) }

// ask puts the question without holding up the events that come after it.
func ask(ctx context.Context, s *hub.Socket, m *hub.Message) error {
	args := m.Args()
	// OnDisconnect waits for it.
	s.Data().(*asks).open.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTimeout)
		defer cancel()
		answer, err := s.EmitAck(ctx, "question", args...)
		if err != nil {
			s.Emit("answer", "timeout")
			return
		}
		s.Emit("answer", append([]any{"ok"}, answer.Args()...)...)
	})
	return nil
}

func handshake(_ context.Context, s *hub.Socket, m *hub.Message) error {
	hs := s.Handshake()
	var header any
	if v := hs.Header.Get("X-Sioclient"); v != "" {
		header = v
	}
	return m.Ack(map[string]any{"query": flat(hs.Query), "auth": authOf(s), "header": header})
}

// flat is the query as Socket.IO shows it: a text where a name comes once, a list where it comes
// more often.
func flat(query url.Values) map[string]any {
	out := make(map[string]any, len(query))
	for name, values := range query {
		if len(values) == 1 {
			out[name] = values[0]
		} else {
			out[name] = values
		}
	}
	return out
}

// forwarded takes an event to pass on, and its arguments, from the arguments of m from skip on.
func forwarded(m *hub.Message, skip int) (event string, args []any, err error) {
	if err := m.Decode(skip, &event); err != nil {
		return "", nil, err
	}
	return event, m.Args()[skip+1:], nil
}

// forwarding is the error of an emit whose event, rooms and arguments a client has chosen: what is wrong
// with these is the client's mistake.
func forwarding(err error) error {
	for _, mistake := range []error{
		hub.ErrEvent, hub.ErrTooMany, broker.ErrTooLarge,
	} {
		if errors.Is(err, mistake) {
			return fmt.Errorf("%w: %w", hub.ErrArgs, err)
		}
	}
	return err
}
