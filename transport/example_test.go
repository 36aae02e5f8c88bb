package transport_test

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"time"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
	"tether/transport"
)

// A server of one node, with the order in which it ends.
func Example() {
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	sockets := transport.NewHandler(h, transport.Options{
		CORS: transport.CORS{Origins: []string{"https://app.example"}},
	})
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", sockets)
	srv := transport.NewServer("", mux)
	l, err := net.Listen("tcp", "127.0.0.1:3000")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	go srv.Serve(transport.Listener(l)) // Shutdown ends it

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	h.Run(ctx) // returns when the clients were told and have gone
	grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	srv.Shutdown(grace)
	sockets.Close()
}

// shouter is a receiver for Engine.IO without Socket.IO.
type shouter struct{ conn engine.Conn }

func (s shouter) Text(data []byte) error {
	return s.conn.Send(engine.NewPacket(engine.Terms{}, []byte("4"+string(data)+"!")), nil)
}
func (s shouter) Binary([]byte) error   { return nil }
func (s shouter) Busy() <-chan struct{} { return nil }
func (s shouter) Closed(engine.Reason)  {}

// Engine.IO alone, without a hub.
func ExampleNewHandler_engine() {
	shout := func(c engine.Conn, r *http.Request) (engine.Receiver, error) { return shouter{c}, nil }
	h := transport.NewHandler(engine.AttachFunc(shout), transport.Options{Path: "/engine.io/"})
	defer h.Close()
	http.Handle("/engine.io/", h)
}
