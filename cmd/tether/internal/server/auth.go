package server

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"tether/hub"
	"tether/refresh"
	"tether/revoke"
	"tether/token"
)

// auth says which user a client is, from the encrypted token that it connects with.
type auth struct {
	leeway time.Duration
	list   *revoke.List
	now    atomic.Pointer[authSettings] // replaced as a whole by a reload
}

type authSettings struct {
	ring     *token.Keyring // nil: every client is anonymous
	required bool
}

// unauthorized is all that a client gets to know.
func unauthorized() error { return hub.Refuse("unauthorized", nil) }

// connect is the connect hook of every namespace. All refusals are alike, also in the time that they take.
func (a *auth) connect(ctx context.Context, s *hub.Socket) error {
	began := time.Now()
	err := a.admit(ctx, s)
	if errors.As(err, new(*hub.Refusal)) {
		token.PadTime(ctx, began)
	}
	return err
}

func (a *auth) admit(ctx context.Context, s *hub.Socket) error {
	settings := a.now.Load()
	if settings.ring == nil {
		return nil
	}
	var sent struct {
		Token *string `json:"token"`
	}
	if raw := s.Handshake().Auth; raw != nil {
		if err := json.Unmarshal(raw, &sent); err != nil {
			return unauthorized()
		}
	}
	if sent.Token == nil {
		if settings.required {
			return unauthorized()
		}
		s.Leave(s.Users()...) // one that has come back has those of its session
		return nil
	}
	t, err := a.open(ctx, *sent.Token)
	if err != nil {
		return unauthorized()
	}
	s.ExpireAt(t.Expires)
	err = a.list.Register(ctx, s, t.Token)
	if errors.Is(err, revoke.ErrRevoked) {
		return unauthorized()
	}
	return err
}

// open says whose a token is, and until when its sockets may stay.
func (a *auth) open(_ context.Context, tok string) (refresh.Token, error) {
	identity, err := a.now.Load().ring.OpenUserAt(tok, time.Now().Add(-a.leeway))
	if err != nil {
		return refresh.Token{}, err
	}
	t := refresh.Token{
		Token:   revoke.Token{User: hub.User(identity.User), ID: identity.ID, Issued: identity.Issued},
		Expires: identity.Expires,
	}
	if !t.Expires.IsZero() {
		t.Expires = t.Expires.Add(a.leeway)
	}
	return t, nil
}
