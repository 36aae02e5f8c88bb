// Embed is the smallest service with a hub: the program of the README.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"

	"tether/broker/drivers"
	"tether/event"
	"tether/hub"
	"tether/transport"
)

type Ping struct {
	Hello string `json:"hello"`
}

var UserPing = event.New[Ping]("/users/ping")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	context.AfterFunc(ctx, func() {
		stop()
		log.Print("Ctrl-C again ends the program at once")
	})
	ln, err := net.Listen("tcp", cmp.Or(os.Getenv("ADDR"), "127.0.0.1:3000"))
	if err != nil {
		log.Fatal(err)
	}
	log.Printf("listening on %s", ln.Addr())
	if err := serve(ctx, ln, cmp.Or(os.Getenv("BROKER"), "memory://")); err != nil {
		log.Fatal(err)
	}
}

func serve(ctx context.Context, ln net.Listener, brokerURL string) error {
	b, err := drivers.Mux().Open(ctx, brokerURL) // redis://…, nats://…
	if err != nil {
		return err
	}
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		return err
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		var auth struct{ User string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil || auth.User == "" {
			return hub.Refuse("unauthorized", nil)
		}
		return s.Register(ctx, auth.User) // a real service opens a token: docs/registering.md
	})

	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", sockets)
	mux.HandleFunc("POST /ping/{user}", ping(h.Emitter()))
	return sockets.Serve(ctx, ln, mux, h, transport.ServeOptions{}) // until Ctrl-C, which sends the clients elsewhere first
}

func ping(e *hub.Emitter) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		receipt, err := UserPing.Emit(r.Context(), e, hub.User(r.PathValue("user")), Ping{"world"})
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Write([]byte(receipt.String() + "\n")) // "1 node took it", "nobody is there"
	}
}
