package server

import (
	"context"
	"errors"
	"net/http"

	"tether/cmd/tether/internal/config"
	"tether/hub"
	"tether/refresh"
	"tether/revoke"
)

// watchTokens has every namespace look at the tokens of its clients, also at those that they bring later.
func (s *Server) watchTokens(c *config.Config, list *revoke.List) (err error) {
	s.auth = &auth{leeway: c.Auth.Leeway, list: list}
	if c.Auth.Mode == "token" {
		s.tokens, err = refresh.New(s.hub, refresh.Options{Open: s.auth.open, List: list, Logger: s.logs.Of("hub")})
		if err != nil {
			return err
		}
	}
	for _, name := range c.Namespaces {
		n := s.hub.Of(name)
		n.OnConnect(s.auth.connect)
		if s.tokens != nil {
			n.On(refresh.Event, s.tokens.Handle)
		}
	}
	return nil
}

// refresh needs no key: the token is one.
func (a *api) refresh(ctx context.Context, body []byte) (any, error) {
	var in struct {
		Socket string `json:"socket"`
		Token  string `json:"token"`
	}
	if err := decode(body, &in); err != nil {
		return nil, err
	}
	if in.Socket == "" || in.Token == "" {
		return nil, badRequest(errors.New(`"socket" and "token" are needed: the ID of the client's socket, and its new token`))
	}
	expires, err := a.tokens.Refresh(ctx, in.Socket, in.Token)
	var refused *hub.Refusal
	if errors.As(err, &refused) {
		return nil, &requestError{refusedStatus(err), errors.New(refused.Message)}
	} else if err != nil {
		return nil, &requestError{http.StatusServiceUnavailable, errors.New("a node that may have the socket has not answered: try again")}
	}
	return refresh.AnswerOf(expires), nil
}

func refusedStatus(err error) int {
	switch {
	case errors.Is(err, refresh.ErrNoSocket):
		return http.StatusNotFound
	case errors.Is(err, refresh.ErrForeign):
		return http.StatusForbidden
	case errors.Is(err, refresh.ErrUnchecked):
		return http.StatusServiceUnavailable
	}
	return http.StatusUnauthorized
}
