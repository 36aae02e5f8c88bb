package interop

import (
	"slices"
	"strings"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/faultproxy"
	"tether/transport"
)

// settle waits until a client that upgrades has done so, so that what comes next happens on one known
// transport.
func settle(t *testing.T, w way, c *client) {
	t.Helper()
	if w.js && w.transports == "default" {
		select {
		case <-c.upgraded:
		case <-time.After(patience):
			t.Fatal("the client does not upgrade")
		}
	}
}

func TestServerDisconnectIsFinal(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		for _, closing := range []bool{false, true} {
			c, _ := w.join(t, n)
			settle(t, w, c)
			c.emit(t, "bye", closing)
			if got := c.on(t, "disconnect"); w.js && got.Reason != "io server disconnect" || got.Active {
				t.Errorf("bye %t: got %v, active %t", closing, got, got.Active)
			}
			c.quiet(t)
		}
	})
}

func TestServerDisconnectOfOneNamespaceLeavesTheOthers(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyJS(t, func(t *testing.T, w way) {
		root, _ := w.join(t, n)
		custom := w.d.dialShared(t, root, n.url, "/custom", nil)
		custom.on(t, "connect")
		custom.event(t, "hello", "custom")
		root.emit(t, "bye", false)
		if got := root.on(t, "disconnect").Reason; got != "io server disconnect" {
			t.Errorf("got %q", got)
		}
		custom.emit(t, "echo", "still here")
		custom.event(t, "echo-back", "still here")
		root.tell(t, "reconnect")
		w.welcome(t, root, n, root.on(t, "connect").SID)
	})
}

func TestServerDisconnectOfTheConnectionEndsAllNamespaces(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyJS(t, func(t *testing.T, w way) {
		root, _ := w.join(t, n)
		custom := w.d.dialShared(t, root, n.url, "/custom", nil)
		custom.on(t, "connect")
		custom.event(t, "hello", "custom")
		settle(t, w, root)
		root.emit(t, "bye", true)
		for _, c := range []*client{root, custom} {
			if got := c.on(t, "disconnect"); got.Reason != "io server disconnect" || got.Active {
				t.Errorf("%s: got %v, active %t", c.name, got, got.Active)
			}
		}
		root.quiet(t)
		custom.quiet(t)
	})
}

func TestLostConnectionIsMadeAgain(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, id := w.join(t, n)
		settle(t, w, c)
		c.emit(t, "drop")
		got := c.on(t, "disconnect")
		if w.js && (got.Reason != "transport close" || !got.Active) {
			t.Errorf("got %v, active %t", got, got.Active)
		}
		if !w.js && w.transports == "polling" {
			return // python-engineio takes the end of a polling session for final
		}
		again := c.on(t, "connect").SID
		if again == id {
			t.Errorf("the socket kept its ID %s", id)
		}
		w.welcome(t, c, n, again)
		c.emit(t, "echo", "back", bin(1))
		c.event(t, "echo-back", "back", bin(1))
	})
}

func TestTooLargeMessageEndsTheConnection(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{transport: transport.Options{MaxPayload: 10_000}})
	everyJS(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		settle(t, w, c)
		c.emit(t, "echo", strings.Repeat("x", 9_000))
		c.event(t, "echo-back", strings.Repeat("x", 9_000))
		c.emit(t, "echo", strings.Repeat("x", 11_000))
		want := []string{"transport close"}
		if w.transports == "polling" {
			want = []string{"transport close", "transport error"} // the client may see the 413 or the close first
		}
		if got := c.on(t, "disconnect"); !slices.Contains(want, got.Reason) || !got.Active {
			t.Errorf("got %v, active %t", got, got.Active)
		}
		w.welcome(t, c, n, c.on(t, "connect").SID)
	})
}

// probe starts a node with a namespace /probe that tells why its sockets ended.
func probe(t *testing.T, o transport.Options) (*node, <-chan hub.Reason) {
	t.Helper()
	reasons := make(chan hub.Reason, 16)
	n := serve(t, setup{transport: o, install: func(h *hub.Hub) {
		h.Of("/probe").OnDisconnect(func(_ *hub.Socket, reason hub.Reason) { reasons <- reason })
	}})
	return n, reasons
}

func await(t *testing.T, reasons <-chan hub.Reason, want ...hub.Reason) {
	t.Helper()
	select {
	case got := <-reasons:
		if !slices.Contains(want, got) {
			t.Errorf("the server's reason is %q, want one of %q", got, want)
		}
	case <-time.After(patience):
		t.Fatalf("the server does not notice the end, want %q", want)
	}
}

func TestClientDisconnectIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, w way) {
		var o transport.Options
		want := []hub.Reason{hub.ReasonClientDisconnect}
		if !w.js { // python-socketio does not wait until its DISCONNECT has left; it may never leave
			o.PingInterval, o.PingTimeout = time.Second, 2*time.Second
			want = append(want, hub.ReasonTransportClose, hub.ReasonTransportError, hub.ReasonPingTimeout)
		}
		n, reasons := probe(t, o)
		c := w.dial(t, n, "/probe", nil)
		c.on(t, "connect")
		settle(t, w, c)
		c.tell(t, "disconnect")
		if got := c.on(t, "disconnect"); w.js && got.Reason != "io client disconnect" {
			t.Errorf("got %v", got)
		}
		await(t, reasons, want...)
	})
}

func TestSilentNetworkIsAPingTimeoutOnBothSides(t *testing.T) {
	everyJS(t, func(t *testing.T, w way) {
		n, reasons := probe(t, transport.Options{PingInterval: 500 * time.Millisecond, PingTimeout: 3 * time.Second})
		proxy := faultproxy.New(t, n.addr)
		c := w.d.dial(t, "http://"+proxy.Addr(), "/probe", w.options(nil))
		c.on(t, "connect")
		settle(t, w, c)
		proxy.Hold(faultproxy.Both)
		if got := c.on(t, "disconnect"); got.Reason != "ping timeout" || !got.Active {
			t.Errorf("got %v, active %t", got, got.Active)
		}
		await(t, reasons, hub.ReasonPingTimeout, hub.ReasonTransportClose, hub.ReasonTransportError)
		proxy.Heal()
		for l := c.next(t); l.On != "connect"; l = c.next(t) {
			if l.On != "connect_error" {
				t.Fatalf("got %v", l)
			}
		}
		c.tell(t, "disconnect")
		await(t, reasons, hub.ReasonClientDisconnect)
	})
}

func TestCutConnectionIsMadeAgain(t *testing.T) {
	t.Parallel()
	everyJS(t, func(t *testing.T, w way) {
		n, reasons := probe(t, transport.Options{})
		proxy := faultproxy.New(t, n.addr)
		c := w.d.dial(t, "http://"+proxy.Addr(), "/probe", w.options(nil))
		c.on(t, "connect")
		settle(t, w, c)
		c.d.must(t, map[string]any{"do": "pause", "timeout": 100}) // on polling, until a request is open
		proxy.Cut()
		if got := c.on(t, "disconnect"); !strings.HasPrefix(got.Reason, "transport ") || !got.Active {
			t.Errorf("got %v, active %t", got, got.Active)
		}
		await(t, reasons, hub.ReasonTransportClose, hub.ReasonTransportError)
		c.on(t, "connect")
		c.tell(t, "disconnect")
		await(t, reasons, hub.ReasonClientDisconnect)
	})
}

func TestDrainSendsClientsElsewhere(t *testing.T) {
	t.Parallel()
	everyWay(t, func(t *testing.T, w way) {
		n, reasons := probe(t, transport.Options{})
		c := w.dial(t, n, "/probe", nil)
		c.on(t, "connect")
		settle(t, w, c)
		n.drain()
		got := c.on(t, "disconnect")
		if w.js && (got.Reason != "transport close" || !got.Active) {
			t.Errorf("got %v, active %t", got, got.Active)
		}
		await(t, reasons, hub.ReasonShutdown)
	})
}
