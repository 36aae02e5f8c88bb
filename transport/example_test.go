package transport_test

import (
	"context"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
	"tether/transport"
)

// A server of one node, until Ctrl-C.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	b := memory.NewBus().Broker()
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		log.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:3000")
	if err != nil {
		log.Fatal(err)
	}
	sockets, err := transport.NewHandler(h, transport.Options{
		CORS: transport.CORS{Origins: []string{"https://app.example"}},
	})
	if err != nil {
		log.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", sockets)
	if err := sockets.Serve(ctx, ln, mux, h, transport.ServeOptions{}); err != nil {
		log.Fatal(err)
	}
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
	h, err := transport.NewHandler(engine.AttachFunc(shout), transport.Options{Path: "/engine.io/"})
	if err != nil {
		log.Fatal(err)
	}
	defer h.Close()
	http.Handle("/engine.io/", h)
}
