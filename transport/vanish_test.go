package transport

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"runtime"
	"strings"
	"sync"
	"testing"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

// record is a log.
type record struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (r *record) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.Write(p)
}

func (r *record) String() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.b.String()
}

// A client that vanishes while a handler serves it is no error of the application's: what the handler returns
// because of it is for debugging.
func TestAClientThatVanishesInTheMiddleOfAHandlerIsNoError(t *testing.T) {
	b := memory.NewBus().Broker()
	defer b.Close()
	var log record
	h, err := hub.New(b, hub.Options{DrainWindow: -1, Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }() // received below
	entered, gone, failed := make(chan *hub.Socket), make(chan struct{}), make(chan error)
	handle := func(call func(ctx context.Context, s *hub.Socket, m *hub.Message) error) func(context.Context, *hub.Socket, *hub.Message) error {
		return func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
			entered <- s
			<-gone
			err := call(ctx, s, m)
			failed <- err
			return err
		}
	}
	calls := map[string]func(ctx context.Context, s *hub.Socket, m *hub.Message) error{
		"emit": func(_ context.Context, s *hub.Socket, _ *hub.Message) error { return s.Emit("late") },
		"ack":  func(_ context.Context, _ *hub.Socket, m *hub.Message) error { return m.Ack("late") },
		"wait": func(ctx context.Context, s *hub.Socket, _ *hub.Message) error { return s.Wait(ctx) },
		"ask":  func(ctx context.Context, s *hub.Socket, _ *hub.Message) error { return second(s.EmitAck(ctx, "late")) },
		"join": func(ctx context.Context, s *hub.Socket, _ *hub.Message) error { return s.Join(ctx, hub.Room("late")) },
	}
	for name, call := range calls {
		h.Of("/").On(name, handle(call))
	}
	s := serveWith(t, h.Attach, Options{})
	for name := range calls {
		c := s.websocket()
		c.send("40")
		c.text()
		c.send(`421["` + name + `"]`)
		socket := receive(t, entered)
		c.conn.Close()
		for socket.Connected() { // until the server has noticed
			runtime.Gosched()
		}
		gone <- struct{}{}
		if err := receive(t, failed); !errors.Is(err, engine.ErrDisconnected) {
			t.Errorf("%s: got %v, want %v", name, err, engine.ErrDisconnected)
		}
	}
	cancel()
	if err := receive(t, ran); err != nil {
		t.Error(err)
	}
	if text := log.String(); strings.Contains(text, "level=ERROR") || strings.Count(text, "handler returned an error") != len(calls) {
		t.Errorf("logged:\n%s", text)
	}
}

func second[T any](_ T, err error) error { return err }
