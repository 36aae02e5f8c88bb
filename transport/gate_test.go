package transport

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

// stalling is a connection on which an event is held up just before the session takes it, until DISCONNECT
// has been taken.
type stalling struct {
	engine.Conn
	waiting, disconnected chan struct{}
}

func (s *stalling) Send(p *engine.Packet, from *engine.Gate) error {
	switch text := string(p.Text()); {
	case strings.HasPrefix(text, "42"):
		close(s.waiting)
		<-s.disconnected
	case strings.HasPrefix(text, "41"):
		defer close(s.disconnected)
	}
	return s.Conn.Send(p, from)
}

func TestNothingOfANamespaceFollowsItsDisconnect(t *testing.T) {
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{DrainWindow: -1})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- h.Run(ctx) }()
	defer func() {
		cancel()
		if err := receive(t, ran); err != nil {
			t.Error(err)
		}
	}()
	sockets := make(chan *hub.Socket, 1)
	h.Of("/").OnConnect(func(_ context.Context, s *hub.Socket) error {
		sockets <- s
		return nil
	})

	conns := make(chan *stalling, 1)
	s := serveWith(t, func(c engine.Conn, r *http.Request) (engine.Receiver, error) {
		k := &stalling{Conn: c, waiting: make(chan struct{}), disconnected: make(chan struct{})}
		conns <- k
		return h.Attach(k, r)
	}, Options{})
	for _, carrier := range []string{WebSocket, Polling} {
		var next func() string
		var leave func()
		if carrier == WebSocket {
			c := s.websocket()
			c.send("40")
			next, leave = c.text, func() { c.conn.Close() }
		} else {
			c := s.polling()
			c.post("40")
			next = func() string { _, body := c.get(); return body }
			leave = func() { c.post("1") }
		}
		k, socket := receive(t, conns), receive(t, sockets)
		if got := next(); !strings.HasPrefix(got, "40") {
			t.Fatalf("%s: got %q, want the answer to CONNECT", carrier, got)
		}
		if err := socket.Wait(ctx); err != nil { // until nothing is held any more
			t.Fatal(err)
		}
		emitted := make(chan error, 1)
		go func() { emitted <- socket.Emit("late") }()
		receive(t, k.waiting)
		socket.Disconnect(false)
		if err := receive(t, emitted); !errors.Is(err, engine.ErrDisconnected) {
			t.Errorf("%s: the late Emit returned %v, want ErrDisconnected", carrier, err)
		}
		if err := k.Conn.Send(engine.NewPacket(engine.Terms{}, []byte("4end")), nil); err != nil {
			t.Error(err)
		}
		got := next()
		for !strings.HasSuffix(got, "4end") {
			got += next()
		}
		if got = strings.ReplaceAll(got, "\x1e", ""); got != "414end" {
			t.Errorf("%s: got %q, want DISCONNECT and nothing of the namespace behind it", carrier, got)
		}
		leave()
	}
}
