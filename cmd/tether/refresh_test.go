package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/client"
)

// wantRefused is refused with a message, as an acknowledgement.
func wantRefused(t *testing.T, got []any, message string) {
	t.Helper()
	if len(got) != 2 || got[0] != nil || fmt.Sprint(got[1]) != "map[message:"+message+"]" {
		t.Errorf("got %v, want a refusal: %s", got, message)
	}
}

func call(t *testing.T, c *client.Client, event string, args ...any) []any {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	answer, err := c.Call(ctx, event, args...)
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func TestAClientBringsANewToken(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--namespaces=/,/news", "--auth.leeway=0s", "--auth.notice=1h").ready()
	for _, o := range []client.Options{{}, {Transport: client.Polling, Namespace: "/news"}} {
		o.URL, o.Auth = p.url(), map[string]string{"token": tokenFor(t, "42", time.Minute)}
		c := dial(t, o)
		next(t, c) // the greeting
		if got := next(t, c); !strings.HasPrefix(got, `/ops/token-expires [{"expiresIn":`) {
			t.Fatalf("got %s, want the notice", got)
		}
		ask := func(args ...any) []any { return call(t, c, "/ops/refresh-token", args...) }
		wantRefused(t, ask(tokenFor(t, "43", time.Hour)), "the token is not of the user of this connection")
		wantRefused(t, ask("x"), "the token is not valid")
		wantRefused(t, ask(7), "send the new token as the first argument, a text")
		if got := ask(tokenFor(t, "42", 0)); len(got) != 1 || got[0] != nil {
			t.Errorf("a token that does not expire: got %v", got)
		}
		soon(t, func(life time.Duration) bool {
			got := ask(tokenFor(t, "42", life))
			return len(got) == 1 && got[0] != nil
		})
		if why := c.Reason(); why != "disconnected by the server" { // it has expired
			t.Errorf("the client ended because: %s", why)
		}
	}
}

// soon has a token be taken that expires soon, but not before it is looked at.
func soon(t *testing.T, taken func(life time.Duration) bool) {
	t.Helper()
	for life := 2 * time.Second; !taken(life); life *= 2 {
		if life > patience {
			t.Fatalf("a token of %v is not taken", life)
		}
	}
}

func TestATokenIsRefreshedOverHTTPOnAnyNode(t *testing.T) {
	t.Parallel()
	redis := backend.Redis(t)
	environ := append([]string{"TETHER_BROKER=" + redis.URL}, enough...)
	a, b := start(t, environ, "--node=a", "--auth.leeway=0s").ready(), start(t, environ, "--node=b", "--auth.leeway=0s", "--emit.enabled=false").ready()
	c := dialUser(t, client.Options{URL: a.url()}, "42")
	body := func(socket, tok string) string { return fmt.Sprintf(`{"socket":%q,"token":%q}`, socket, tok) }
	for _, p := range []*process{a, b} {
		for _, bad := range []struct {
			body string
			want answer
		}{
			{body(c.ID, "x"), answer{http.StatusUnauthorized, `{"error":"the token is not valid"}`}},
			{body(c.ID, tokenFor(t, "43", time.Hour)), answer{http.StatusForbidden, `{"error":"the token is not of the user of this connection"}`}},
			{body("x", tokenFor(t, "42", time.Hour)), answer{http.StatusNotFound, `{"error":"there is no such connection"}`}},
			{`{"token":"x"}`, answer{http.StatusBadRequest, `{"error":"\"socket\" and \"token\" are needed: the ID of the client's socket, and its new token"}`}},
			{`{`, answer{http.StatusBadRequest, `{"error":"the body ends in the middle of the JSON object"}`}},
			{body(c.ID, strings.Repeat("x", 16<<10)), answer{http.StatusRequestEntityTooLarge, `{"error":"the body is larger than 16384 bytes"}`}},
		} {
			if got := p.request(http.MethodPost, "/refresh", "", bad.body); got != bad.want {
				t.Errorf("%.80s: got %v, want %v", bad.body, got, bad.want)
			}
		}
		if got := p.request(http.MethodPost, "/refresh", "", body(c.ID, tokenFor(t, "42", 0))); got != (answer{http.StatusOK, "null"}) {
			t.Errorf("got %v", got)
		}
	}
	reaches(t, c, "42", a)
	soon(t, func(life time.Duration) bool {
		return b.request(http.MethodPost, "/refresh", "", body(c.ID, tokenFor(t, "42", life))).status == http.StatusOK
	})
	if why := c.Reason(); why != "disconnected by the server" { // it has expired, as the other node was told
		t.Errorf("the client ended because: %s", why)
	}
}

func TestAnonymousClientsHaveNothingToRefresh(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--auth.mode=none").ready()
	if got := p.request(http.MethodPost, "/refresh", "", `{}`); got.status != http.StatusNotFound {
		t.Errorf("got %v", got)
	}
}
