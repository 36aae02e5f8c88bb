package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/client"
	"tether/webhook"
)

// TestAnotherProgramIsToldWhoComesAndGoes: also when a node is killed.
func TestAnotherProgramIsToldWhoComesAndGoes(t *testing.T) {
	t.Parallel()
	const key = "webhook-key-for-tests"
	told := make(chan webhook.Event, 100)
	var known sync.Map // what a node has told just before it was killed another one tells again, with the same ID
	program := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		if err := webhook.Verify(key, r.Header.Get(webhook.SignatureHeader), body, 0); err != nil {
			t.Error(err)
		}
		var in struct{ Events []webhook.Event }
		if err := json.Unmarshal(body, &in); err != nil {
			t.Error(err)
		}
		for _, e := range in.Events {
			if _, again := known.LoadOrStore(e.ID, true); !again {
				told <- e
			}
		}
	}))
	t.Cleanup(program.Close)
	redis := backend.Redis(t)
	environ := append([]string{
		"TETHER_BROKER=" + redis.URL, "TETHER_PREFIX=" + t.Name(),
		"TETHER_WEBHOOK_URL=" + program.URL, "TETHER_WEBHOOK_KEYS=" + key, "TETHER_WEBHOOK_GRACE=0s", "TETHER_RECOVERY_ON=true",
	}, enough...)
	a, b := start(t, environ, "--node=a").ready(), start(t, environ, "--node=b").ready()
	dialUser(t, client.Options{URL: b.url()}, "1")
	want(t, told, []string{"connect user:1 b ", "online user:1  "}) // now all agree on the owner of each user
	phone := dialUser(t, client.Options{URL: a.url()}, "42")
	want(t, told, []string{"connect user:42 a ", "online user:42  "})
	phone.Close()
	want(t, told, []string{"disconnect user:42 a ", "offline user:42  "})
	dialUser(t, client.Options{URL: a.url()}, "42")
	want(t, told, []string{"connect user:42 a ", "online user:42  "})
	lost := dial(t, client.Options{URL: a.url(), Auth: map[string]any{"token": tokenFor(t, "7", time.Hour), "recovery": true}})
	want(t, told, []string{"connect user:7 a ", "online user:7  "})
	lost.Close()
	want(t, told, []string{"disconnect user:7 a ", "offline user:7  "}) // and its session waits
	if err := a.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	want(t, told, []string{"disconnect user:42 a node gone", "offline user:42  ", "expired user:7 a node lost"})
	eventually(t, "the node that told it counts it", func() bool {
		var stats struct{ Webhook webhook.Stats }
		got := b.request(http.MethodGet, "/stats", "Bearer "+testEmitKey, "")
		err := json.Unmarshal([]byte(got.body), &stats)
		return err == nil && stats.Webhook.Sent >= 2 && stats.Webhook.Waiting == 0 && stats.Webhook.Dropped == 0
	})
}

// want waits for as many events, and compares them in any order.
func want(t *testing.T, told <-chan webhook.Event, want []string) {
	t.Helper()
	var got []string
	for range want {
		select {
		case e := <-told:
			got = append(got, e.Type+" "+e.User+" "+e.Node+" "+e.Reason)
		case <-time.After(patience):
			t.Fatalf("told %q, want %q", got, want)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("told %q, want %q", got, want)
	}
}

func TestAWebhookNeedsAKey(t *testing.T) {
	_, stderr, code := tether(t, enough, "check-config", "--webhook.url=https://app.example.com/hooks")
	if code != exitMistake || stderr == "" {
		t.Errorf("got exit code %d: %s", code, stderr)
	}
}
