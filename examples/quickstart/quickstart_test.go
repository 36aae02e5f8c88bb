package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"tether/examples/internal/exampletest"
	"tether/internal/backend"
	"tether/internal/long"
	"tether/token"
)

// start runs the quickstart on two free ports and returns the URLs of its nodes.
func start(t *testing.T, args ...string) (a, b, guide string) {
	t.Helper()
	guide, _ = exampletest.Start(t, run, append([]string{"-addr", "127.0.0.1:0,127.0.0.1:0"}, args...)...)
	urls := regexp.MustCompile(`(?m)^  node \d+   (\S+)$`).FindAllStringSubmatch(guide, -1)
	if len(urls) != 2 {
		t.Fatalf("no two nodes in: %s", guide)
	}
	return urls[0][1], urls[1][1], guide
}

func login(t *testing.T, node, user string) string {
	t.Helper()
	status, body := exampletest.Post(t, node+"/login", exampletest.JSON(map[string]string{"user": user}))
	if status != http.StatusOK {
		t.Fatalf("login: %d %s", status, body)
	}
	return body // {"token":…} is what the page shows the hub, too
}

const (
	greeting = `42["/ops/connection-success",{"message":"Successfully connected"}]`
	nobody   = `{"receipt":"nobody is there","nodes":0}`
	ping     = `{"user":"bob","event":"/users/ping","args":[{"hello":"world"}]}`
)

func TestWhatIsEmittedOnOneNodeArrivesOnTheOther(t *testing.T) {
	for name, broker := range map[string]string{"memory": "memory://", "redis": backend.Redis(t).URL, "nats": backend.NATS(t).URL} {
		t.Run(name, func(t *testing.T) {
			a, b, _ := start(t, "-broker", broker)
			bob := exampletest.Connect(t, b, login(t, a, "bob"))
			bob.Want(`40{"sid":"…`, greeting)

			for _, node := range []string{a, b} {
				status, body := exampletest.Post(t, node+"/emit", ping)
				if name == "nats" { // its receipt is a lower bound
					body = strings.Replace(body, "1 node or more", "1 node", 1)
				}
				if status != http.StatusOK || body != `{"receipt":"1 node took it","nodes":1}` && !late(name, body) {
					t.Errorf("emit: %d %s", status, body)
				}
				bob.Want(`42["/users/ping",{"hello":"world"}]`)
			}
			if status, body := exampletest.Post(t, a+"/emit", `{"user":"carol","event":"x"}`); status != http.StatusOK || body != nobody && !late(name, body) {
				t.Errorf("emit: %d %s", status, body)
			}
		})
	}
}

// late reports whether NATS has not answered within a second, as on a machine that has other work.
func late(broker, body string) bool {
	return broker == "nats" && strings.Contains(body, "the broker cannot tell") && long.Limit(time.Second) > time.Second
}

func TestTheReceiptSaysThatNobodyIsThere(t *testing.T) {
	a, _, _ := start(t)
	if status, body := exampletest.Post(t, a+"/emit", ping); status != http.StatusOK || body != nobody {
		t.Errorf("emit: %d %s", status, body)
	}
}

func TestTheGuideHasACurlLineThatWorks(t *testing.T) {
	_, _, guide := start(t)
	curl := regexp.MustCompile(`(?m)^  curl -d '(.*)' (\S+)$`).FindStringSubmatch(guide)
	if curl == nil {
		t.Fatalf("no curl line in: %s", guide)
	}
	if status, body := exampletest.Post(t, curl[2], curl[1]); status != http.StatusOK || !strings.Contains(body, "nobody is there") {
		t.Errorf("%s: %d %s", curl[0], status, body)
	}
}

func TestATokenOfSomebodyElseIsRefused(t *testing.T) {
	a, _, _ := start(t)
	key, err := token.NewKey(token.GenerateKey())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := token.NewKeyring(key).SealUser("bob", tokenLife)
	if err != nil {
		t.Fatal(err)
	}
	for _, auth := range []string{"", "{}", `{"token":"x"}`, `{"token":1}`, exampletest.JSON(map[string]string{"token": foreign})} {
		exampletest.Connect(t, a, auth).Want(`44{"message":"unauthorized"}`)
	}
}

func TestTwoProcessesAreOneHub(t *testing.T) {
	server := backend.Redis(t)
	one := func() (url, name string) {
		guide, _ := exampletest.Start(t, run, "-addr", "127.0.0.1:0", "-broker", server.URL)
		node := regexp.MustCompile(`(?m)^  node (\S+)   (\S+)$`).FindStringSubmatch(guide)
		if node == nil || !strings.Contains(guide, "1 node in this process") {
			t.Fatalf("no node in: %s", guide)
		}
		return node[2], node[1]
	}
	a, nameOfA := one()
	b, nameOfB := one()
	if nameOfA == nameOfB {
		t.Errorf("both are called node %s", nameOfA)
	}
	bob := exampletest.Connect(t, b, login(t, a, "bob"))
	bob.Want(`40{"sid":"…`, greeting)
	if status, body := exampletest.Post(t, a+"/emit", ping); status != http.StatusOK || body != `{"receipt":"1 node took it","nodes":1}` {
		t.Errorf("emit: %d %s", status, body)
	}
	bob.Want(`42["/users/ping",{"hello":"world"}]`)
}

func TestThePageIsToldThatTheBrokerIsAway(t *testing.T) {
	server := backend.Redis(t)
	a, _, _ := start(t, "-broker", server.URL)
	until := func(want int) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for status := 0; status != want; status, _ = exampletest.Get(t, a+"/ready") {
			if time.Now().After(deadline) {
				t.Fatalf("/ready answers %d, want %d", status, want)
			}
		}
	}
	until(http.StatusOK)
	server.Stop()
	until(http.StatusServiceUnavailable)
	server.Start()
	until(http.StatusOK)
}

func TestBadRequestsAreAnsweredWithAnError(t *testing.T) {
	a, _, _ := start(t)
	for path, bodies := range map[string][]string{
		"/emit":  {"", "{", "[]", "{}", `{"user":"bob"}`, `{"event":"x"}`, `{"user":1,"event":"x"}`, `{"user":"bob","event":"disconnect"}`},
		"/login": {"", "{}", `{"user":""}`, `{"user":1}`},
	} {
		for _, body := range bodies {
			var failed failure
			status, text := exampletest.Post(t, a+path, body)
			if status != http.StatusBadRequest || json.Unmarshal([]byte(text), &failed) != nil || failed.Error == "" {
				t.Errorf("%s %.40s: %d %s", path, body, status, text)
			}
		}
	}
}

func TestARequestThatIsTooLargeIsCalledSo(t *testing.T) {
	a, _, _ := start(t)
	for _, path := range []string{"/emit", "/login"} {
		status, text := exampletest.Post(t, a+path, `{"user":"`+strings.Repeat("x", maxBody)+`"}`)
		if want := `{"error":"the request is too large: this page takes 64 KiB"}`; status != http.StatusRequestEntityTooLarge || text != want {
			t.Errorf("%s: %d %s, want %s", path, status, text, want)
		}
	}
}

func TestAPageOfAnotherSiteCannotEmit(t *testing.T) {
	a, _, _ := start(t)
	r, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, a+"/emit", strings.NewReader(ping))
	r.Header.Set("Origin", "https://elsewhere.example")
	answer, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusForbidden {
		t.Errorf("status %d, want 403", answer.StatusCode)
	}
}

func TestThePageNamesItsNodeAndLinksTheOther(t *testing.T) {
	a, b, _ := start(t)
	for _, node := range []string{a, b} {
		status, page := exampletest.Get(t, node+"/")
		_, port, _ := strings.Cut(node, "127.0.0.1:")
		for _, want := range []string{`data-node="` + port + `"`, `href="` + a + `"`, `href="` + b + `"`} {
			if status != http.StatusOK || !strings.Contains(page, want) {
				t.Errorf("page of %s: %d, no %s", node, status, want)
			}
		}
		for _, file := range []string{"/app.js", "/style.css", "/socket.io.min.js"} {
			if status, _ := exampletest.Get(t, node+file); status != http.StatusOK {
				t.Errorf("%s: %d", file, status)
			}
		}
	}
}

func TestATakenPortIsSaidInAFriendlyWay(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	err = run(context.Background(), []string{"-addr", "127.0.0.1:0," + taken.Addr().String()}, io.Discard, io.Discard)
	want := taken.Addr().String() + " is taken by another program; choose another address with -addr"
	if err == nil || err.Error() != want {
		t.Errorf("run = %v, want %s", err, want)
	}
}

func TestHelpTeaches(t *testing.T) {
	var help strings.Builder
	if err := run(context.Background(), []string{"-h"}, io.Discard, &help); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"-broker redis://", "-broker nats://", "-addr"} {
		if !strings.Contains(help.String(), want) {
			t.Errorf("no %q in:\n%s", want, &help)
		}
	}
}

func TestOneCauseIsToldOnce(t *testing.T) {
	err := run(context.Background(), []string{"-addr", "127.0.0.1:0,127.0.0.1:0", "-broker", "redis://127.0.0.1:1"}, io.Discard, io.Discard)
	if err == nil || strings.Count(err.Error(), "broker: open") != 1 || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v", err)
	}
	for _, args := range [][]string{{"-nope"}, {"127.0.0.1:3000"}} {
		var out strings.Builder
		err := run(context.Background(), args, io.Discard, &out)
		if err == nil || !strings.HasSuffix(err.Error(), "; -h explains") || out.Len() > 0 {
			t.Errorf("%v: got %v, and printed %q", args, err, out.String())
		}
	}
}

func TestAMistypedBrokerIsAnError(t *testing.T) {
	for _, broker := range []string{"redos://localhost", "redis://user:secret@[", "localhost"} {
		err := run(context.Background(), []string{"-addr", "127.0.0.1:0", "-broker", broker}, io.Discard, io.Discard)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("-broker %s: %v", broker, err)
		}
	}
}
