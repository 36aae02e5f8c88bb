package docs

import (
	"context"
	"encoding/json"
	"log"
	"time"

	"tether/hub"
	"tether/limit"
	"tether/revoke"
)

// The code of revoking.md.

type claims struct {
	Subject, ID string
	IssuedAt    time.Time
}

func letIn(h *hub.Hub, verify func(auth json.RawMessage) (claims, error)) error {
	list, err := revoke.New(h, revoke.Options{Lifetime: 12 * time.Hour}) // as long as a token is good
	if err != nil {
		return err
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		c, err := verify(s.Handshake().Auth)
		if err != nil {
			return hub.Refuse("unauthorized", nil)
		}
		return list.Register(ctx, s, revoke.Token{User: hub.User(c.Subject), ID: c.ID, Issued: c.IssuedAt})
	})
	return nil
}

func logOut(ctx context.Context, list *revoke.List, tokenID string) error {
	changed, err := list.Revoke(ctx, revoke.Rule{Token: tokenID})
	if err != nil {
		return err
	}
	log.Print(changed.Sockets, " sockets have ended")
	for _, m := range changed.Missing {
		log.Print(m.Node.Name, " has not confirmed it: ", m.Why)
	}
	return nil
}

func limitEvents(h *hub.Hub) error {
	events, err := limit.New(h, limit.Options{Rate: 20, Event: "slow down"})
	if err != nil {
		return err
	}
	h.Of("/").UseEvent(events.Handle)
	return nil
}

var _ = []any{letIn, logOut, limitEvents}
