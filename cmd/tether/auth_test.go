package main

import (
	"errors"
	"testing"
	"time"

	"tether/internal/client"
)

func TestWhoAClientIs(t *testing.T) {
	open := start(t, enough).ready()
	strict := start(t, enough, "--auth.required", "--auth.leeway=0s").ready()
	expired := tokenFor(t, "42", time.Nanosecond)
	for _, c := range []struct {
		name    string
		server  *process
		auth    any
		refused bool
	}{
		{"no token", open, nil, false},
		{"no token where one is required", strict, nil, true},
		{"null is no token", open, map[string]any{"token": nil}, false},
		{"good token", strict, map[string]any{"token": tokenFor(t, "42", time.Hour)}, false},
		{"not a token", open, map[string]any{"token": "42"}, true},
		{"empty token", open, map[string]any{"token": ""}, true},
		{"number", open, map[string]any{"token": 42}, true},
		{"within the leeway", open, map[string]any{"token": expired}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := tryDial(t, client.Options{URL: c.server.url(), Auth: c.auth})
			var refused *client.Refused
			if errors.As(err, &refused) != c.refused || err != nil && !c.refused {
				t.Fatalf("got %v", err)
			}
			if c.refused && refused.Message != "unauthorized" {
				t.Errorf("got %q", refused.Message)
			}
		})
	}
	if got := open.post("/emit", testEmitKey, `{"everyone":true,"event":"x"}`); got.status != 200 {
		t.Errorf("got %v", got)
	}
}

// TestAClientThatComesBackWithoutItsTokenIsNobody: its token may have expired or been revoked meanwhile.
func TestAClientThatComesBackWithoutItsTokenIsNobody(t *testing.T) {
	p := start(t, enough, "--recovery.on").ready()
	was := dial(t, client.Options{URL: p.url(), Auth: map[string]any{"token": tokenFor(t, "42", time.Hour), "recovery": true}})
	was.Close()
	back := client.Options{URL: p.url(), Auth: map[string]any{"recovery": true, "pid": was.PID}}
	if c, err := tryDial(t, back); err == nil {
		t.Errorf("it is connected as %s, which was %s", c.ID, was.ID)
	}
	if c := dial(t, back); c.PID == was.PID || c.PID == "" {
		t.Errorf("its session was %q and is %q", was.PID, c.PID)
	}
	eventually(t, "nobody is the user", func() bool {
		return p.post("/emit", testEmitKey, `{"user":"42","event":"x"}`).body == `{"nodes":0}`
	})
}

func TestAnyOtherNamespaceIsRefused(t *testing.T) {
	p := start(t, enough).ready()
	_, err := tryDial(t, client.Options{URL: p.url(), Namespace: "/admin"})
	var refused *client.Refused
	if !errors.As(err, &refused) || refused.Message != "Invalid namespace" {
		t.Errorf("got %v", err)
	}
}

func TestAUserHasNoMoreSocketsThanAllowed(t *testing.T) {
	p := start(t, enough, "--devices.max=1", "--devices.exceed=end-oldest").ready()
	first := dialUser(t, client.Options{URL: p.url()}, "42")
	dialUser(t, client.Options{URL: p.url()}, "42")
	if why := first.Reason(); why != "disconnected by the server" {
		t.Errorf("the first ended because: %s", why)
	}
}
