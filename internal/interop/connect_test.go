package interop

import (
	"reflect"
	"testing"
)

func TestConnectShowsAuthQueryAndHeaders(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		auth := map[string]any{"token": "T", "nested": map[string]any{"a": []any{1.0}}}
		options := map[string]any{
			"auth":         auth,
			"query":        map[string]any{"room": "lobby"},
			"extraHeaders": map[string]any{"x-sioclient": "yes"},
		}
		c := w.dial(t, n, "", options)
		id := c.on(t, "connect").SID
		c.event(t, "welcome", map[string]any{"id": id, "auth": auth, "node": "A"})
		got, ok := c.call(t, "handshake")[0].(map[string]any)
		if !ok {
			t.Fatalf("got the handshake %v", got)
		}
		query, _ := got["query"].(map[string]any)
		if !reflect.DeepEqual(got["auth"], any(auth)) || got["header"] != "yes" || query["room"] != "lobby" || query["EIO"] != "4" {
			t.Errorf("got the handshake %v", got)
		}
	})
}

func TestFixedAndDynamicNamespacesConnect(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		custom := w.dial(t, n, "/custom", nil)
		custom.on(t, "connect")
		custom.event(t, "hello", "custom")
		custom.emit(t, "echo", 1, bin(2), map[string]any{"b": bin(3)})
		custom.event(t, "echo-back", 1, bin(2), map[string]any{"b": bin(3)})

		dynamic := w.dial(t, n, "/dyn-12", nil)
		dynamic.on(t, "connect")
		dynamic.event(t, "nsp", "/dyn-12")
	})
}

func TestRefusedConnectSaysWhy(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		for _, c := range []struct {
			namespace string
			auth      any
			message   string
			data      any
		}{
			{"/nope", nil, "Invalid namespace", nil},
			{"/dyn-x", nil, "Invalid namespace", nil},
			{"/auth", map[string]any{"token": "wrong"}, "not authorized", map[string]any{"code": 401.0}},
		} {
			client := w.dial(t, n, c.namespace, map[string]any{"auth": c.auth})
			got := client.on(t, "connect_error")
			if got.Message != c.message || !reflect.DeepEqual(got.Data, c.data) || w.active && got.Active {
				t.Errorf("%s: got %v, active %t, want %q %v", c.namespace, got, got.Active, c.message, c.data)
			}
		}
		c := w.dial(t, n, "/auth", map[string]any{"auth": map[string]any{"token": "secret"}})
		c.on(t, "connect")
		c.event(t, "whoami", "secret")
	})
}

func TestNamespacesShareAConnection(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyJS(t, func(t *testing.T, w way) {
		root, _ := w.join(t, n)
		custom := w.d.dialShared(t, root, n.url, "/custom", nil)
		custom.on(t, "connect")
		custom.event(t, "hello", "custom")
		nope := w.d.dialShared(t, root, n.url, "/nope", nil)
		if got := nope.on(t, "connect_error").Message; got != "Invalid namespace" {
			t.Errorf("got %q", got)
		}
		auth := w.d.dialShared(t, root, n.url, "/auth", map[string]any{"auth": map[string]any{"token": "secret"}})
		auth.on(t, "connect")
		auth.event(t, "whoami", "secret")

		custom.emit(t, "echo", bin(1), "x")
		root.emit(t, "echo", bin(2), "y")
		custom.event(t, "echo-back", bin(1), "x")
		root.event(t, "echo-back", bin(2), "y")

		auth.tell(t, "disconnect")
		auth.on(t, "disconnect")
		root.emit(t, "echo", "after")
		root.event(t, "echo-back", "after")
	})
}

// DISCONNECT and CONNECT of a namespace in one segment close the connection of the reference server.
func TestNamespaceIsLeftAndJoinedAgainAtOnce(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyJS(t, func(t *testing.T, w way) {
		root, _ := w.join(t, n)
		custom := w.d.dialShared(t, root, n.url, "/custom", nil)
		first := custom.on(t, "connect").SID
		custom.event(t, "hello", "custom")
		for range 10 {
			custom.tell(t, "restart")
			if got := custom.on(t, "disconnect").Reason; got != "io client disconnect" {
				t.Fatalf("got reason %q", got)
			}
			if second := custom.on(t, "connect").SID; second == first {
				t.Errorf("the socket kept its ID %s", first)
			}
			custom.event(t, "hello", "custom")
		}
		root.emit(t, "echo", "still here")
		root.event(t, "echo-back", "still here")
	})
}

func TestDefaultTransportsEndOnWebSocket(t *testing.T) {
	t.Parallel()
	n := serve(t, setup{})
	everyWay(t, func(t *testing.T, w way) {
		c, _ := w.join(t, n)
		want := w.transports
		if want == "default" {
			want = "websocket"
			if w.js {
				<-c.upgraded
			}
		}
		if got := c.tell(t, "transport").Args[0]; got != want {
			t.Errorf("the client is on %v, want %s", got, want)
		}
		if got := c.call(t, "transport")[0]; got != want {
			t.Errorf("the server says %v, want %s", got, want)
		}
	})
}
