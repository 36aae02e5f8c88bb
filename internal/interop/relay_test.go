package interop

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/internal/balancer"
	"tether/internal/long"
	"tether/transport"
)

// threeNodes starts nodes that pass requests on.
func threeNodes(t *testing.T, peer bool, wait time.Duration) (nodes []*node) {
	t.Helper()
	bus := memory.NewBus()
	for _, name := range []string{"A", "B", "C"} {
		nodes = append(nodes, serve(t, setup{name: name, bus: bus, relay: true, peer: peer, transport: transport.Options{UpgradeWait: wait}}))
	}
	acquainted(t, nodes)
	return nodes
}

// acquainted returns when all nodes know each other.
func acquainted(t *testing.T, nodes []*node) {
	t.Helper()
	for _, n := range nodes {
		eventually(t, "node "+n.hub.Node()+" knows all the others", func() bool {
			list, err := n.hub.Members()
			return err == nil && len(list) == len(nodes)
		})
	}
}

// inTurn is the URL of a proxy that sends each request to the next node.
func inTurn(t *testing.T, nodes []*node) string {
	var targets []*url.URL
	for _, n := range nodes {
		u, err := url.Parse(n.url)
		if err != nil {
			t.Fatal(err)
		}
		targets = append(targets, u)
	}
	var turn atomic.Uint64
	connections := &http.Transport{}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(targets[turn.Add(1)%uint64(len(targets))])
			r.Out.Host = r.In.Host
		},
		Transport:     connections,
		FlushInterval: -1,
		ErrorHandler:  func(w http.ResponseWriter, _ *http.Request, _ error) { w.WriteHeader(http.StatusBadGateway) },
	})
	t.Cleanup(func() {
		proxy.CloseClientConnections()
		proxy.Close()
		connections.CloseIdleConnections()
	})
	return proxy.URL
}

// TestARoundRobinProxyIsEnough has clients with all transports before three nodes, none of which is theirs.
func TestARoundRobinProxyIsEnough(t *testing.T) {
	t.Parallel()
	for name, peer := range long.Or(map[string]bool{"broker": false}, map[string]bool{"broker": false, "HTTP": true}) {
		t.Run(name, func(t *testing.T) { roundRobin(t, peer, inTurn) })
	}
}

// TestRealProxiesInRoundRobinAreEnough is the same with the proxies that people have.
func TestRealProxiesInRoundRobinAreEnough(t *testing.T) {
	t.Parallel()
	for _, x := range long.Or(proxies[:1], proxies) {
		t.Run(x.Binary, func(t *testing.T) {
			roundRobin(t, false, func(t *testing.T, nodes []*node) string {
				return "http://" + x.RoundRobin(t, nodes[0].addr, nodes[1].addr, nodes[2].addr)
			})
		})
	}
}

var proxies = []balancer.Proxy{balancer.Nginx("nginx.plain.conf"), balancer.HAProxy("haproxy.plain.cfg")}

// roundRobin has clients before three nodes, with a proxy in between that front starts. Clients that upgrade are waited
// for, and land on any node.
func roundRobin(t *testing.T, peer bool, front func(t *testing.T, nodes []*node) string) {
	upgrading := &node{url: front(t, threeNodes(t, peer, 20*time.Second))}
	polling := &node{url: front(t, threeNodes(t, peer, 0))}
	everyWay(t, func(t *testing.T, w way) {
		front := polling
		if w.transports == "default" {
			front = upgrading
		}
		room := t.Name()
		var all []*client
		for range 4 {
			c := w.dial(t, front, "", nil)
			c.on(t, "connect")
			if got := c.next(t); got.Event != "welcome" {
				t.Fatalf("got %v", got)
			}
			joinRoom(t, room, c)
			want := map[string]string{"default": "websocket"}[w.transports]
			if got := c.call(t, "transport")[0]; want != "" && got != want {
				t.Errorf("it is on %v", got)
			}
			all = append(all, c)
		}
		for _, c := range all {
			for _, args := range values() {
				c.emit(t, "echo", args...)
				c.event(t, "echo-back", args...)
			}
		}
		for i := range 50 {
			all[i%len(all)].emit(t, "to-room", room, "x", i, bin(byte(i)))
			for _, c := range all {
				c.event(t, "x", i, bin(byte(i)))
			}
		}
		for i := range 200 {
			all[0].emit(t, "to-room", room, "seq", i)
		}
		for n, c := range all {
			for i := range 200 {
				if got := c.next(t); got.Event != "seq" || fmt.Sprint(got.Args) != fmt.Sprint([]any{float64(i)}) {
					t.Fatalf("client %d: got %v, want number %d", n, got, i)
				}
			}
			c.quiet(t)
		}
	})
}
