package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"tether/internal/client"
)

func TestEmitReachesTheUserAndSaysWhetherAnybodyWasThere(t *testing.T) {
	p := start(t, enough, "--namespaces=/,/news", "--node=a").ready()
	alice := dialUser(t, client.Options{URL: p.url()}, "42")
	reader := dialUser(t, client.Options{URL: p.url(), Namespace: "/news", Transport: client.Polling}, "42")

	for _, c := range []struct {
		path, body, want string
		to               *client.Client
		event            string
	}{
		{"/emit", `{"user":"42","event":"/users/ping","args":[{"hello":"world"}]}`, `{"nodes":1}`, alice, `/users/ping [{"hello":"world"}]`},
		{"/emit", `{"user":42,"event":"number","args":[1,"zwei",null]}`, `{"nodes":1}`, alice, `number [1,"zwei",null]`},
		{"/emit", `{"socket":"` + alice.ID + `","event":"socket"}`, `{"nodes":1}`, alice, `socket []`},
		{"/emit", `{"room":"user:42","event":"a room is no user's, whatever its name"}`, `{"nodes":0}`, nil, ""},
		{"/emit", `{"everyone":true,"event":"all"}`, `{"nodes":1}`, alice, `all []`},
		{"/emit", `{"user":"42","namespace":"/news","event":"read"}`, `{"nodes":1}`, reader, `read []`},
		{"/emit", `{"user":"43","event":"nobody"}`, `{"nodes":0}`, nil, ""},
		{"/emit/batch", `{"users":["41",42],"rooms":["x"],"event":"batch","args":[7]}`, `{"nodes":[0,1,0],"nobody":2}`, alice, `batch [7]`},
	} {
		if got, want := p.post(c.path, testEmitKey, c.body), (answer{http.StatusOK, c.want}); got != want {
			t.Errorf("%s %s: got %v, want %v", c.path, c.body, got, want)
		}
		if c.to == nil {
			continue
		}
		if got := next(t, c.to); got != c.event {
			t.Errorf("%s %s: got %s, want %s", c.path, c.body, got, c.event)
		}
	}

	var stats struct {
		Node        string
		Connections int
		Hub         struct {
			Connections, Delivered int
			Questions              map[string]int
		}
		Transport map[string]int
	}
	got := p.request(http.MethodGet, "/stats", "Bearer "+testEmitKey, "")
	if err := json.Unmarshal([]byte(got.body), &stats); err != nil || stats.Node != "a" || stats.Connections != 2 ||
		stats.Hub.Connections != 2 || stats.Hub.Delivered == 0 || stats.Hub.Questions["left"] != 0 || stats.Transport["sessions"] != 2 || stats.Transport["slow"] != 0 {
		t.Errorf("stats: got %v, %v", got, err)
	}
	got = p.request(http.MethodGet, "/metrics", "Bearer "+testEmitKey, "")
	if got.status != http.StatusOK || !strings.Contains(got.body, "\ntether_connections 2\n") || !strings.Contains(got.body, "\ngo_goroutines ") {
		t.Errorf("metrics: got %v", got)
	}
	if got := p.post("/disconnect", testEmitKey, `{"user":"42","close":true}`); got != (answer{http.StatusOK, `{"nodes":1,"sockets":1,"missing":[]}`}) {
		t.Errorf("disconnect: got %v", got)
	}
	if why := alice.Reason(); why != "disconnected by the server" {
		t.Errorf("the client ended because: %s", why)
	}
}

func TestABatchOfThousandsOfUsersIsOneCall(t *testing.T) {
	const users = 5000
	p := start(t, enough).ready()
	first := dialUser(t, client.Options{URL: p.url()}, "0")
	last := dialUser(t, client.Options{URL: p.url()}, fmt.Sprint(users-1))
	ids := make([]string, users)
	for i := range ids {
		ids[i] = fmt.Sprint(i)
	}
	body, err := json.Marshal(map[string]any{"users": ids, "event": "all", "args": []int{1}})
	if err != nil {
		t.Fatal(err)
	}
	got := p.post("/emit/batch", testEmitKey, string(body))
	var out struct {
		Nodes  []int
		Nobody int
	}
	if err := json.Unmarshal([]byte(got.body), &out); err != nil || got.status != http.StatusOK {
		t.Fatalf("got %d %.200s, %v", got.status, got.body, err)
	}
	if len(out.Nodes) != users || out.Nobody != users-2 || out.Nodes[0] != 1 || out.Nodes[users-1] != 1 {
		t.Errorf("got %d receipts, nobody %d, first %d, last %d", len(out.Nodes), out.Nobody, out.Nodes[0], out.Nodes[users-1])
	}
	for _, c := range []*client.Client{first, last} {
		if got := next(t, c); got != "all [1]" {
			t.Errorf("got %s", got)
		}
	}
}

func TestOnlyABearerKeyOpensTheAPI(t *testing.T) {
	p := start(t, []string{"TETHER_AUTH_KEYS=" + testTokenKey, "TETHER_EMIT_KEYS=" + testEmitKey + ",another-key-for-tests"}).ready()
	const body = `{"user":"42","event":"x"}`
	for _, c := range []struct {
		authorization string
		want          int
	}{
		{"", 401},
		{"Bearer", 401},
		{"Bearer ", 401},
		{"Bearer wrong-key-for-tests-only", 401},
		{"Bearer " + testEmitKey[:len(testEmitKey)-1], 401},
		{"Bearer " + testEmitKey + "x", 401},
		{"Basic " + testEmitKey, 401},
		{testEmitKey, 401},
		{"Bearer " + testEmitKey, 200},
		{"bearer " + testEmitKey, 200},
		{"Bearer another-key-for-tests", 200},
	} {
		for _, path := range []string{"/emit", "/emit/batch", "/disconnect"} {
			got := p.request(http.MethodPost, path, c.authorization, body)
			if c.want == 200 && path == "/emit/batch" {
				continue // the body is not one
			}
			if c.want == 200 && path == "/disconnect" {
				continue
			}
			if got.status != c.want {
				t.Errorf("%s with %q: got %v, want %d", path, c.authorization, got, c.want)
			}
		}
	}
	for _, path := range []string{"/stats", "/metrics"} {
		if got := p.get(path); got.status != 401 {
			t.Errorf("%s without a key: got %v", path, got)
		}
	}
}

func TestWhatCannotBeEmittedIsRefusedWithAReason(t *testing.T) {
	p := start(t, enough, "--emit.events=/users/ping,other", "--emit.max-body=2048", "--emit.max-targets=2").ready()
	for _, c := range []struct {
		path, body string
		want       int
		says       string
	}{
		{"/emit", ``, 400, "body"},
		{"/emit", `{`, 400, "body"},
		{"/emit", `[]`, 400, "body"},
		{"/emit", `{"user":"42","event":"other"} {}`, 400, "goes on"},
		{"/emit", `{"usr":"42","event":"other"}`, 400, `"usr"`},
		{"/emit", `{"event":"other"}`, 400, `"user"`},
		{"/emit", `{"user":"42","room":"x","event":"other"}`, 400, "no more"},
		{"/emit", `{"user":"","event":"other"}`, 400, "empty"},
		{"/emit", `{"user":{},"event":"other"}`, 400, "string or a number"},
		{"/emit", `{"room":"","event":"other"}`, 400, "everyone"},
		{"/emit", `{"socket":"42","event":"other"}`, 400, "not the ID of a socket"},
		{"/emit", `{"user":"42"}`, 400, `"event" is needed`},
		{"/emit", `{"user":"42","event":""}`, 400, `"event" is needed`},
		{"/emit", `{"user":"42","event":7}`, 400, `"event" is not what is wanted: a number, where a string is right`},
		{"/emit", `{"everyone":"yes","event":"other"}`, 400, `"everyone" is not what is wanted: a string, where true or false is right`},
		{"/emit", `{"user":"42","event":"undeclared"}`, 400, "declared"},
		{"/emit", `{"user":"42","event":"disconnect"}`, 400, "event"},
		{"/emit", `{"user":"42","event":"other","namespace":"/nobody"}`, 400, "namespace"},
		{"/emit", `{"user":"42","event":"other","args":{}}`, 400, `"args" is not what is wanted: an object, where an array is right`},
		{"/emit", `{"user":"42","event":"other","args":["` + strings.Repeat("x", 3000) + `"]}`, 413, "2048"},
		{"/emit/batch", `{"event":"other"}`, 400, "users"},
		{"/emit/batch", `{"users":["1"]}`, 400, `"event" is needed`},
		{"/emit/batch", `{"users":"1","event":"other"}`, 400, `"users"`},
		{"/emit/batch", `{"users":["1","2","3"],"event":"other"}`, 400, "limit is 2"},
		{"/emit/batch", `{"users":[""],"event":"other"}`, 400, "empty"},
		{"/emit/batch", `{"rooms":[""],"event":"other"}`, 400, "everyone"},
		{"/disconnect", `{}`, 400, "user"},
	} {
		got := p.post(c.path, testEmitKey, c.body)
		var out struct{ Error string }
		if err := json.Unmarshal([]byte(got.body), &out); err != nil || got.status != c.want || !strings.Contains(out.Error, c.says) || out.Error == "" {
			t.Errorf("%s %.60s: got %v, want %d and %q", c.path, c.body, got, c.want, c.says)
		}
	}
	for path, method := range map[string]string{"/emit": "GET", "/emit/batch": "PUT", "/disconnect": "DELETE", "/stats": "POST"} {
		got := p.request(method, path, "Bearer "+testEmitKey, "")
		if got.status != http.StatusMethodNotAllowed || !strings.HasPrefix(got.body, `{"error":"the method is `) {
			t.Errorf("%s %s: got %v", method, path, got)
		}
	}
}

func TestWithoutTheAPIThereIsNone(t *testing.T) {
	p := start(t, []string{"TETHER_AUTH_MODE=none", "TETHER_EMIT_ENABLED=false"}).ready()
	if got := p.post("/emit", testEmitKey, `{"user":"42","event":"x"}`); got.status != http.StatusNotFound {
		t.Errorf("got %v", got)
	}
	dial(t, client.Options{URL: p.url(), Auth: map[string]string{"token": "whatever"}}) // nobody looks at it
}
