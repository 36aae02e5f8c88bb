package main

import (
	"context"
	"encoding/json"
	"net/http"

	"tether/hub"
	"tether/token"
	"tether/transport"
)

// node runs the i-th node until ctx is done. It calls started once the broker is up.
func (c *cluster) node(ctx context.Context, i int, started func()) error {
	b, err := c.brokers.Open(ctx, c.brokerURL)
	if err != nil {
		return err
	}
	defer b.Close()

	h, err := hub.New(b, hub.Options{
		Node:   c.name(i),
		Logger: c.log,
		OnStart: func(context.Context, *hub.Hub) error {
			started()
			return nil
		},
	})
	if err != nil {
		return err
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return register(ctx, s, c.keys) })

	sockets, err := transport.NewHandler(h, transport.Options{Logger: c.log})
	if err != nil {
		return err
	}
	app := http.NewServeMux()
	app.Handle("/socket.io/", sockets)
	c.mountPage(app, i, h)
	return sockets.Serve(ctx, c.listeners[i], app, h, transport.ServeOptions{})
}

// register makes the socket one of the user's that its token names.
func register(ctx context.Context, s *hub.Socket, keys *token.Keyring) error {
	var auth struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
		return hub.Refuse("unauthorized", nil)
	}
	id, err := keys.OpenUser(auth.Token)
	if err != nil {
		return hub.Refuse("unauthorized", nil)
	}
	s.ExpireAt(id.Expires)
	return s.Register(ctx, id.User)
}
