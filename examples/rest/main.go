// Rest is a REST API with the hub beside it in the same process and on the same port: an order that
// is posted is also told to the user's other devices.
//
//	go run ./examples/rest -addr 127.0.0.1:3000
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"tether/broker/drivers"
	"tether/event"
	"tether/hub"
	"tether/token"
	"tether/transport"
)

// Order is the payload of orderPlaced, and of POST /orders.
type Order struct {
	ID    int64  `json:"id"`
	Title string `json:"title"`
}

var orderPlaced = event.New[Order]("/orders/placed")

const usage = `Rest is a REST API with the hub beside it in the same process: an order that is posted is also told
to the sockets of the user who has placed it.

  go run ./examples/rest
  token=$(curl -sd user=42 127.0.0.1:3000/login)
  curl -H "X-Token: $token" -d title=tea 127.0.0.1:3000/orders

`

func main() {
	addr := flag.String("addr", "127.0.0.1:3000", "address to listen on")
	brokerURL := flag.String("broker", "memory://", "URL of the broker")
	key := flag.String("key", "", "key of the tokens, in base64; empty: one for this process")
	flag.Usage = func() {
		fmt.Fprint(flag.CommandLine.Output(), usage)
		flag.PrintDefaults()
	}
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends the program at once
	listener, err := net.Listen("tcp", *addr)
	if err == nil {
		err = run(ctx, listener, *brokerURL, cmp.Or(*key, token.GenerateKey()))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run serves until ctx is done, and then ends everything in order.
func run(ctx context.Context, listener net.Listener, brokerURL, key string) error {
	current, err := token.NewKey(key)
	if err != nil {
		return err
	}
	b, err := drivers.Mux().Open(ctx, brokerURL)
	if err != nil {
		return err
	}
	defer b.Close()
	h, err := hub.New(b, hub.Options{})
	if err != nil {
		return err
	}
	s := &service{tokens: token.NewKeyring(current), hub: h}
	h.Of("/").OnConnect(s.connect)

	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", sockets)
	mux.HandleFunc("POST /login", s.login)
	mux.HandleFunc("POST /orders", s.placeOrder)
	return sockets.Serve(ctx, listener, mux, h, transport.ServeOptions{})
}

type service struct {
	tokens *token.Keyring
	hub    *hub.Hub
	orders atomic.Int64
}

// connect is told of every client that connects, and says which user it is.
func (s *service) connect(ctx context.Context, socket *hub.Socket) error {
	var auth struct{ Token string }
	if err := json.Unmarshal(socket.Handshake().Auth, &auth); err != nil {
		return hub.Refuse("unauthorized", nil)
	}
	identity, err := s.tokens.OpenUser(auth.Token)
	if err != nil {
		return hub.Refuse("unauthorized", nil)
	}
	socket.ExpireAt(identity.Expires)
	return socket.Register(ctx, identity.User)
}

// login stands for yours: it gives a token for the REST API and for the socket.
func (s *service) login(w http.ResponseWriter, r *http.Request) {
	sealed, err := s.tokens.SealUser(r.FormValue("user"), time.Hour)
	if err != nil {
		http.Error(w, "who are you?", http.StatusBadRequest)
		return
	}
	fmt.Fprint(w, sealed)
}

func (s *service) placeOrder(w http.ResponseWriter, r *http.Request) {
	identity, err := s.tokens.OpenUser(r.Header.Get("X-Token"))
	if err != nil {
		http.Error(w, "unauthorized", http.StatusUnauthorized)
		return
	}
	order := Order{ID: s.orders.Add(1), Title: r.FormValue("title")}
	// ... the order is stored first, and told then: an event is no promise, the database is ...
	receipt, err := orderPlaced.Emit(r.Context(), s.hub.Emitter(), hub.User(identity.User), order)
	if err != nil {
		slog.Warn("order is placed but not told", "order", order.ID, "error", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(struct {
		Order
		Told int `json:"told"`
	}{order, receipt.Nodes})
}
