package redis_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"tether/broker"
	"tether/internal/backend"
)

// halfOpen is a relay to a server that is never told when a client's connection has ended: so it is when
// a link dies with what was on it.
type halfOpen struct {
	listener net.Listener
	server   string
	wg       sync.WaitGroup

	mu      sync.Mutex
	clients []net.Conn // guarded by mu
	servers []net.Conn // guarded by mu
}

func newHalfOpen(t *testing.T, server string) *halfOpen {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &halfOpen{listener: l, server: server}
	h.wg.Go(h.accept)
	t.Cleanup(func() {
		l.Close()
		h.cut()
		h.mu.Lock()
		for _, c := range h.servers {
			c.Close()
		}
		h.mu.Unlock()
		h.wg.Wait()
	})
	return h
}

func (h *halfOpen) accept() {
	for {
		client, err := h.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", h.server)
		if err != nil {
			client.Close()
			continue
		}
		h.mu.Lock()
		h.clients, h.servers = append(h.clients, client), append(h.servers, server)
		h.mu.Unlock()
		h.wg.Go(func() { io.Copy(server, client) })
		h.wg.Go(func() {
			io.Copy(client, server)
			client.Close()
			io.Copy(io.Discard, server) // the server goes on sending
		})
	}
}

// cut ends the connections of the clients.
func (h *halfOpen) cut() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range h.clients {
		c.Close()
	}
	h.clients = nil
}

// A node that has lost its connection, and Redis has not, is subscribed twice as far as Redis knows, until
// the node has the old connection dropped. It does so before it says that it is back.
func TestANodeThatComesBackIsCountedOnce(t *testing.T) {
	s := backend.Redis(t)
	if s.Kind == backend.StandIn {
		t.Skip("the stand-in does not drop connections on request")
	}
	relay := newHalfOpen(t, s.Addr)
	b, p := node(t, relay.listener.Addr().String()), node(t, s.Addr)
	ctx, cancel := context.WithCancel(t.Context())
	states, ended := make(chan error, 16), make(chan error, 1)
	go func() {
		ended <- b.Run(ctx, broker.Handler{Deliver: func(broker.Message) {}, State: func(err error) { states <- err }})
	}()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	if err := b.Subscribe(ctx, "s"); err != nil {
		t.Fatal(err)
	}
	<-states
	for range 3 {
		relay.cut()
		if err := <-states; err == nil {
			t.Fatal("the node does not notice that it is cut off")
		}
		if err := <-states; err != nil {
			t.Fatalf("the node does not come back: %v", err)
		}
		reach, err := p.Publish(ctx, broker.Message{Subject: "s"})
		if err != nil {
			t.Fatal(err)
		}
		if reach[0].Nodes != 1 {
			t.Errorf("%d nodes are counted, want 1", reach[0].Nodes)
		}
	}
}
