package main

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"tether/internal/client"
)

// emitted runs tether emit, and returns its result, or what went wrong, and its exit code.
func emitted(t *testing.T, environ []string, args ...string) (string, int) {
	t.Helper()
	says, warnings, code := tether(t, environ, append([]string{"emit"}, args...)...)
	if says == "" {
		says = warnings
	}
	return strings.TrimSpace(says), code
}

// TestTheReceiptIsTheExitCode: a script knows without reading whether anybody was there.
func TestTheReceiptIsTheExitCode(t *testing.T) {
	t.Parallel()
	for name, server := range brokers(t) {
		t.Run(name, func(t *testing.T) {
			environ := append([]string{"TETHER_BROKER=" + server.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
			p := start(t, environ, "--namespaces=/,/news").ready()
			c := dialUser(t, client.Options{URL: p.url()}, "42")
			reader := dialUser(t, client.Options{URL: p.url(), Namespace: "/news"}, "42")
			environ = environ[:2] // no keys are needed
			one := map[string]string{"Redis": "1 node took it", "NATS": "1 node or more took it"}[name]
			for _, x := range []struct {
				args  []string
				says  string
				code  int
				to    *client.Client
				event string
			}{
				{[]string{"user:42", "/users/ping", `{"hello":"world"}`}, one, exitDone, c, `/users/ping [{"hello":"world"}]`},
				{[]string{"user:42", "two", "1", `"zwei"`}, one, exitDone, c, `two [1,"zwei"]`},
				{[]string{"--", "everyone", "negative", "-1"}, one, exitDone, c, `negative [-1]`},
				{[]string{"socket:" + c.ID, "socket", "--json"}, oneNode(name).body, exitDone, c, `socket []`},
				{[]string{"user:42", "read", "--namespace=/news"}, one, exitDone, reader, `read []`},
				{[]string{"user:43", "x"}, "nobody is there", exitNobody, nil, ""},
				{[]string{"room:user:42", "x"}, "nobody is there", exitNobody, nil, ""},
				{[]string{"user:43", "x", "--json"}, `{"nodes":0}`, exitNobody, nil, ""},
			} {
				if says, code := emitted(t, environ, x.args...); says != x.says || code != x.code {
					t.Errorf("%q: got %q and %d, want %q and %d", x.args, says, code, x.says, x.code)
					continue
				}
				if x.to == nil {
					continue
				}
				if got := next(t, x.to); got != x.event && !(x.to == c && got == "negative [-1]") {
					t.Errorf("%q: got %s, want %s", x.args, got, x.event)
				}
			}
		})
	}
}

// TestAnEmitThatFails says what to do, and shows neither the payload nor the password.
func TestAnEmitThatFails(t *testing.T) {
	t.Parallel()
	gone, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := "redis://:hunter2@" + gone.Addr().String()
	gone.Close()
	for _, x := range []struct {
		args []string
		says string
		code int
	}{
		{[]string{"--broker=" + nobody, "user:42", "x", `"hunter2"`}, "connection refused", exitFailed},
		{[]string{"--broker=" + nobody, "user:42", "disconnect"}, `"disconnect" is reserved`, exitMistake},
		{[]string{"--broker=" + nobody, "--emit.events=a,b", "user:42", "x"}, `"x" is none of the events that may be emitted`, exitMistake},
		{[]string{"--broker=" + nobody, "--emit.events=a,x", "user:42", "x"}, "connection refused", exitFailed},
		{[]string{"--broker=" + nobody, "user:42", "x", "hunter2"}, "argument 1 of the event is not JSON", exitMistake},
		{[]string{"--broker=" + nobody, "42", "x"}, "user:42, room:news, socket:ID or everyone is right", exitMistake},
		{[]string{"--broker=" + nobody, "user:", "x"}, "user:42, room:news, socket:ID or everyone is right", exitMistake},
		{[]string{"user:42", "x"}, "memory:// reaches nobody outside of this process", exitMistake},
		{[]string{"--broker=" + nobody, "user:42"}, "<event> is missing", exitMistake},
	} {
		says, code := emitted(t, nil, x.args...)
		if code != x.code || !strings.Contains(says, x.says) || strings.Contains(says, "hunter2") {
			t.Errorf("%q: got %q and %d, want %q and %d", x.args, says, code, x.says, x.code)
		}
	}
}

// eventually asks again until it is so.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(20 * time.Millisecond) { // there is nothing to wait on but the answer itself
		if time.Now().After(deadline) {
			t.Fatalf("it is not so that %s", what)
		}
	}
}

// TestTheReceiptSaysWhetherAClientIsConnected, where it is asked: a node that only waits for a client took the event as well.
func TestTheReceiptSaysWhetherAClientIsConnected(t *testing.T) {
	t.Parallel()
	for name, server := range brokers(t) {
		t.Run(name, func(t *testing.T) {
			environ := append([]string{"TETHER_BROKER=" + server.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
			p := start(t, environ, "--recovery.on").ready()
			environ = environ[:2]
			one := map[string]string{"Redis": "1 node took it; ", "NATS": "1 node or more took it; "}[name]
			nodes := strings.TrimSuffix(oneNode(name).body, "}")
			expect := func(live int, says string, code int) {
				t.Helper()
				for _, x := range []struct {
					args []string
					says string
				}{
					{[]string{"--live", "user:42", "x"}, one + says},
					{[]string{"--live", "user:42", "x", "--json"}, fmt.Sprintf(`%s,"live":{"nodes":%d}}`, nodes, live)},
				} {
					eventually(t, "the nodes say it", func() bool { // a busy machine may not answer in time
						got, exit := emitted(t, environ, x.args...)
						if got == x.says && exit == code {
							return true
						}
						if exit != exitUnknown {
							t.Fatalf("%q: got %q and %d, want %q and %d", x.args, got, exit, x.says, code)
						}
						return false
					})
				}
				for path, x := range map[string][2]string{
					"/emit": {`{"user":"42","event":"x","live":true}`, fmt.Sprintf(`%s,"live":{"nodes":%d}}`, nodes, live)},
					"/emit/batch": {`{"users":["42","43"],"event":"x","live":true}`,
						strings.Replace(nodes, ":1", ":[1,0]", 1) + fmt.Sprintf(`,"nobody":1,"live":{"nodes":[%d,0],"nobody":%d}}`, live, 2-live)},
				} {
					eventually(t, path+" says it", func() bool {
						got := p.post(path, testEmitKey, x[0]).body
						if got != x[1] && !strings.Contains(got, "null") {
							t.Fatalf("%s: got %s, want %s", path, got, x[1])
						}
						return got == x[1]
					})
				}
			}
			c := dial(t, client.Options{URL: p.url(), Auth: map[string]any{"token": tokenFor(t, "42", time.Hour), "recovery": true}})
			expect(1, "clients are connected at 1", exitDone)
			c.Close()
			eventually(t, "the session waits", func() bool {
				return strings.Contains(p.request("GET", "/stats", "Bearer "+testEmitKey, "").body, `"parked":1`)
			})
			expect(0, "no client is connected", exitNobody)
		})
	}
}
