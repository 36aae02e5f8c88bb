package refresh

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"tether/hub"
	"tether/revoke"
)

// askRefresh is what nodes ask each other. Clients cannot send it.
const askRefresh = "tether:refresh"

// question is a token that has been opened, and the socket that it is for.
type question struct {
	Socket  string    `json:"socket"`
	User    string    `json:"user"` // with its kind
	ID      string    `json:"id,omitempty"`
	Issued  time.Time `json:"issued,omitzero"`
	Expires time.Time `json:"expires,omitzero"`
}

// found is the answer of a node that has the socket.
type found struct {
	Refused string `json:"refused,omitempty"` // why the socket does not go on with the token
}

// Refresh is Handle for a socket of any node, for clients that cannot wait for an acknowledgement: they send
// the ID of their socket and the token in a request over HTTP, say. Anybody with a token of the user may do that. It returns
// when the token expires. The error is a refusal as Handle gives it, [ErrNoSocket] among them, or says that a node has
// not answered: then the socket may be there.
func (r *Refresher) Refresh(ctx context.Context, socketID, tok string) (expires time.Time, err error) {
	t, err := r.open(ctx, tok)
	if err != nil {
		return time.Time{}, err
	}
	if s := r.hub.Socket(socketID); s != nil {
		return t.Expires, r.renew(s, t)
	}
	if hub.SocketID(socketID) == (hub.Target{}) {
		return time.Time{}, ErrNoSocket
	}
	return t.Expires, r.ask(ctx, socketID, t)
}

// ask asks the other nodes.
func (r *Refresher) ask(ctx context.Context, socketID string, t Token) error {
	q := question{Socket: socketID, User: t.User.String(), ID: t.ID, Issued: t.Issued, Expires: t.Expires}
	answers := r.hub.Emitter().ServerSideEmitAck(ctx, askRefresh, q)
	for a := range answers.All {
		var f *found
		switch err := json.Unmarshal(a.Value, &f); {
		case err != nil || f == nil: // it has no such socket
		case f.Refused != "":
			return refusal(f.Refused)
		default:
			return nil
		}
	}
	if err := answers.Err(); err != nil {
		return err
	}
	if missing := answers.Missing(); len(missing) > 0 {
		return fmt.Errorf("refresh: node %s may have the socket: %w", missing[0].Node.Name, missing[0].Why)
	}
	return ErrNoSocket
}

// answer answers another node.
func (r *Refresher) answer(_ context.Context, m *hub.Message) (any, error) {
	var q question
	if err := m.Bind(&q); err != nil {
		return nil, err
	}
	s := r.hub.Socket(q.Socket)
	if s == nil {
		return nil, nil
	}
	err := ErrForeign
	for _, u := range s.Users() {
		if u.String() == q.User {
			err = r.renew(s, Token{revoke.Token{User: u, ID: q.ID, Issued: q.Issued}, q.Expires})
		}
	}
	var refused *hub.Refusal
	if errors.As(err, &refused) {
		return found{refused.Message}, nil
	}
	return found{}, err
}

// refusal is the refusal with a message, one of this package if there is one.
func refusal(message string) error {
	for _, err := range []error{ErrForeign, revoke.ErrRevoked} {
		if refused := (*hub.Refusal)(nil); errors.As(err, &refused) && refused.Message == message {
			return err
		}
	}
	return hub.Refuse(message, nil)
}
