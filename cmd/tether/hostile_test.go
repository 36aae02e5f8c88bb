package main

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/internal/client"
	"tether/token"
)

// TestEveryBadTokenIsAnsweredAlike: a client whose token does not open learns nothing of why, over either
// transport, by the clock either, and the log says nothing at all.
func TestEveryBadTokenIsAnsweredAlike(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--auth.required", "--auth.leeway=0s", "--log.level=debug").ready()
	good := tokenFor(t, "secret-user", time.Hour)
	foreign, err := config.Keyring([]config.Secret{config.Secret(base64.StdEncoding.EncodeToString(make([]byte, 32)))})
	if err != nil {
		t.Fatal(err)
	}
	ours, err := config.Keyring([]config.Secret{testTokenKey})
	if err != nil {
		t.Fatal(err)
	}
	seal := func(ring *token.Keyring, v any) string {
		t.Helper()
		sealed, err := ring.Seal(v)
		if err != nil {
			t.Fatal(err)
		}
		return sealed
	}
	flipped := func(at int) string {
		b := []byte(good)
		if b[at]++; b[at] > 'z' || b[at] == '[' || b[at] == ':' {
			b[at] = 'A'
		}
		return string(b)
	}
	for name, auth := range map[string]any{
		"none":                       nil,
		"nothing":                    map[string]any{"token": ""},
		"no text":                    map[string]any{"token": map[string]any{"user_id": "1"}},
		"another name":               map[string]any{"Authorization": good},
		"no token":                   map[string]any{"token": "secret-user"},
		"changed at the beginning":   map[string]any{"token": flipped(5)},
		"changed in the middle":      map[string]any{"token": flipped(len(good) / 2)},
		"changed at the end":         map[string]any{"token": flipped(len(good) - 6)},
		"cut":                        map[string]any{"token": good[:len(good)-8]},
		"continued":                  map[string]any{"token": good + "AAAA"},
		"twice":                      map[string]any{"token": good + good},
		"a megabyte, nearly":         map[string]any{"token": strings.Repeat("A", 15_000)},
		"sealed by somebody else":    map[string]any{"token": seal(foreign, "secret-user")},
		"expired":                    map[string]any{"token": seal(ours, map[string]any{"user_id": "secret-user", "exp": time.Now().Unix() - 1})},
		"expired for years":          map[string]any{"token": seal(ours, map[string]any{"user_id": "secret-user", "exp": 1})},
		"without a user":             map[string]any{"token": seal(ours, map[string]any{"exp": 1 << 40})},
		"with a user that is a list": map[string]any{"token": seal(ours, []string{"secret-user"})},
		"with a time that is text":   map[string]any{"token": seal(ours, map[string]any{"user_id": "secret-user", "exp": "never"})},
		"with an empty user":         map[string]any{"token": seal(ours, "")},
	} {
		for _, transport := range []string{client.WebSocket, client.Polling} {
			began := time.Now()
			_, err := tryDial(t, client.Options{URL: p.url(), Auth: auth, Transport: transport})
			if took := time.Since(began); took < 8*time.Millisecond {
				t.Errorf("%s, %s: refused after %v, as soon as that was clear", name, transport, took)
			}
			var refused *client.Refused
			if !errors.As(err, &refused) || refused.Message != "unauthorized" {
				t.Errorf("%s, %s: %v", name, transport, err)
			}
		}
	}
	dialUser(t, client.Options{URL: p.url()}, "42") // the server is well
	if log := p.log(); strings.Contains(log, "secret-user") || strings.Contains(log, good[20:60]) {
		t.Errorf("a token is in the log:\n%s", log)
	}
}
