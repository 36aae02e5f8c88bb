package interop

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/hub"
	"tether/internal/conformance"
	"tether/relay"
	"tether/transport"
)

// node is a server in this process.
type node struct {
	hub  *hub.Hub
	url  string
	addr string

	drain  context.CancelFunc // begins the drain
	server *http.Server
	engine *transport.Handler
	wg     sync.WaitGroup // Hub.Run and the HTTP server; stop waits
}

// setup says what is special about a node. Zero: a node called A on a bus of its own.
type setup struct {
	name        string
	bus         *memory.Bus
	broker      broker.Broker // in place of one of bus
	conformance conformance.Options
	transport   transport.Options
	recovery    hub.Recovery
	relay       bool             // requests of polling clients may come to any node
	peer        bool             // and are passed on over HTTP
	notice      time.Duration    // hub.Options.ExpiryNotice
	install     func(h *hub.Hub) // what it does beside internal/conformance
	page        string           // HTML at /page
}

// serve starts a node, which ends with the test.
func serve(t testing.TB, s setup) *node {
	t.Helper()
	if s.name == "" {
		s.name = "A"
	}
	b := s.broker
	if b == nil {
		if s.bus == nil {
			s.bus = memory.NewBus()
		}
		b = s.bus.Broker()
	}
	started := make(chan struct{})
	h, err := hub.New(b, hub.Options{
		Node:        s.name,
		DrainWindow: -1,
		Recovery:    s.recovery,

		ExpiryNotice: s.notice,
		OnStart: func(context.Context, *hub.Hub) error {
			close(started)
			return nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	conformance.Install(h, s.conformance)
	if s.install != nil {
		s.install(h)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var link *relay.Relay
	if s.relay {
		o := relay.Options{}
		if s.peer {
			o.Peer = "http://" + listener.Addr().String()
		}
		if link, err = relay.New(h.Emitter().Cluster(), o); err != nil {
			t.Fatal(err)
		}
		s.transport.Relay = link
	}
	engine, err := transport.NewHandler(h, s.transport)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", engine)
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, _ *http.Request) {
		if h.Ready() != nil {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		io.WriteString(w, s.page)
	})
	if s.peer {
		mux.Handle(relay.Path, link)
	}
	addr := listener.Addr().String()
	n := &node{hub: h, addr: addr, url: "http://" + addr, server: transport.NewServer(addr, mux), engine: engine}
	n.run(t, listener, s.name)
	t.Cleanup(func() {
		n.stop(t)
		if err := b.Close(); err != nil {
			t.Errorf("node %s: close the broker: %v", s.name, err)
		}
	})
	<-started
	return n
}

func (n *node) run(t testing.TB, listener net.Listener, name string) {
	ctx, cancel := context.WithCancel(context.Background())
	n.drain = cancel
	n.wg.Go(func() { // stop waits
		if err := n.hub.Run(ctx); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("node %s: %v", name, err)
		}
	})
	n.wg.Go(func() { // stop waits
		if err := n.server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("node %s: %v", name, err)
		}
	})
}

func (n *node) stop(t testing.TB) {
	n.drain()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := n.server.Shutdown(ctx); err != nil {
		t.Errorf("shut down: %v", err)
	}
	if err := n.engine.Close(); err != nil {
		t.Errorf("close the engine: %v", err)
	}
	n.wg.Wait()
}
