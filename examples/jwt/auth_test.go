package jwt_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"

	"tether/broker/memory"
	"tether/examples/jwt"
	"tether/hub"
	"tether/internal/client"
	"tether/transport"
)

// serve is a hub with one connect hook, until the test ends.
func serve(t *testing.T, connect func(context.Context, *hub.Socket) error) (url string, h *hub.Hub) {
	t.Helper()
	b := memory.NewBus().Broker()
	h, err := hub.New(b, hub.Options{DrainWindow: -1})
	if err != nil {
		t.Fatal(err)
	}
	h.Of("/").OnConnect(connect)
	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sockets)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := errors.Join(<-ended, sockets.Close(), b.Close()); err != nil {
			t.Error(err)
		}
		server.Close()
	})
	return server.URL, h
}

// who connects and says which user the hub takes it for.
func who(t *testing.T, h *hub.Hub, o client.Options) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, o)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	for s := range h.Of("/").Sockets() {
		if s.ID() == c.ID && len(s.Users()) == 1 {
			return s.Users()[0]
		}
	}
	return "nobody"
}

func TestBearer(t *testing.T) {
	key := []byte("a key for tests, of 32 bytes min.")
	url, h := serve(t, jwt.Bearer(key))
	sign := func(method golangjwt.SigningMethod, key any, claims golangjwt.MapClaims) any {
		text, err := golangjwt.NewWithClaims(method, claims).SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return map[string]string{"token": text}
	}
	later, before := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
	const refused = "client: refused: unauthorized"
	for _, c := range []struct {
		name string
		auth any
		want string
	}{
		{"good", sign(golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"sub": "42", "exp": later}), "42"},
		{"other key", sign(golangjwt.SigningMethodHS256, []byte("another"), golangjwt.MapClaims{"sub": "42", "exp": later}), refused},
		{"other method", sign(golangjwt.SigningMethodHS512, key, golangjwt.MapClaims{"sub": "42", "exp": later}), refused},
		{"no signature", sign(golangjwt.SigningMethodNone, golangjwt.UnsafeAllowNoneSignatureType, golangjwt.MapClaims{"sub": "42", "exp": later}), refused},
		{"expired", sign(golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"sub": "42", "exp": before}), refused},
		{"never expires", sign(golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"sub": "42"}), refused},
		{"nobody", sign(golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"exp": later}), refused},
		{"not a token", map[string]string{"token": "x"}, refused},
		{"none", nil, refused},
	} {
		if got := who(t, h, client.Options{URL: url, Auth: c.auth}); got != c.want {
			t.Errorf("%s: got %s, want %s", c.name, got, c.want)
		}
	}
}

func TestASocketEndsWithItsJWT(t *testing.T) {
	key := []byte("a key for tests, of 32 bytes min.")
	url, _ := serve(t, jwt.Bearer(key))
	// Good for the leeway of 30 s only, less a bit.
	text, err := golangjwt.NewWithClaims(golangjwt.SigningMethodHS256, golangjwt.MapClaims{
		"sub": "42", "exp": time.Now().Add(-10 * time.Second).Unix(),
	}).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, err := client.Dial(ctx, client.Options{URL: url, Auth: map[string]string{"token": text}})
	if err != nil {
		return // it was over before it had begun
	}
	defer c.Close()
	if got := c.Reason(); got != "disconnected by the server" {
		t.Errorf("got %s", got)
	}
}

type sessions map[string]string

func (s sessions) User(_ context.Context, session string) (string, time.Time, bool) {
	user, ok := s[session]
	return user, time.Now().Add(time.Hour), ok
}

func TestCookie(t *testing.T) {
	url, h := serve(t, jwt.Cookie("session", sessions{"abc": "42"}))
	const refused = "client: refused: unauthorized"
	for _, c := range []struct{ cookie, want string }{
		{"session=abc", "42"},
		{"theme=dark; session=abc", "42"},
		{"session=abd", refused},
		{"Session=abc", refused},
		{"", refused},
	} {
		for _, way := range []string{client.WebSocket, client.Polling} {
			header := http.Header{}
			if c.cookie != "" {
				header.Set("Cookie", c.cookie)
			}
			if got := who(t, h, client.Options{URL: url, Transport: way, Header: header}); got != c.want {
				t.Errorf("%q over %s: got %s, want %s", c.cookie, way, got, c.want)
			}
		}
	}
	// A page of another origin cannot use the cookie.
	header := http.Header{"Cookie": {"session=abc"}, "Origin": {"https://evil.example"}}
	if got := who(t, h, client.Options{URL: url, Header: header}); got == "42" {
		t.Error("another origin uses the cookie")
	}
}
