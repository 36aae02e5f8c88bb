package jwt_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"testing/synctest"
	"time"

	golangjwt "github.com/golang-jwt/jwt/v5"

	"tether/broker"
	"tether/examples/jwt"
	"tether/hub"
	"tether/hubtest"
	"tether/internal/client"
	"tether/transport"
)

// start is a hub with one connect hook.
func start(t *testing.T, connect func(context.Context, *hub.Socket) error) *hubtest.Node {
	return hubtest.Start(t, func(b broker.Broker) (*hub.Hub, error) {
		h, err := hub.New(b, hub.Options{})
		if err == nil {
			h.Of("/").OnConnect(connect)
		}
		return h, err
	})
}

// wantUser connects, and checks that the hub takes the client for the user; "": that it is refused.
func wantUser(t *testing.T, node *hubtest.Node, h hubtest.Handshake, user string) {
	t.Helper()
	if user == "" {
		node.ExpectRefusalOf(h, "unauthorized")
		return
	}
	c := node.Dial(h)
	if _, err := node.Hub.Emitter().Emit(t.Context(), hub.User(user), "you"); err != nil {
		t.Fatal(err)
	}
	c.Expect("you")
	c.Close()
}

var key = []byte("a key for tests, of 32 bytes min.")

func sign(t *testing.T, method golangjwt.SigningMethod, key any, claims golangjwt.MapClaims) any {
	t.Helper()
	text, err := golangjwt.NewWithClaims(method, claims).SignedString(key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]string{"token": text}
}

func TestBearer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := start(t, jwt.Bearer(key))
		later, before := time.Now().Add(time.Hour).Unix(), time.Now().Add(-time.Hour).Unix()
		for _, c := range []struct {
			name string
			auth any
			want string
		}{
			{"good", sign(t, golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"sub": "42", "exp": later}), "42"},
			{"other key", sign(t, golangjwt.SigningMethodHS256, []byte("another"), golangjwt.MapClaims{"sub": "42", "exp": later}), ""},
			{"other method", sign(t, golangjwt.SigningMethodHS512, key, golangjwt.MapClaims{"sub": "42", "exp": later}), ""},
			{"no signature", sign(t, golangjwt.SigningMethodNone, golangjwt.UnsafeAllowNoneSignatureType, golangjwt.MapClaims{"sub": "42", "exp": later}), ""},
			{"expired", sign(t, golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"sub": "42", "exp": before}), ""},
			{"never expires", sign(t, golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"sub": "42"}), ""},
			{"nobody", sign(t, golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{"exp": later}), ""},
			{"not a token", map[string]string{"token": "x"}, ""},
			{"none", nil, ""},
		} {
			t.Log(c.name)
			wantUser(t, node, hubtest.Handshake{Auth: c.auth}, c.want)
		}
	})
}

func TestASocketEndsWithItsJWT(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := start(t, jwt.Bearer(key))
		c := node.Connect(sign(t, golangjwt.SigningMethodHS256, key, golangjwt.MapClaims{
			"sub": "42", "exp": time.Now().Add(time.Hour).Unix(),
		}))
		time.Sleep(time.Hour - time.Second)
		if _, err := node.Hub.Emitter().Emit(t.Context(), hub.User("42"), "still here"); err != nil {
			t.Fatal(err)
		}
		c.Expect("still here")
		time.Sleep(time.Minute) // the leeway, too
		c.ExpectEnd(hub.ReasonServerDisconnect)
	})
}

type sessions map[string]string

func (s sessions) User(_ context.Context, session string) (string, time.Time, bool) {
	user, ok := s[session]
	return user, time.Now().Add(time.Hour), ok
}

// cookies are what a browser may send along, and which user it is then.
var cookies = []struct{ cookie, want string }{
	{"session=abc", "42"},
	{"theme=dark; session=abc", "42"},
	{"session=abd", ""},
	{"Session=abc", ""},
	{"", ""},
}

func TestCookie(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		node := start(t, jwt.Cookie("session", sessions{"abc": "42"}))
		for _, c := range cookies {
			t.Log(c.cookie)
			header := http.Header{}
			if c.cookie != "" {
				header.Set("Cookie", c.cookie)
			}
			wantUser(t, node, hubtest.Handshake{Header: header}, c.want)
		}
	})
}

// TestTheCookieOfTheFirstRequestCountsOnEveryTransport: where it is read from differs.
func TestTheCookieOfTheFirstRequestCountsOnEveryTransport(t *testing.T) {
	node := start(t, jwt.Cookie("session", sessions{"abc": "42"}))
	sockets, err := transport.NewHandler(node.Hub, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewServer(sockets)
	defer server.Close()
	defer sockets.Close()
	for _, way := range []string{client.Polling, client.WebSocket, client.Upgrade} {
		for _, c := range cookies {
			t.Run(way+" "+c.cookie, func(t *testing.T) {
				header := http.Header{}
				if c.cookie != "" {
					header.Set("Cookie", c.cookie)
				}
				got, err := client.Dial(t.Context(), client.Options{URL: server.URL, Transport: way, Header: header})
				if c.want == "" {
					var refused *client.Refused
					if !errors.As(err, &refused) || refused.Message != "unauthorized" {
						t.Errorf("got %v, want a refusal", err)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				defer got.Close()
				if _, err := node.Hub.Emitter().Emit(t.Context(), hub.User(c.want), "you"); err != nil {
					t.Fatal(err)
				}
				for _, want := range []string{"/ops/connection-success", "you"} {
					if e, err := got.Next(t.Context()); err != nil || e.Name != want {
						t.Errorf("got %v, %v; want %s", e, err, want)
					}
				}
			})
		}
	}
}

func TestAPageOfAnotherOriginCannotUseTheCookie(t *testing.T) {
	node := start(t, jwt.Cookie("session", sessions{"abc": "42"}))
	sockets, err := transport.NewHandler(node.Hub, transport.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer sockets.Close()
	for _, way := range []string{"polling", "websocket"} {
		r := httptest.NewRequest(http.MethodGet, "/socket.io/?EIO=4&transport="+way, nil)
		r.Header.Set("Cookie", "session=abc")
		r.Header.Set("Origin", "https://evil.example")
		w := httptest.NewRecorder()
		sockets.ServeHTTP(w, r)
		if w.Code != http.StatusForbidden {
			t.Errorf("%s: status %d", way, w.Code)
		}
	}
}
