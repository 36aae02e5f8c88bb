package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/balancer"
	"tether/internal/client"
)

// connections is how many the node has.
func connections(t *testing.T, p *process) int {
	t.Helper()
	var stats struct{ Connections int }
	got := p.request(http.MethodGet, "/stats", "Bearer "+testEmitKey, "")
	if err := json.Unmarshal([]byte(got.body), &stats); err != nil {
		t.Fatalf("stats: %v, %v", got, err)
	}
	return stats.Connections
}

// twoNodes share a Redis and drain slowly enough to watch.
func twoNodes(t *testing.T, args ...string) (a, b *process) {
	t.Helper()
	environ := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	args = append(args, "--drain.delay=10s", "--drain.window=300ms")
	a, b = start(t, environ, append(args, "--node=a")...), start(t, environ, append(args, "--node=b")...)
	return a.ready(), b.ready()
}

// reaches checks that an event emitted on either node arrives.
func reaches(t *testing.T, c *client.Client, user string, nodes ...*process) {
	t.Helper()
	for i, node := range nodes {
		body := fmt.Sprintf(`{"user":%q,"event":"from","args":[%d]}`, user, i)
		if got := node.post("/emit", testEmitKey, body); got != (answer{http.StatusOK, `{"nodes":1}`}) {
			t.Errorf("emit to %s: got %v", user, got)
		}
		if got, want := next(t, c), fmt.Sprintf("from [%d]", i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestProxiesWithStickySessions(t *testing.T) {
	for _, x := range []balancer.Proxy{balancer.Nginx("nginx.sticky.conf"), balancer.HAProxy("haproxy.sticky.cfg")} {
		t.Run(x.Binary, func(t *testing.T) {
			t.Parallel()
			a, b := twoNodes(t)
			addr := x.Start(t, a.addr, b.addr)
			var all []*client.Client
			for i := range 8 {
				for _, way := range []string{client.WebSocket, client.Polling, client.Upgrade} {
					for _, cookies := range []bool{true, false} {
						o := client.Options{
							URL: "http://" + addr, Transport: way, Cookies: cookies, From: fmt.Sprintf("127.0.1.%d", 1+len(all)),
							Header: http.Header{"Origin": {"http://" + addr}}, // the node has to see the same host
						}
						user := fmt.Sprintf("%s-%v-%d", way, cookies, i)
						c := dialUser(t, o, user)
						reaches(t, c, user, a, b)
						if way == client.Upgrade && c.Transport() != client.WebSocket {
							t.Errorf("%s is on %s", user, c.Transport())
						}
						all = append(all, c)
					}
				}
			}
			onA, onB := connections(t, a), connections(t, b)
			if onA+onB != len(all) || onA == 0 || onB == 0 {
				t.Errorf("%d clients: a has %d, b has %d", len(all), onA, onB)
			}
			onlySocketIO(t, addr)
			drainOne(t, addr, a, b, true)
		})
	}
}

func TestProxiesWithoutStickySessions(t *testing.T) {
	for _, x := range []balancer.Proxy{balancer.Nginx("nginx.plain.conf"), balancer.HAProxy("haproxy.plain.cfg")} {
		t.Run(x.Binary, func(t *testing.T) {
			t.Parallel()
			a, b := twoNodes(t)
			addr := x.Start(t, a.addr, b.addr)
			const clients = 20
			for i := range clients {
				user := fmt.Sprint(i)
				o := client.Options{URL: "http://" + addr, Transport: []string{client.WebSocket, client.Polling}[i%2]}
				reaches(t, dialUser(t, o, user), user, a, b)
			}
			// All come from one address, and are spread all the same.
			if onA, onB := connections(t, a), connections(t, b); onA+onB != clients || min(onA, onB) < clients/4 {
				t.Errorf("a has %d, b has %d", onA, onB)
			}
			onlySocketIO(t, addr)
			drainOne(t, addr, a, b, true)
		})
	}
}

// onlySocketIO checks that what is for the inside cannot be had from outside.
func onlySocketIO(t *testing.T, addr string) {
	t.Helper()
	outside := &process{t: t, addr: addr}
	for _, path := range []string{"/emit", "/emit/batch", "/disconnect", "/stats", "/readyz", "/socket.iox", "/"} {
		if got := outside.post(path, testEmitKey, `{"user":"42","event":"x"}`); got.status != http.StatusNotFound {
			t.Errorf("%s from outside: got %v", path, got)
		}
	}
}

// drainOne ends node a while clients are there: its clients keep what they have until they are told, and
// new ones are served by b.
func drainOne(t *testing.T, addr string, a, b *process, polling bool) {
	t.Helper()
	stayers := map[string]*client.Client{}
	for i := range 6 {
		o := client.Options{URL: "http://" + addr, Cookies: true, From: fmt.Sprintf("127.0.0.%d", 31+i)}
		if polling {
			o.Transport = client.Polling
		}
		user := fmt.Sprintf("stays-%d", i)
		stayers[user] = dialUser(t, o, user)
	}
	a.signal(syscall.SIGTERM)
	a.until("/readyz", http.StatusServiceUnavailable)
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); { // also once the proxy has noticed
		for user, c := range stayers {
			reaches(t, c, user, b)
		}
	}
	if code := a.exit(); code != exitDone {
		t.Errorf("a ended with %d", code)
	}
	for i := range 6 {
		o := client.Options{URL: "http://" + addr, Cookies: true, From: fmt.Sprintf("127.0.0.%d", 51+i)}
		if polling {
			o.Transport = []string{client.Polling, client.Upgrade}[i%2]
		}
		user := fmt.Sprintf("comes-%d", i)
		reaches(t, dialUser(t, o, user), user, b)
	}
}
