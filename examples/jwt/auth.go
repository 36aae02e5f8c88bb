// Package jwt shows two other ways to know a client: a JSON Web Token in the CONNECT payload, and the
// session cookie that the rest of the site uses.
package jwt

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"tether/hub"
)

// Bearer registers a client by the JWT in auth.token: its sub is the user's ID, and when it expires
// the socket is disconnected.
func Bearer(key []byte) func(context.Context, *hub.Socket) error {
	parser := jwt.NewParser(jwt.WithValidMethods([]string{"HS256"}), jwt.WithExpirationRequired(), jwt.WithLeeway(30*time.Second))
	return func(ctx context.Context, s *hub.Socket) error {
		var auth struct{ Token string }
		if err := json.Unmarshal(s.Handshake().Auth, &auth); err != nil {
			return hub.Refuse("unauthorized", nil)
		}
		claims := &jwt.RegisteredClaims{}
		if _, err := parser.ParseWithClaims(auth.Token, claims, func(*jwt.Token) (any, error) { return key, nil }); err != nil || claims.Subject == "" {
			return hub.Refuse("unauthorized", nil)
		}
		s.ExpireAt(claims.ExpiresAt.Time)
		return s.Register(ctx, claims.Subject)
	}
}

// Sessions is where the site keeps who is logged in.
type Sessions interface {
	// User returns whose session it is, and until when.
	User(ctx context.Context, session string) (user string, expires time.Time, ok bool)
}

// Cookie registers a client by the session cookie of its first request. The browser sends it along
// wherever the page comes from, so the origins that may connect have to be limited: leave
// transport.Options.CORS as it is, or name them, and never allow "*".
func Cookie(name string, sessions Sessions) func(context.Context, *hub.Socket) error {
	return func(ctx context.Context, s *hub.Socket) error {
		request := http.Request{Header: s.Handshake().Header}
		cookie, err := request.Cookie(name)
		if err != nil {
			return hub.Refuse("unauthorized", nil)
		}
		user, expires, ok := sessions.User(ctx, cookie.Value)
		if !ok {
			return hub.Refuse("unauthorized", nil)
		}
		s.ExpireAt(expires)
		return s.Register(ctx, user)
	}
}
