package main

import (
	"context"
	"encoding/json"
	"net/http"

	"tether/hub"
	"tether/refresh"
	"tether/revoke"
)

// connect is the hook that every connection passes: who is it, and until when?
func (s *site) connect(ctx context.Context, socket *hub.Socket) error {
	var auth struct {
		Token string `json:"token"`
	}
	if err := json.Unmarshal(socket.Handshake().Auth, &auth); err != nil {
		return hub.Refuse("unauthorized", nil)
	}
	id, err := s.keys.OpenUser(auth.Token)
	if err != nil {
		return hub.Refuse("unauthorized", nil)
	}
	socket.ExpireAt(id.Expires)
	return socket.Register(ctx, id.User)
}

// open is what connect does with a token that a client brings while it is connected.
func (s *site) open(_ context.Context, tok string) (refresh.Token, error) {
	id, err := s.keys.OpenUser(tok)
	return refresh.Token{Token: revoke.Token{User: hub.User(id.User)}, Expires: id.Expires}, err
}

// connectByCookie does without a token where hub and pages are one origin: the browser sends the
// session cookie with the handshake. The transport refuses other origins, so no other site can use
// the cookie; such a connection lasts until the logout disconnects it.
func (s *site) connectByCookie(ctx context.Context, socket *hub.Socket) error {
	user := s.userOf(&http.Request{Header: socket.Handshake().Header})
	if user == "" {
		return hub.Refuse("unauthorized", nil)
	}
	return socket.Register(ctx, user)
}
