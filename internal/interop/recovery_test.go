package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/faultproxy"
	"tether/internal/long"
	"tether/transport"
)

// recoverers are the clients that know connection state recovery.
var recoverers = []*kind{
	kinds[0],
	{name: "npm 4.7.5", js: true, active: true, start: func() (*driver, error) { return startNode("socket.io-client-4.7") }},
	{name: "npm 4.6.2", js: true, active: true, start: func() (*driver, error) { return startNode("socket.io-client-4.6") }},
}

// everyRecoverer runs a test with every client that knows recovery over every transport.
func everyRecoverer(t *testing.T, test func(t *testing.T, w way)) {
	for _, k := range long.Or(recoverers[:1], recoverers) {
		t.Run(k.name, func(t *testing.T) {
			d, err := drivers.get(k)
			need(t, err)
			for _, transport := range allTransports {
				t.Run(transport, func(t *testing.T) { test(t, way{kind: k, d: d, transports: transport}) })
			}
		})
	}
}

var (
	recovery = hub.Recovery{On: true}
	asks     = map[string]any{"auth": map[string]any{"recovery": true}}
)

// quiet is a namespace that says nothing by itself.
func quiet(h *hub.Hub) {
	h.Of("/quiet").On("join", func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		if err := s.Join(ctx, hub.Room("r")); err != nil {
			return err
		}
		return m.Ack("ok")
	})
}

// missed reads an event of a client that has a session: behind its arguments it has a position.
func (c *client) missed(t testing.TB, event string, args ...any) {
	t.Helper()
	l := c.next(t)
	if n := len(l.Args) - 1; n >= 0 {
		if _, ok := l.Args[n].(string); ok {
			l.Args = l.Args[:n]
		}
	}
	if want := plain(args); l.Event != event || fmt.Sprint(l.Args) != fmt.Sprint(want) {
		t.Fatalf("%s: got %v, want event %q %.300v", c.name, l, event, want)
	}
}

func toRoom(t testing.TB, n *node, event string, args ...any) {
	t.Helper()
	if _, err := n.hub.Emitter().In("/quiet").Emit(t.Context(), hub.Room("r"), event, args...); err != nil {
		t.Fatal(err)
	}
}

func TestAClientComesBackToItsSession(t *testing.T) {
	n := serve(t, setup{recovery: recovery, install: quiet})
	everyRecoverer(t, func(t *testing.T, w way) {
		c := w.dial(t, n, "/quiet", asks)
		first := c.on(t, "connect")
		if c.call(t, "join"); first.Recovered {
			t.Error("a new client is recovered")
		}
		settle(t, w, c)
		gone := func() {
			t.Helper()
			c.tell(t, "lose")
			c.on(t, "disconnect")
		}
		back := func() {
			t.Helper()
			if l := c.on(t, "connect"); !l.Recovered || l.SID != first.SID {
				t.Fatalf("recovered: %t, the socket is %s and was %s", l.Recovered, l.SID, first.SID)
			}
		}
		gone() // it has had no event yet
		toRoom(t, n, "x", 1)
		back()
		c.missed(t, "x", 1)
		toRoom(t, n, "x", 2, hub.Binary{1, 2})
		c.missed(t, "x", 2, bin(1, 2))
		gone()
		for i := range 100 {
			toRoom(t, n, "x", i, hub.Binary{byte(i)})
		}
		back()
		for i := range 100 {
			c.missed(t, "x", i, bin(byte(i)))
		}
		toRoom(t, n, "x", "live")
		c.missed(t, "x", "live")
		if _, err := n.hub.Emitter().In("/quiet").Volatile().Emit(t.Context(), hub.Room("r"), "v", "text"); err != nil {
			t.Fatal(err)
		}
		toRoom(t, n, "x", 3) // the client may not have been ready for the other
		l := c.next(t)
		if l.Event == "v" {
			l = c.next(t)
		}
		if l.Event != "x" {
			t.Fatalf("got %v", l)
		}
		gone()
		toRoom(t, n, "x", 4)
		back()
		c.missed(t, "x", 4)
		c.quiet(t)
	})
}

func TestAHalfOpenLinkIsTakenOver(t *testing.T) {
	n := serve(t, setup{recovery: recovery, install: quiet})
	everyRecoverer(t, func(t *testing.T, w way) {
		proxy := faultproxy.New(t, n.addr)
		c := w.d.dial(t, "http://"+proxy.Addr(), "/quiet", w.options(asks))
		sid := c.on(t, "connect").SID
		c.call(t, "join")
		settle(t, w, c)
		proxy.Hold(faultproxy.Both) // the server does not hear of what the client does, and the client gets nothing
		toRoom(t, n, "x", 1)
		c.d.must(t, map[string]any{"do": "move", "client": c.name, "url": n.url + "/quiet"})
		c.tell(t, "lose")
		c.on(t, "disconnect")
		if l := c.on(t, "connect"); !l.Recovered || l.SID != sid {
			t.Fatalf("recovered: %t, the socket is %s and was %s", l.Recovered, l.SID, sid)
		}
		c.missed(t, "x", 1)
		toRoom(t, n, "x", 2)
		c.missed(t, "x", 2)
	})
}

// TestAClientBehindAWeakLinkMissesNothing cuts the connection of a client again and again while it is sent numbers.
// The stock client stops polling when it goes over to a WebSocket, and does not begin again if that is cut just
// then: the heartbeat finds it, and is short here.
func TestAClientBehindAWeakLinkMissesNothing(t *testing.T) {
	n := serve(t, setup{recovery: recovery, install: quiet, transport: transport.Options{
		PingInterval: time.Second, PingTimeout: 2 * time.Second,
	}})
	everyRecoverer(t, func(t *testing.T, w way) {
		events := long.Or(2_000, 20_000)
		proxy := faultproxy.New(t, n.addr)
		c := w.d.dial(t, "http://"+proxy.Addr(), "/quiet", w.options(asks))
		c.on(t, "connect")
		c.call(t, "join")
		var got atomic.Int64
		go func() { // the events that it emits are all awaited below
			for i := range events {
				for int64(i)-got.Load() > 500 {
					time.Sleep(time.Millisecond)
				}
				n.hub.Emitter().In("/quiet").Emit(context.Background(), hub.Room("r"), "x", i)
			}
		}()
		recovered := 0
		for want := 0; want < events; {
			switch l := c.next(t); {
			case l.On == "connect" && !l.Recovered:
				t.Fatalf("a client is not recovered: %+v", n.hub.Stats())
			case l.On == "connect":
				recovered++
			case l.On != "":
			case l.Event != "x" || len(l.Args) != 2 || int(l.Args[0].(float64)) != want:
				t.Fatalf("got %v, want number %d", l, want)
			default:
				want++
				got.Store(int64(want))
				if want%101 == 0 {
					proxy.Cut()
				}
			}
		}
		t.Logf("%d events, recovered %d times", events, recovered)
	})
}

// TestPythonDoesNotNoticeRecovery has python-socketio, which knows nothing of it and stumbles over one more
// argument, beside a client that has asked.
func TestPythonDoesNotNoticeRecovery(t *testing.T) {
	n := serve(t, setup{recovery: recovery, install: quiet})
	js, err := drivers.get(kinds[0])
	need(t, err)
	asked := js.dial(t, n.url, "/quiet", map[string]any{"transports": []string{"websocket"}, "auth": map[string]any{"recovery": true}})
	asked.on(t, "connect")
	asked.call(t, "join")
	someWays(t, func(k *kind) bool { return !k.js }, allTransports, func(t *testing.T, w way) {
		c := w.dial(t, n, "/quiet", nil)
		c.on(t, "connect")
		c.call(t, "join")
		toRoom(t, n, "x", 1, hub.Binary{1})
		c.event(t, "x", 1, bin(1))
		asked.missed(t, "x", 1, bin(1))
	})
}

func TestTheClientsOfRecoveryAreThere(t *testing.T) {
	modules, err := nodeModules()
	need(t, err)
	for _, name := range []string{"socket.io-client-4.6", "socket.io-client-4.7"} {
		text, err := os.ReadFile(filepath.Join(modules, name, "package.json"))
		need(t, err)
		var p struct{ Version string }
		if err := json.Unmarshal(text, &p); err != nil || p.Version[:3] != name[len(name)-3:] {
			t.Errorf("%s is %s, %v", name, p.Version, err)
		}
	}
}
