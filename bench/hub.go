package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"
	"unsafe"

	"tether/bench/internal/control"
	"tether/bench/internal/emit"
	"tether/bench/internal/mark"
	"tether/broker"
	"tether/broker/drivers"
	"tether/hub"
	"tether/transport"
)

// openBroker opens what a URL names; empty is a bus of this process alone.
func openBroker(ctx context.Context, rawURL string) (broker.Broker, error) {
	if rawURL == "" {
		rawURL = "memory://"
	}
	return drivers.Mux().Open(ctx, rawURL)
}

// hubTarget is a node as an application would build it: clients say who they are, and are
// registered in the connect hook.
func hubTarget(ctx context.Context, o serveOptions) (*target, error) {
	b, err := openBroker(ctx, o.broker)
	if err != nil {
		return nil, err
	}
	started := make(chan struct{})
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	h, err := hub.New(b, hub.Options{
		Logger: log, ForgetHandshake: true, DrainWindow: -1,
		Recovery: hub.Recovery{On: o.server == "hub-recovery"},
		OnStart:  func(context.Context, *hub.Hub) error { close(started); return nil },
	})
	if err != nil {
		return nil, err
	}
	var ended atomic.Uint64
	h.Of("/").OnConnect(register)
	h.Of("/").OnDisconnect(func(*hub.Socket, hub.Reason) { ended.Add(1) })
	h.Of("/").On("echo", echo)
	ln, err := net.Listen("tcp", o.address)
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	handler, err := transport.NewHandler(h, transport.Options{Logger: log, Epoll: o.server == "hub-epoll"})
	if err != nil {
		return nil, fmt.Errorf("serve: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", handler)
	t := &target{url: "http://" + ln.Addr().String(), ready: started}
	t.run = []func(context.Context) error{func(ctx context.Context) error {
		return handler.Serve(ctx, ln, mux, h, transport.ServeOptions{Timeout: 2 * time.Second})
	}}
	t.close = func() { _ = b.Close() } // the process ends; there is nobody to tell
	t.control.Sender = sender(h.Emitter(), o.users)
	t.control.Stats = func() control.Stats {
		s := h.Stats()
		return control.Stats{Connections: s.Connections, Users: s.Rooms, Messages: s.Received, Closed: ended.Load()}
	}
	return t, nil
}

func register(ctx context.Context, s *hub.Socket) error {
	var auth struct{ User string }
	said := s.Handshake().Auth
	if len(said) == 0 {
		return nil
	}
	if err := json.Unmarshal(said, &auth); err != nil || auth.User == "" {
		return nil // somebody without a name may stay, and is nobody's user
	}
	return s.Register(ctx, auth.User)
}

// echo answers with what it was given.
func echo(_ context.Context, _ *hub.Socket, m *hub.Message) error {
	if !m.WantsAck() {
		return nil
	}
	return m.Ack(m.Args()...)
}

// sender emits as an application would: the payload is a string. The rooms of so many users are
// made beforehand, because an application knows whom it emits to.
func sender(e *hub.Emitter, users int) emit.Sender {
	rooms := make([]hub.Target, users)
	for i := range rooms {
		rooms[i] = room(uint32(i))
	}
	return emit.Sender{One: func(ctx context.Context, user uint32, payload []byte) (int, error) {
		to := hub.Everyone
		switch {
		case user == mark.Everyone:
		case int64(user) < int64(len(rooms)):
			to = rooms[user]
		default:
			to = room(user)
		}
		r, err := e.Emit(ctx, to, "m", unsafe.String(unsafe.SliceData(payload), len(payload))) // keeps nothing of it
		if err != nil {
			return 0, err
		}
		if r.Bound == broker.Unknown {
			return -1, nil
		}
		return r.Nodes, nil
	}}
}

func room(user uint32) hub.Target { return hub.User(fmt.Sprintf("u%d", user)) }

// emitterTarget is a worker process: it emits and has no connections.
func emitterTarget(ctx context.Context, o serveOptions) (*target, error) {
	if o.broker == "" {
		return nil, errors.New("serve: an emitter needs -broker")
	}
	b, err := openBroker(ctx, o.broker)
	if err != nil {
		return nil, err
	}
	t := &target{run: []func(context.Context) error{func(ctx context.Context) error { <-ctx.Done(); return nil }}}
	t.close = func() { _ = b.Close() } // the process ends; there is nobody to tell
	t.control.Sender = sender(hub.NewEmitter(b, hub.EmitterOptions{}), o.users)
	t.control.Stats = func() control.Stats { return control.Stats{} }
	return t, nil
}
