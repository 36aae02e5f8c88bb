package server

import (
	"context"
	"encoding/json"
	"errors"
	"sync/atomic"
	"time"

	"tether/hub"
	"tether/token"
)

// auth says which user a client is, from the encrypted token that it connects with.
type auth struct {
	leeway time.Duration
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
		token.Even(ctx, began)
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
		return nil
	}
	identity, err := settings.ring.OpenUserAt(*sent.Token, time.Now().Add(-a.leeway))
	if err != nil {
		return unauthorized()
	}
	if !identity.Expires.IsZero() {
		s.ExpireAt(identity.Expires.Add(a.leeway))
	}
	return s.Register(ctx, identity.User)
}
