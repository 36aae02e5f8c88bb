// Package refresh lets a client bring a new token while it is connected, instead of being disconnected when the old
// one expires. Its session, rooms and queue stay as they are.
//
//	tokens, err := refresh.New(h, refresh.Options{Open: open}) // func(ctx, token) (refresh.Token, error)
//	h.Of("/").On(refresh.Event, tokens.Handle)
//
// The client emits the event with the token, and waits for the acknowledgement:
//
//	socket.emit("/ops/refresh-token", token, (answer, refusal) => …);
//
// The answer is {"expiresIn": 600}, the whole seconds for which the token is good, or null for as long as it likes. If
// the token is refused it is null, and refusal is {"message": …}, as of every [hub.Refuse]; nothing has changed then.
// See [hub.Options].ExpiryNotice for how a client learns that it is time.
//
// A client that comes back needs none of this: its connect hooks run again and open the token that it brings.
package refresh

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"time"

	"tether/hub"
	"tether/revoke"
	"tether/token"
)

// Event is the event with which clients bring a token, unless the application gives it another name.
const Event = "/ops/refresh-token"

// The client sees these as refusals with the message that follows the colon.
var (
	ErrMalformed = hub.Refuse("send the new token as the first argument, a text", nil)
	ErrInvalid   = hub.Refuse("the token is not valid", nil)
	ErrExpired   = hub.Refuse("the token has expired", nil)
	ErrForeign   = hub.Refuse("the token is not of the user of this connection", nil)
	ErrUnchecked = hub.Refuse("the token could not be checked: try again", nil)
	ErrNoSocket  = hub.Refuse("there is no such connection", nil)
)

// Token is what a new token says.
type Token struct {
	revoke.Token           // User is needed
	Expires      time.Time // the zero value: never
}

// Options of a Refresher. Open is needed.
type Options struct {
	// Open opens a token as the connect hook does. Its error may be of package token or a [hub.Refusal], of which
	// the client is told; of any other it is told that the token could not be checked.
	Open func(ctx context.Context, tok string) (Token, error)

	// List is asked whether the token has been revoked, and whether it is later. Nil: there is none.
	List *revoke.List

	// Logger gets why a token could not be checked. Default: slog.Default().
	Logger *slog.Logger
}

// Refresher is one node's part.
type Refresher struct {
	o   Options
	hub *hub.Hub
}

// New returns the refresher of h. It is made on all nodes.
func New(h *hub.Hub, o Options) (*Refresher, error) {
	if o.Open == nil {
		return nil, errors.New("refresh: Options.Open says whose a token is, and is needed")
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	r := &Refresher{o: o, hub: h}
	h.Of("/").OnServerSide(askRefresh, r.answer)
	return r, nil
}

// Handle is for [hub.Namespace.On]: it takes the new token of a socket.
func (r *Refresher) Handle(ctx context.Context, s *hub.Socket, m *hub.Message) error {
	var tok string
	if m.Bind(&tok) != nil || tok == "" {
		return ErrMalformed
	}
	t, err := r.open(ctx, tok)
	if err == nil {
		err = r.renew(s, t)
	}
	if err != nil {
		return err
	}
	return m.Ack(AnswerOf(t.Expires))
}

// Answer is what a client is told of its new token.
type Answer struct {
	ExpiresIn int64 `json:"expiresIn"` // seconds
}

// AnswerOf is nil for a token that does not expire.
func AnswerOf(expires time.Time) *Answer {
	if expires.IsZero() {
		return nil
	}
	return &Answer{int64(time.Until(expires).Seconds())}
}

// open returns a token, or a refusal. How long a refusal takes does not tell more than it does.
func (r *Refresher) open(ctx context.Context, tok string) (Token, error) {
	began := time.Now()
	t, err := r.o.Open(ctx, tok)
	switch {
	case err == nil && t.User == (hub.Target{}):
		err = ErrInvalid
	case err == nil, errors.As(err, new(*hub.Refusal)):
	case errors.Is(err, token.ErrInvalid):
		err = ErrInvalid
	case errors.Is(err, token.ErrExpired):
		err = ErrExpired
	default:
		r.o.Logger.Error("a new token could not be checked", "error", err)
		err = ErrUnchecked
	}
	if err != nil {
		token.PadTime(ctx, began)
	}
	return t, err
}

// renew has a socket of this node go on with a token.
func (r *Refresher) renew(s *hub.Socket, t Token) error {
	if !slices.Contains(s.Users(), t.User) {
		return ErrForeign
	}
	if r.o.List != nil {
		if err := r.o.List.Refresh(s, t.Token); err != nil {
			return err
		}
	}
	s.ExpireAt(t.Expires)
	return nil
}
