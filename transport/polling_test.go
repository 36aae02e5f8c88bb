package transport

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
)

// do makes a request with no session and returns the status, the headers and the body.
func (s *server) do(method, query, body string, header ...string) (int, http.Header, string) {
	s.t.Helper()
	return s.doPath(method, "/socket.io/?"+query, body, header...)
}

func (s *server) doPath(method, path, body string, header ...string) (int, http.Header, string) {
	s.t.Helper()
	req, err := http.NewRequest(method, "http://"+s.addr+path, strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	for _, h := range header {
		k, v, _ := strings.Cut(h, ": ")
		req.Header.Add(k, v)
	}
	req.Close = true
	client := http.Client{Timeout: wait, Transport: &http.Transport{}}
	resp, err := client.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(b)
}

func TestRequestsThatAreNotServedAreAnsweredAsTheReferenceDoes(t *testing.T) {
	s := serve(t, Options{Allow: func(r *http.Request) error {
		if r.Header.Get("X-Refuse") != "" {
			return errors.New(r.Header.Get("X-Refuse"))
		}
		return nil
	}})
	sid := s.polling().sid
	for _, tt := range []struct {
		name, method, query, header string
		status                      int
		body                        string
	}{
		{"no transport", "GET", "EIO=4", "", 400, `{"code":0,"message":"Transport unknown"}`},
		{"an unknown transport", "GET", "EIO=4&transport=webtransport", "", 400, `{"code":0,"message":"Transport unknown"}`},
		{"a property of an object", "GET", "EIO=4&transport=constructor", "", 400, `{"code":0,"message":"Transport unknown"}`},
		{"transport before method", "POST", "EIO=4", "", 400, `{"code":0,"message":"Transport unknown"}`},
		{"an unknown session", "GET", "EIO=4&transport=polling&sid=x", "", 400, `{"code":1,"message":"Session ID unknown"}`},
		{"a session called like a property", "GET", "EIO=4&transport=polling&sid=__proto__", "", 400, `{"code":1,"message":"Session ID unknown"}`},
		{"session before method", "PUT", "EIO=4&transport=polling&sid=x", "", 400, `{"code":1,"message":"Session ID unknown"}`},
		{"a handshake by POST", "POST", "EIO=4&transport=polling", "", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"a handshake by DELETE", "DELETE", "EIO=4&transport=polling", "", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"OPTIONS without CORS", "OPTIONS", "EIO=4&transport=polling", "", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"method before version", "POST", "EIO=3&transport=polling", "", 400, `{"code":2,"message":"Bad handshake method"}`},
		{"websocket without an upgrade", "GET", "EIO=4&transport=websocket", "", 400, `{"code":3,"message":"Bad request"}`},
		{"a connection option that only resembles an upgrade", "GET", "EIO=4&transport=websocket", "Upgrade: websocket", 400, `{"code":3,"message":"Bad request"}`},
		{"another transport than the session's", "GET", "EIO=4&transport=websocket&sid=" + sid, "", 400, `{"code":3,"message":"Bad request"}`},
		{"another version than the session's", "GET", "EIO=3&transport=polling&sid=" + sid, "", 400, `{"code":3,"message":"Bad request"}`},
		{"refused by Allow", "GET", "EIO=4&transport=polling", `X-Refuse: <no> "you"`, 403, `{"code":4,"message":"<no> \"you\""}`},
		{"Allow before version", "GET", "EIO=3&transport=polling", "X-Refuse: no", 403, `{"code":4,"message":"no"}`},
		{"a foreign origin", "GET", "EIO=4&transport=polling", "Origin: http://evil.example", 403, `{"code":4,"message":"Forbidden"}`},
		{"a foreign origin with a session", "GET", "EIO=4&transport=polling&sid=" + sid, "Origin: null", 403, `{"code":4,"message":"Forbidden"}`},
		{"version 3", "GET", "EIO=3&transport=polling", "", 400, `{"code":5,"message":"Unsupported protocol version"}`},
		{"no version", "GET", "transport=polling", "", 400, `{"code":5,"message":"Unsupported protocol version"}`},
		{"version 44", "GET", "EIO=44&transport=polling", "", 400, `{"code":5,"message":"Unsupported protocol version"}`},
		{"another method for a session", "PUT", "EIO=4&transport=polling&sid=" + sid, "", 500, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var headers []string
			if tt.header != "" {
				headers = []string{tt.header}
			}
			status, header, body := s.do(tt.method, tt.query, "", headers...)
			if status != tt.status || body != tt.body {
				t.Fatalf("got %d %s, want %d %s", status, body, tt.status, tt.body)
			}
			if got := header.Get("Content-Type"); tt.body != "" && got != "application/json" {
				t.Fatalf("content type %q", got)
			}
		})
	}
	if status, _, _ := s.doPath("GET", "/socket.io?EIO=4&transport=polling", ""); status != 404 {
		t.Fatalf("a path without its slash got %d", status)
	}
	if status, _, _ := s.doPath("GET", "/socket.io/more?EIO=4&transport=polling", ""); status != 200 {
		t.Fatalf("a longer path got %d", status)
	}
}

func TestUpgradesThatAreNotServedAreRefusedBeforeTheHandshake(t *testing.T) {
	s := serve(t, Options{CORS: CORS{Origins: []string{"http://good.example"}}, Allow: func(r *http.Request) error {
		if r.Header.Get("X-Refuse") != "" {
			return errors.New("go away")
		}
		return nil
	}})
	const ok = "EIO=4&transport=websocket"
	for _, tt := range []struct {
		name, from, to string
		status         int
		body           string
	}{
		{"in order", "", "", 101, ""},
		{"version 3", "EIO=4", "EIO=3", 400, "Unsupported protocol version"},
		{"no transport", "&transport=websocket", "", 400, "Transport unknown"},
		{"an unknown session", "websocket ", "websocket&sid=x ", 400, "Session ID unknown"},
		{"a POST", "GET", "POST", 400, "Bad handshake method"},
		{"refused by Allow", "Host", "X-Refuse: 1\r\nHost", 403, "go away"},
		{"a foreign origin", "Host", "Origin: http://evil.example\r\nHost", 403, "Forbidden"},
		{"an allowed origin", "Host", "Origin: http://good.example\r\nHost", 101, ""},
		{"its own origin", "Host", "Origin: https://test\r\nHost", 101, ""},
		{"WebSocket version 8", "Version: 13", "Version: 8", 426, "Unsupported WebSocket version"},
		{"no WebSocket version", "Sec-WebSocket-Version: 13\r\n", "", 426, "Unsupported WebSocket version"},
		{"no key", "Sec-WebSocket-Key: " + goodKey + "\r\n", "", 400, "Bad WebSocket handshake"},
		{"a short key", goodKey, "YQ==", 400, "Bad WebSocket handshake"},
		{"a key that is not base64", goodKey, "!" + goodKey[1:], 400, "Bad WebSocket handshake"},
		{"two keys", "Host", "Sec-WebSocket-Key: " + goodKey + "\r\nHost", 400, "Bad WebSocket handshake"},
		{"an upgrade to something else", "Upgrade: websocket", "Upgrade: h2c", 400, "Bad WebSocket handshake"},
		{"two versions", "Version: 13", "Version: 13\r\nSec-WebSocket-Version: 8", 400, "Bad WebSocket handshake"},
		{"a key with bits too many", goodKey, "dGhlIHNhbXBsZSBub25jZR==", 101, ""},
		{"several protocols to upgrade to", "Upgrade: websocket", "Upgrade: h2c, websocket", 101, ""},
		{"a body", "Host", "Content-Length: 3\r\nHost", 400, "Bad WebSocket handshake"},
		{"two origins", "Host", "Origin: http://good.example\r\nOrigin: http://evil.example\r\nHost", 400, "Bad request"},
		{"its own origin, and a port", "Host: test", "Origin: https://test\r\nHost: test:443", 101, ""},
		{"its own origin, and the port of HTTP", "Host: test", "Origin: http://test\r\nHost: test:80", 101, ""},
		{"another port", "Host: test", "Origin: https://test\r\nHost: test:8443", 403, "Forbidden"},
		{"the port of another scheme", "Host: test", "Origin: http://test\r\nHost: test:443", 403, "Forbidden"},
		{"no subprotocol", "Host", "Sec-WebSocket-Protocol: \r\nHost", 400, "Bad WebSocket handshake"},
		{"a subprotocol twice", "Host", "Sec-WebSocket-Protocol: a, a\r\nHost", 400, "Bad WebSocket handshake"},
		{"a subprotocol that is no token", "Host", "Sec-WebSocket-Protocol: a b\r\nHost", 400, "Bad WebSocket handshake"},
		{"HTTP/1.0", "HTTP/1.1", "HTTP/1.0", 400, "Bad WebSocket handshake"},
		{"Connection: keep-alive, Upgrade", "Connection: Upgrade", "Connection: keep-alive, Upgrade", 101, ""},
		{"Connection twice", "Connection: Upgrade", "Connection: keep-alive\r\nConnection: upgrade", 101, ""},
		{"Upgrade: WebSocket", "Upgrade: websocket", "Upgrade: WebSocket", 101, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			conn := s.dial()
			io.WriteString(conn, strings.Replace(upgradeRequest(ok), tt.from, tt.to, 1))
			c := &wsClient{t: t, conn: conn}
			head, body := readAnswer(t, conn)
			c.head = head
			if head.StatusCode != tt.status || body != tt.body {
				t.Fatalf("got %d %q, want %d %q", head.StatusCode, body, tt.status, tt.body)
			}
			if tt.status == 101 {
				return
			}
			if !head.Close {
				t.Error("the connection stays open")
			}
			if got := head.Header.Get("Sec-WebSocket-Version"); tt.status == 426 && got != "13" {
				t.Errorf("the version that is served is given as %q", got)
			}
		})
	}
}

func TestTheFirstSubprotocolIsAnswered(t *testing.T) {
	carriers(t, Options{}, func(t *testing.T, s *server) {
		for _, tt := range []struct {
			offers []string
			want   string
		}{
			{nil, ""},
			{[]string{"Sec-WebSocket-Protocol: v2.example, v1.example"}, "v2.example"},
			{[]string{"Sec-WebSocket-Protocol: v1.example", "Sec-WebSocket-Protocol: v2.example"}, "v1.example"},
		} {
			c := s.upgrade("EIO=4&transport=websocket", "", tt.offers...)
			if got := c.head.Header.Get("Sec-WebSocket-Protocol"); got != tt.want {
				t.Errorf("%q: answered %q, want %q", tt.offers, got, tt.want)
			}
		}
	})
}

// TestPollingIsServedWhateverElseTheRequestOffers is of clients that try HTTP/2 on the way.
func TestPollingIsServedWhateverElseTheRequestOffers(t *testing.T) {
	s := serve(t, Options{})
	for _, offer := range [][]string{
		{"Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings", "HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA"},
		{"Upgrade: h2c, TLS/1.0", "Connection: upgrade"},
		{"Upgrade: websocket"}, // and no Connection: a proxy has taken it
	} {
		if status, _, body := s.do("GET", "EIO=4&transport=polling", "", offer...); status != 200 || !strings.HasPrefix(body, "0{") {
			t.Errorf("%q: got %d %q", offer, status, body)
		}
	}
	if status, _, body := s.do("GET", "EIO=4&transport=polling", "", "Content-Type: a/b", "Content-Type: text/plain"); status != 400 {
		t.Errorf("two types of content: got %d %q", status, body)
	}
}

func TestUpgradesThatMakeNoSenseAreClosedAfterTheHandshake(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	first := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	first.send("2probe")
	first.wantText("3probe")
	for _, query := range []string{
		"EIO=4&transport=polling",                // not the transport that upgrades
		"EIO=4&transport=websocket&sid=" + c.sid, // is upgrading
	} {
		ws := s.upgrade(query, "")
		if ws.head.StatusCode != 101 {
			t.Fatalf("status %d", ws.head.StatusCode)
		}
		ws.wantClose(0)
	}
	first.send("5")
	first.send("4on")
	first.wantText("4on")
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "") // has upgraded
	ws.wantClose(0)
	first.send("4still")
	first.wantText("4still")
}

// TestASessionOnWebSocketTakesNoRequests, whatever they say that they are, and is none the worse for them.
func TestASessionOnWebSocketTakesNoRequests(t *testing.T) {
	for name, carrier := range map[string]Options{"portable": {}, "epoll": {Epoll: true}} {
		t.Run(name, func(t *testing.T) {
			s := serve(t, carrier)
			born := s.websocket()
			ids := []string{s.session().c.ID()}
			polled := s.polling()
			upgraded := s.upgrade("EIO=4&transport=websocket&sid="+polled.sid, "")
			upgraded.send("2probe")
			upgraded.wantText("3probe")
			upgraded.send("5")
			upgraded.send("4on")
			upgraded.wantText("4on")
			for _, sid := range append(ids, polled.sid) {
				for _, transport := range []string{WebSocket, Polling} {
					for _, method := range []string{"GET", "POST", "PROBE", "MOVE", "STAY", "END"} {
						if status, _, body := s.do(method, "EIO=4&transport="+transport+"&sid="+sid, "4x"); status != 400 || body != `{"code":3,"message":"Bad request"}` {
							t.Errorf("%s as %s: got %d %q", method, transport, status, body)
						}
					}
				}
			}
			for _, ws := range []*wsClient{born, upgraded} {
				ws.send("4still")
				ws.wantText("4still")
			}
		})
	}
}

func TestASecondGETEndsTheSession(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	first := background(t, func() string { _, b := c.get(); return b })
	waitFor(t, e, func(ss *session) bool { return ss.poll.waiting })
	if status, body := c.get(); status != 400 || body != "" {
		t.Fatalf("the second GET got %d %q", status, body)
	}
	if got := first(); got != "1" {
		t.Fatalf("the first GET got %q, want 1", got)
	}
	if got := receive(t, e.closed); got != engine.ReasonTransportError {
		t.Fatalf("closed for %q", got)
	}
	c.wantEnd()
}

// A GET that is sent again, because its connection was reset, would take what comes behind the answer that was lost. One that
// comes on the same connection is another one, whatever the client calls it.
func TestAGETThatIsSentAgainEndsTheSession(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	plain := c.base
	for _, x := range []struct {
		name     string
		moves    bool // it comes on another connection than the last
		refused  bool
		nameless bool
	}{{name: "a"}, {name: "a"}, {name: "b", moves: true}, {nameless: true, moves: true}, {nameless: true, moves: true}, {name: "c"}, {name: "c", moves: true, refused: true}} {
		if c.base = plain + "&t=" + x.name; x.nameless {
			c.base = plain
		}
		if x.moves {
			c.http.CloseIdleConnections()
		}
		if !x.refused {
			e.c.Send(engine.NewPacket(engine.Terms{}, []byte("4x")), nil)
			c.want("4x")
		} else if status, body := c.get(); status != 400 || body != "" {
			t.Fatalf("a GET that was sent again got %d %q", status, body)
		}
	}
	if got := receive(t, e.closed); got != engine.ReasonTransportError {
		t.Fatalf("closed for %q", got)
	}
}

// TestAGETThatIsSentAgainToASessionThatHasEnded finds it while it is kept for the client to hear of that. It ends once.
func TestAGETThatIsSentAgainToASessionThatHasEnded(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	c.base += "&t=a"
	e.c.Send(engine.NewPacket(engine.Terms{}, []byte("4x")), nil)
	c.want("4x")
	e.c.Close(engine.ReasonForcedClose)
	if got := receive(t, e.closed); got != engine.ReasonForcedClose {
		t.Fatalf("closed for %q", got)
	}
	c.http.CloseIdleConnections()
	if status, body := c.get(); status != 400 || body != "" {
		t.Errorf("a GET that was sent again got %d %q", status, body)
	}
	if err := s.h.Close(); err != nil {
		t.Error(err)
	}
	select {
	case why := <-e.closed:
		t.Errorf("it was told once more that it has ended, for %q", why)
	default:
	}
}

// waitFor waits until the session of e is as the test needs it.
func waitFor(t testing.TB, e *echo, is func(*session) bool) {
	t.Helper()
	s := e.c.(*session)
	for deadline := time.Now().Add(wait); ; {
		s.mu.Lock()
		ok := is(s)
		s.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the session does not come to be as the test needs it")
		}
	}
}

func TestASecondPOSTEndsTheSession(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	conn := s.dial()
	fmt.Fprintf(conn, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n4x", c.sid)
	waitFor(t, e, func(ss *session) bool { return ss.poll.post != nil })
	if status, body := c.post("4y"); status != 400 || body != "" {
		t.Fatalf("the second POST got %d %q", status, body)
	}
	if got := receive(t, e.closed); got != engine.ReasonTransportError {
		t.Fatalf("closed for %q", got)
	}
	c.wantEnd()
}

func TestPOSTsThatAreWrongEndTheSession(t *testing.T) {
	for _, tt := range []struct {
		name, contentType, body string
		status                  int
		reason                  engine.Reason
	}{
		{"binary", "application/octet-stream", "4x", 400, engine.ReasonTransportError},
		{"a byte past the limit", "text/plain", "4" + strings.Repeat("x", 1000), 413, engine.ReasonTransportError},
		{"an unknown packet", "text/plain", "9", 200, engine.ReasonParseError},
		{"nothing", "text/plain", "", 200, engine.ReasonParseError},
		{"an empty packet", "text/plain", "4x\x1e", 200, engine.ReasonParseError},
		{"bad base64", "text/plain", "b$$", 200, engine.ReasonParseError},
		{"a ping", "text/plain", "2", 200, engine.ReasonTransportError},
		{"a close", "text/plain", "1", 200, engine.ReasonTransportClose},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := serve(t, Options{MaxPayload: 1000})
			c := s.polling()
			e := s.session()
			status, body := c.do("POST", tt.contentType, []byte(tt.body))
			if want := map[bool]string{true: "ok"}[tt.status == 200]; status != tt.status || body != want {
				t.Fatalf("got %d %q, want %d %q", status, body, tt.status, want)
			}
			if got := receive(t, e.closed); got != tt.reason {
				t.Fatalf("closed for %q, want %q", got, tt.reason)
			}
			c.wantEnd()
		})
	}
}

func TestAPOSTOfTheLargestSizeIsServed(t *testing.T) {
	s := serve(t, Options{MaxPayload: 1000})
	c := s.polling()
	body := "4" + strings.Repeat("x", 999)
	if status, got := c.post(body); status != 200 || got != "ok" {
		t.Fatalf("got %d %q", status, got)
	}
	c.want(body)
}

func TestAPOSTWithoutALengthIsLimitedToo(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{MaxPayload: 1000})
	c := s.polling()
	e := s.session()
	req, _ := http.NewRequest("POST", c.base, io.MultiReader(strings.NewReader("4"), strings.NewReader(strings.Repeat("x", 5000))))
	if status, _ := c.request(req); status != 413 {
		t.Fatalf("got %d, want 413", status)
	}
	receive(t, e.closed)
}

func TestAClientThatAbortsItsPollIsGone(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	conn := s.dial()
	fmt.Fprintf(conn, "GET /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\n\r\n", c.sid)
	waitFor(t, e, func(ss *session) bool { return ss.poll.waiting })
	conn.Close()
	if got := receive(t, e.closed); got != engine.ReasonTransportError {
		t.Fatalf("closed for %q", got)
	}
	c.wantEnd()
}

// TestAPOSTEndsWithItsSession has a body that does not come when the session ends for another reason, and
// when the budget of what is not complete picks it.
func TestAPOSTEndsWithItsSession(t *testing.T) {
	s := serve(t, Options{MessageTimeout: time.Hour})
	for name, end := range map[string]func(c *pollClient, e *echo){
		"a write fails":   func(_ *pollClient, e *echo) { e.c.(*session).fail(engine.ReasonTransportError) },
		"it is dismissed": func(_ *pollClient, e *echo) { e.c.Close(engine.ReasonForcedClose) },
	} {
		t.Run(name, func(t *testing.T) {
			c := s.polling()
			e := s.session()
			conn := s.dial()
			fmt.Fprintf(conn, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n4x", c.sid)
			waitFor(t, e, func(ss *session) bool { return ss.poll.post != nil })
			end(c, e)
			if _, err := io.ReadAll(conn); err != nil {
				t.Errorf("the POST goes on: %v", err)
			}
		})
	}
}

// TestAPOSTThatWasRefusedEndsItsConnection has the rest of a body that is too large not come.
func TestAPOSTThatWasRefusedEndsItsConnection(t *testing.T) {
	t.Parallel()
	s := serve(t, Options{MaxPayload: 1000, MessageTimeout: 50 * time.Millisecond})
	c := s.polling()
	conn := s.dial()
	fmt.Fprintf(conn, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n%s\r\n",
		c.sid, strings.Repeat("4", 2000))
	b, err := io.ReadAll(conn)
	if err != nil || !strings.HasPrefix(string(b), "HTTP/1.1 413 ") {
		t.Errorf("got %.40q, %v", b, err)
	}
}

func TestAClientThatAbortsItsPOSTIsGone(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	conn := s.dial()
	fmt.Fprintf(conn, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n4x", c.sid)
	waitFor(t, e, func(ss *session) bool { return ss.poll.post != nil })
	conn.Close()
	if got := receive(t, e.closed); got != engine.ReasonTransportError {
		t.Fatalf("closed for %q", got)
	}
}

func TestAPOSTThatDoesNotCompleteEndsTheSession(t *testing.T) {
	s := serve(t, Options{MessageTimeout: 50 * time.Millisecond})
	c := s.polling()
	e := s.session()
	conn := s.dial()
	fmt.Fprintf(conn, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n4x", c.sid)
	if got := receive(t, e.closed); got != engine.ReasonTransportError {
		t.Fatalf("closed for %q", got)
	}
}

func TestClosingAPollingClientTakesTheQueueAlong(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	e.c.Send(engine.NewPacket(engine.Terms{}, []byte("41")), nil)
	e.c.Close(engine.ReasonServerDisconnect)
	if err := e.c.Send(engine.NewPacket(engine.Terms{}, []byte("4late")), nil); !errors.Is(err, engine.ErrDisconnected) {
		t.Errorf("a packet after Close: %v", err) // of which a hub makes no line in its log
	}
	c.want("41")
	c.want("1")
	if got := receive(t, e.closed); got != engine.ReasonServerDisconnect {
		t.Fatalf("closed for %q", got)
	}
	c.wantEnd()

	c = s.polling() // a client that goes by itself then
	e = s.session()
	e.c.Send(engine.NewPacket(engine.Terms{}, []byte("41")), nil)
	e.c.Close(engine.ReasonServerDisconnect)
	c.want("41")
	c.post("1")
	if got := receive(t, e.closed); got != engine.ReasonServerDisconnect {
		t.Fatalf("closed for %q", got)
	}

	c = s.polling()
	e = s.session()
	get := background(t, func() string { _, b := c.get(); return b })
	waitFor(t, e, func(ss *session) bool { return ss.poll.waiting })
	e.c.Close(engine.ReasonServerClose)
	if got := get(); got != "1" {
		t.Fatalf("the pending GET got %q, want 1", got)
	}
}

func TestAResponseHasAtMostSixteenPackets(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	var want []string
	send := func(text string, attachments ...[]byte) {
		e.c.Send(engine.NewPacket(engine.Terms{}, []byte(text), attachments...), nil)
		want = append(want, text)
		for range attachments {
			want = append(want, "bAQ==")
		}
	}
	for i := range 30 {
		send(fmt.Sprintf("42[%d]", i))
	}
	send("453-[1]", []byte{1}, []byte{1}, []byte{1}) // would be 17
	twenty := make([][]byte, 20)
	for i := range twenty {
		twenty[i] = []byte{1}
	}
	send("4520-[2]", twenty...) // too large for any response, and yet one unit

	var got []string
	for _, n := range []int{16, 14, 4, 21} {
		_, body := c.get()
		packets := strings.Split(body, "\x1e")
		if len(packets) != n {
			t.Fatalf("a response of %d packets, want %d: %q", len(packets), n, body)
		}
		got = append(got, packets...)
	}
	if !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestAClientThatClosesReleasesItsPoll(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	get := background(t, func() string { _, b := c.get(); return b })
	waitFor(t, e, func(ss *session) bool { return ss.poll.waiting })
	c.post("1")
	if got := get(); got != "6" {
		t.Fatalf("the pending GET got %q, want 6", got)
	}
}

func TestThePollingHandshakeHasItsHeaders(t *testing.T) {
	s := serve(t, Options{Cookie: Cookie{Name: "io"}, CORS: CORS{Origins: []string{"*"}}})
	status, h, body := s.do("GET", "EIO=4&transport=polling&t=abc", "")
	if status != 200 || len(body) != 118 {
		t.Fatalf("got %d %q", status, body)
	}
	sid := body[len(`0{"sid":"`):][:20]
	for k, want := range map[string]string{
		"Content-Type":                "text/plain; charset=UTF-8",
		"Content-Length":              "118",
		"Cache-Control":               "no-store",
		"Set-Cookie":                  "io=" + sid + "; Path=/; HttpOnly; SameSite=Lax",
		"Access-Control-Allow-Origin": "*",
	} {
		if got := h.Get(k); got != want {
			t.Errorf("%s: %q, want %q", k, got, want)
		}
	}
}

func TestOptionsShowInTheHandshake(t *testing.T) {
	o := Options{Path: "/e/", PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond, MaxPayload: 5000, NoUpgrade: true}
	s := serve(t, o)
	_, _, body := s.doPath("GET", "/e/?EIO=4&transport=polling", "")
	if want := `","upgrades":[],"pingInterval":300,"pingTimeout":200,"maxPayload":5000}`; !strings.HasSuffix(body, want) {
		t.Fatalf("got %q, want it to end in %q", body, want)
	}
	s = serve(t, Options{Transports: []string{WebSocket}})
	if _, _, body := s.do("GET", "EIO=4&transport=polling", ""); body != `{"code":0,"message":"Transport unknown"}` {
		t.Fatalf("got %q", body)
	}
}

// lostAnswer is the answer to a client that has gone.
type lostAnswer struct{ *httptest.ResponseRecorder }

func (lostAnswer) Write([]byte) (int, error) { return 0, io.ErrClosedPipe }

func TestAClientThatDoesNotGetWhatItPolledIsGone(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
		url := pollingSession(h, last)
		last().c.Send(engine.NewPacket(engine.Terms{}, []byte("4lost")), nil)
		h.ServeHTTP(lostAnswer{httptest.NewRecorder()}, httptest.NewRequest(http.MethodGet, url, nil))
		synctest.Wait()
		select {
		case got := <-last().closed:
			if got != engine.ReasonTransportError {
				t.Errorf("closed for %q", got)
			}
		default:
			t.Error("the session goes on, without the packet")
		}
	})
}
