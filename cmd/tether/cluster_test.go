package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"tether/internal/backend"
	"tether/internal/client"
)

// TestTwoNodesAreAskedTogether: whichever node is asked, the answer is about both.
func TestTwoNodesAreAskedTogether(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]*backend.Server{"Redis": backend.Redis(t), "NATS": backend.NATS(t)} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			environ := append([]string{"TETHER_BROKER=" + server.URL, "TETHER_PREFIX=" + t.Name()}, enough...)
			a, b := start(t, environ, "--node=a").ready(), start(t, environ, "--node=b").ready()
			alice, bob := dialUser(t, client.Options{URL: a.url()}, "42"), dialUser(t, client.Options{URL: b.url()}, "42")

			out, err := tetherCommand([]string{"nodes", "--json"}, environ[:2]).Output() // no keys are needed
			var listed struct {
				Nodes []struct {
					Name        string
					Connections int
					Draining    bool
				}
				Doubt string
			}
			if err != nil || json.Unmarshal(out, &listed) != nil || fmt.Sprint(listed) != "{[{a 1 false} {b 1 false}] }" {
				t.Errorf("nodes: got %s (%v)", out, err)
			}
			for _, c := range []struct{ path, body, want string }{
				{"/join", `{"user":"42","rooms":["news"]}`, `{"nodes":2,"sockets":2,"missing":[]}`},
				{"/leave", `{"user":"42","rooms":["olds"]}`, `{"nodes":2,"sockets":2,"missing":[]}`},
				{"/sockets", `{"room":"nobody"}`, `{"sockets":[],"more":false,"missing":[]}`},
				{"/sockets", `{"room":"news","limit":-1}`, `{"error":"\"limit\" is -1; 1 to 10000 is right"}`},
				{"/join", `{"user":"42"}`, `{"error":"\"rooms\" is needed, the names of rooms"}`},
				{"/ask", `{"user":"nobody","event":"x"}`, `{"answers":[],"more":false,"missing":[]}`},
			} {
				if got := a.post(c.path, testEmitKey, c.body); got.body != c.want {
					t.Errorf("%s %s: got %v, want %s", c.path, c.body, got, c.want)
				}
			}
			var found struct {
				Sockets []struct {
					ID, Node, Transport string
					Rooms               []string
				}
				More bool
			}
			got := b.post("/sockets", testEmitKey, `{"room":"news","rooms":true}`)
			if err := json.Unmarshal([]byte(got.body), &found); err != nil || got.status != http.StatusOK || len(found.Sockets) != 2 || found.More {
				t.Fatalf("sockets: got %v", got)
			}
			for _, s := range found.Sockets {
				if want := map[string]string{alice.ID: "a", bob.ID: "b"}[s.ID]; s.Node != want || s.Transport != "websocket" || len(s.Rooms) != 3 {
					t.Errorf("got %+v, want it on node %q", s, want)
				}
			}
			if got := b.post("/sockets", testEmitKey, `{"everyone":true,"limit":1}`); !strings.Contains(got.body, `"more":true`) {
				t.Errorf("a limit: got %v", got)
			}
			got = b.post("/ask", testEmitKey, `{"room":"news","event":"question"}`)
			var asked struct {
				Answers []struct{ Socket, Node, Error string }
				Missing []struct{ Node string } // on a busy machine its word may come too late
			}
			err = json.Unmarshal([]byte(got.body), &asked)
			if err != nil || len(asked.Answers)+len(asked.Missing) != 2 || len(asked.Answers) > 0 && asked.Answers[0].Error == "" {
				t.Errorf("ask: got %v", got)
			}
		})
	}
}

// TestTheListOfNodesSaysHowGoodItIs: by its exit code.
func TestTheListOfNodesSaysHowGoodItIs(t *testing.T) {
	t.Parallel()
	environ := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	if out, errs, code := tether(t, environ[:2], "nodes", "--json"); out != "{\"nodes\":[]}\n" || code != exitNobody {
		t.Errorf("without nodes: got %d, %s%s", code, out, errs)
	}
	const url = "http://10.0.0.5:3000"
	start(t, environ, "--node=a", "--relay.peer="+url).ready()
	out, errs, code := tether(t, environ[:2], "nodes")
	if code != exitDone || !strings.Contains(out, "\na ") || !strings.Contains(out, "  "+url+"  up") || strings.Contains(errs, "may be wrong") {
		t.Errorf("with a node: got %d, %s%s", code, out, errs)
	}
}
