package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"tether/cmd/tether/internal/config"
	"tether/cmd/tether/internal/server"
	"tether/internal/client"
)

// tether runs a command against the nodes within this process, and returns what it prints and its exit code.
func tether(t *testing.T, environ []string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	p := program{loader: config.Loader{Args: args, Environ: environ, Grammar: grammar}, stdin: http.NoBody, stdout: &out, stderr: &errs}
	code = p.run()
	return out.String(), errs.String(), code
}

// mint makes a token, and says its ID.
func mint(t *testing.T, user string) (sealed, id string) {
	t.Helper()
	sealed = tokenFor(t, user, time.Hour)
	ring, err := config.Keyring([]config.Secret{testTokenKey})
	if err != nil {
		t.Fatal(err)
	}
	identity, err := ring.OpenUser(sealed)
	if err != nil || identity.ID == "" || time.Since(identity.Issued) > time.Minute {
		t.Fatalf("got %+v, %v", identity, err)
	}
	return sealed, identity.ID
}

// TestUsersAreFoundAndPutOutOnAllNodes: over HTTP and from a shell, on both brokers.
func TestUsersAreFoundAndPutOutOnAllNodes(t *testing.T) {
	t.Parallel()
	for name, broker := range brokers(t) {
		t.Run(name, func(t *testing.T) {
			environ := append([]string{"TETHER_BROKER=" + broker.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
			a, b := start(t, environ, "--node=a").ready(), start(t, environ, "--node=b").ready()
			stolen, id := mint(t, "42")
			phone := dial(t, client.Options{URL: a.url(), Auth: map[string]string{"token": stolen}})
			laptop := dialUser(t, client.Options{URL: b.url()}, "42")

			var users server.Users
			got := b.post("/online", testEmitKey, `{"users":[42,"43"]}`)
			if err := json.Unmarshal([]byte(got.body), &users); err != nil || got.status != http.StatusOK {
				t.Fatalf("online: got %v", got)
			}
			if u := users.Users["42"]; u.Online == nil || !*u.Online || len(u.Devices) != 2 || len(users.Missing) != 0 {
				t.Errorf("online: got %v", got)
			}
			if u := users.Users["43"]; u.Online == nil || *u.Online || len(u.Devices) != 0 {
				t.Errorf("online: got %v", got)
			}
			var sockets server.Sockets
			out, errs, _ := tether(t, environ, "who", "socket:"+phone.ID, "--json")
			if err := json.Unmarshal([]byte(out), &sockets); err != nil || len(sockets.Sockets) != 1 {
				t.Fatalf("who: got %s%s", out, errs)
			}
			connection := sockets.Sockets[0].Connection
			for _, c := range []struct {
				args []string
				code int
				says []string
			}{
				{[]string{"online", "42", "43"}, exitDone, []string{"42    online  " + phone.ID + "  a", laptop.ID + "  b", "43    offline"}},
				{[]string{"online", "43", "--json"}, exitNobody, []string{`{"users":{"43":{"online":false,"devices":[]}},"missing":[]}`}},
				{[]string{"who", "user:42"}, exitDone, []string{phone.ID + "  a     websocket  user:42", laptop.ID + "  b     websocket  user:42"}},
				{[]string{"who", "connection:" + connection, "--limit=1"}, exitDone, []string{"ROOMS\n" + connection + "  " + phone.ID + "  a     websocket  user:42\n"}},
				{[]string{"who", "connection:0123456789ab"}, exitNobody, []string{""}},
				{[]string{"who", "connection:"}, exitMistake, []string{"nobody"}},
				{[]string{"who", "--limit=1"}, exitDone, []string{"and more than these 1"}},
				{[]string{"who", "room:nobody", "--json"}, exitNobody, []string{`{"sockets":[],"more":false,"missing":[]}`}},
				{[]string{"kick", "nobody"}, exitMistake, []string{"nobody"}},
				{[]string{"kick", "user:43"}, exitNobody, []string{"0 sockets"}},
				{[]string{"revoke"}, exitMistake, []string{"--user, --token or --before is needed"}},
				{[]string{"revoke", "--token=" + id, "--json"}, exitDone, []string{`{"nodes":2,"sockets":1,"missing":[]}`}},
				{[]string{"kick", "user:42", "--close"}, exitDone, []string{"1 sockets on"}},
			} {
				stdout, stderr, code := tether(t, environ, c.args...)
				for _, says := range c.says {
					if code != c.code || !strings.Contains(stdout+stderr, says) {
						t.Errorf("tether %s: got exit code %d, want %d and %q:\n%s%s", strings.Join(c.args, " "), code, c.code, says, stdout, stderr)
					}
				}
			}
			for _, c := range []*client.Client{phone, laptop} {
				if why := c.Reason(); why != "disconnected by the server" {
					t.Errorf("a client ended because: %s", why)
				}
			}
			for _, p := range []*process{a, b} {
				if err := refusalOf(t, p, stolen); err != "unauthorized" {
					t.Errorf("the stolen token: %q", err)
				}
			}
			again, _ := mint(t, "42")
			dial(t, client.Options{URL: b.url(), Auth: map[string]string{"token": again}})
			before := fmt.Sprintf(`{"user":"42","before":%.3f}`, float64(time.Now().UnixMilli()+1)/1000)
			for _, c := range []struct{ body, want string }{
				{before, `{"nodes":2,"sockets":1,"missing":[]}`},
				{`{"user":"42","before":"2000-01-01T00:00:00Z"}`, `{"nodes":2,"sockets":0,"missing":[]}`},
				{`{}`, `{"error":"one of \"user\", \"token\" and \"before\" is needed"}`},
				{`{"before":"yesterday"}`, `{"error":"the body is not what is wanted: a time is seconds since 1970`},
				{`{"before":"9999-01-01T00:00:00Z"}`, `{"error":"\"before\" is more than a minute from now, or before 1970"}`},
				{`{"before":-1}`, `{"error":"the body is not what is wanted: a time is seconds since 1970`},
			} {
				if got := a.post("/revoke", testEmitKey, c.body); !strings.HasPrefix(got.body, c.want) {
					t.Errorf("/revoke %s: got %v, want %s", c.body, got, c.want)
				}
			}
			if err := refusalOf(t, a, again); err != "unauthorized" {
				t.Errorf("the token from before: %q", err)
			}
			time.Sleep(2 * time.Millisecond) // so that the next one is issued later
			fresh, _ := mint(t, "42")
			dial(t, client.Options{URL: a.url(), Auth: map[string]string{"token": fresh}})
			if got := a.post("/revoke", testEmitKey, `{"user":42}`); got.body != `{"nodes":2,"sockets":1,"missing":[]}` {
				t.Errorf("/revoke of a user: got %v", got)
			}
			if err := refusalOf(t, b, fresh); err != "unauthorized" {
				t.Errorf("a user who is out: %q", err)
			}
		})
	}
}

// refusalOf is why a client with a token is refused, "" if it is not.
func refusalOf(t *testing.T, p *process, sealed string) string {
	t.Helper()
	_, err := tryDial(t, client.Options{URL: p.url(), Auth: map[string]string{"token": sealed}})
	var refused *client.Refused
	if errors.As(err, &refused) {
		return refused.Message
	}
	if err != nil {
		t.Error(err)
	}
	return ""
}
