package transport

import (
	"compress/gzip"
	"compress/zlib"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"tether/clientjs"
	"tether/engine"
)

func TestOptionsOutOfRangeAreRefused(t *testing.T) {
	deafServer := engine.AttachFunc(func(engine.Conn, *http.Request) (engine.Receiver, error) { return deaf{}, nil })
	for _, tt := range []struct {
		o    Options
		want string
	}{
		{Options{Path: "socket.io/"}, `Options.Path: "socket.io/" must begin and end with a slash`},
		{Options{Path: "/socket.io"}, `Options.Path: "/socket.io" must begin and end with a slash`},
		{Options{PingInterval: -1}, "Options.PingInterval: -1ns must be between 1ms and 24h, or 0 for the default"},
		{Options{PingTimeout: 25}, "Options.PingTimeout: 25ns must be between 1ms and 24h, or 0 for the default"},
		{Options{UpgradeTimeout: 48 * time.Hour}, "Options.UpgradeTimeout: 48h0m0s must be between 1ms and 24h, or 0 for the default"},
		{Options{MaxPayload: -1}, "Options.MaxPayload: -1 must not be negative"},
		{Options{MaxPayload: 2 << 30}, "Options.MaxPayload: 2147483648 must be 1073741824 at most"},
		{Options{QueueBytes: -1}, "Options.QueueBytes: -1 must not be negative"},
		{Options{MaxConns: -1}, "Options.MaxConns: -1 must not be negative"},
		{Options{Transports: []string{"webtransport"}}, `Options.Transports: there is no "webtransport"; there are "polling" and "websocket"`},
		{Options{Transports: []string{Polling, Polling}}, `Options.Transports: "polling" is there twice`},
		{Options{Overflow: 99}, "Options.Overflow: there is no policy 99"},
		{Options{Cookie: Cookie{Name: "a b"}}, `Options.Cookie: "a b" is not the name of a cookie; "io" is one`},
		{Options{Cookie: Cookie{Secure: true}}, `Options.Cookie: "" is not the name of a cookie; "io" is one`},
		{Options{CORS: CORS{Origins: []string{"https://app.example/"}}}, `Options.CORS.Origins: "https://app.example/" is not an origin; "https://app.example" is one, and "*" is any`},
		{Options{CORS: CORS{Status: 404}}, "Options.CORS.Status: 404 must be between 200 and 299"},
		{Options{CORS: CORS{Methods: []string{"GET,POST"}}}, `Options.CORS.Methods: "GET,POST" is not the name of a method`},
	} {
		if _, err := NewHandler(deafServer, tt.o); err == nil || err.Error() != "transport: "+tt.want {
			t.Errorf("got  %v\nwant transport: %s", err, tt.want)
		}
	}
	_, err := NewHandler(deafServer, Options{Path: "x", MaxConns: -1})
	if got := strings.Count(err.Error(), "transport: "); got != 2 {
		t.Errorf("of two mistakes it says %q", err)
	}
	if _, err := NewHandler(nil, Options{}); err == nil {
		t.Error("a handler for nobody")
	}
}

func TestTheClientsFileIsServed(t *testing.T) {
	s := serve(t, Options{Client: clientjs.Handler()})
	for _, name := range []string{"socket.io.min.js", "socket.io.min.js.map"} {
		want, _ := clientjs.Files.ReadFile(name)
		status, header, body := s.doPath("GET", "/socket.io/"+name+"?v=1", "")
		if status != 200 || body != string(want) || header.Get("ETag") != `"`+clientjs.Version+`"` {
			t.Errorf("%s: %d, ETag %q, %d bytes, want %d", name, status, header.Get("ETag"), len(body), len(want))
		}
		if status, _, body := s.doPath("GET", "/socket.io/"+name, "", "If-None-Match: "+header.Get("ETag")); status != 304 || body != "" {
			t.Errorf("%s: again %d", name, status)
		}
	}
	if status, _, _ := s.doPath("GET", "/socket.io/socket.io.esm.min.js", ""); status != 404 {
		t.Errorf("a file that is not there: %d", status)
	}
	s = serve(t, Options{})
	if status, _, _ := s.doPath("GET", "/socket.io/socket.io.min.js", ""); status != 400 {
		t.Errorf("without the option: %d", status)
	}
}

func TestPollingResponsesAreCompressedAsTheClientAsks(t *testing.T) {
	s := serve(t, Options{CompressPolling: 1000})
	large := "4" + strings.Repeat("x", 999)
	for _, tt := range []struct{ accept, message, want string }{
		{"gzip, deflate, br", large, "gzip"},
		{"deflate", large, "deflate"},
		{"gzip;q=0.5, deflate;q=0.8", large, "deflate"},
		{"*", large, "gzip"},
		{"gzip;q=0, *", large, "deflate"},
		{"GZIP", large, "gzip"},
		{"br, identity", large, ""},
		{"gzip;q=x", large, ""},
		{"", large, ""},
		{"gzip", large[:999], ""},
	} {
		c := s.polling()
		c.post(tt.message)
		status, header, body := s.do("GET", "EIO=4&transport=polling&sid="+c.sid, "", "Accept-Encoding: "+tt.accept)
		var r io.Reader = strings.NewReader(body)
		switch header.Get("Content-Encoding") {
		case "gzip":
			r, _ = gzip.NewReader(r)
		case "deflate":
			r, _ = zlib.NewReader(r)
		}
		if plain, err := io.ReadAll(r); status != 200 || header.Get("Content-Encoding") != tt.want || string(plain) != tt.message || err != nil {
			t.Errorf("%q: %d, %q, %d bytes %v", tt.accept, status, header.Get("Content-Encoding"), len(plain), err)
		}
	}
}

func TestTheCookieHasItsAttributes(t *testing.T) {
	for want, cookie := range map[string]Cookie{
		"; Path=/; HttpOnly; SameSite=Lax":                                 {Name: "io"},
		"; Path=/a; Domain=example.com; Max-Age=60; Secure; SameSite=None": {Name: "io", Path: "/a", Domain: "example.com", MaxAge: 60, SameSite: http.SameSiteNoneMode, Secure: true, Script: true},
	} {
		s := serve(t, Options{Cookie: cookie})
		_, header, body := s.do("GET", "EIO=4&transport=polling", "")
		if got := header.Get("Set-Cookie"); got != "io="+body[len(`0{"sid":"`):][:20]+want {
			t.Errorf("got %q, want it to end in %q", got, want)
		}
	}
}

func TestAPreflightRequestIsToldMethodsAndStatus(t *testing.T) {
	s := serve(t, Options{CORS: CORS{Origins: []string{"https://a.example:443"}, Methods: []string{"GET", "POST"}, Status: 200}})
	status, header, _ := s.do("OPTIONS", "EIO=4&transport=polling", "", "Origin: https://a.example")
	if got := header.Get("Access-Control-Allow-Methods"); status != 200 || got != "GET,POST" {
		t.Errorf("got %d, methods %q", status, got)
	}
}

func TestIDsMayBeTheProgramsOwn(t *testing.T) {
	next := "node-1.first"
	s := serve(t, Options{GenerateID: func(r *http.Request) (string, error) {
		if r.Header.Get("X-Refuse") != "" {
			return "", errors.New("no ID for you")
		}
		return next, nil
	}})
	p := s.polling()
	if id := s.session().c.ID(); p.sid != next || id != next {
		t.Fatalf("the client has %q, the receiver %q", p.sid, id)
	}
	p.post("4hello")
	p.want("4hello")
	refused := func(name string, header ...string) {
		t.Helper()
		if status, _, body := s.do("GET", "EIO=4&transport=polling", "", header...); status != 400 || body != `{"code":3,"message":"Bad request"}` {
			t.Errorf("%s: %d %q", name, status, body)
		}
	}
	refused("the ID of another session")
	refused("an error", "X-Refuse: 1")
	for _, next = range []string{"", "a b", `a"`, strings.Repeat("x", 129)} {
		refused(next)
	}
	p.post("1")
	p.wantEnd()
	next = "second"
	c := s.websocket()
	c.send("4on")
	c.wantText("4on")
	if id := s.session().c.ID(); id != next {
		t.Errorf("the receiver has %q", id)
	}
}

func TestHooksAddHeaders(t *testing.T) {
	s := serve(t, Options{
		OnHeaders:   func(h http.Header, r *http.Request) { h.Set("X-Every", r.Method) },
		OnHandshake: func(h http.Header, r *http.Request) { h.Set("X-First", "yes") },
	})
	check := func(name string, h http.Header, every, first string) {
		t.Helper()
		if got := [2]string{h.Get("X-Every"), h.Get("X-First")}; got != [2]string{every, first} {
			t.Errorf("%s: %q", name, got)
		}
	}
	_, h, body := s.do("GET", "EIO=4&transport=polling", "")
	check("handshake", h, "GET", "yes")
	sid := body[len(`0{"sid":"`):][:20]
	_, h, _ = s.do("POST", "EIO=4&transport=polling&sid="+sid, "4x")
	check("a POST", h, "POST", "")
	_, h, _ = s.do("GET", "EIO=4&transport=polling&sid="+sid, "")
	check("a GET", h, "GET", "")
	_, h, _ = s.do("GET", "EIO=3&transport=polling", "")
	check("a refusal", h, "GET", "")
	check("WebSocket", s.upgrade("EIO=4&transport=websocket", "").head.Header, "GET", "yes")
	check("an upgrade", s.upgrade("EIO=4&transport=websocket&sid="+sid, "").head.Header, "GET", "")
}

func TestEveryRefusalIsTold(t *testing.T) {
	told := make(chan ConnectionError, 1)
	s := serve(t, Options{
		OnConnectionError: func(e ConnectionError) { e.Request = nil; told <- e },
		MaxConns:          1,
		Allow: func(r *http.Request) error {
			if r.Header.Get("X-Refuse") != "" {
				return errors.New("go away")
			}
			return nil
		},
	})
	sid := s.polling().sid
	const polling = "EIO=4&transport=polling"
	for _, tt := range []struct {
		query, header string
		want          ConnectionError
	}{
		{"EIO=4&transport=x", "", ConnectionError{Status: 400, Code: 0, Message: "Transport unknown", Context: map[string]string{"transport": "x"}}},
		{polling + "&sid=x", "", ConnectionError{Status: 400, Code: 1, Message: "Session ID unknown", Context: map[string]string{"sid": "x"}}},
		{"EIO=4&transport=websocket&sid=" + sid, "", ConnectionError{Status: 400, Code: 3, Message: "Bad request",
			Context: map[string]string{"name": "TRANSPORT_MISMATCH", "transport": "websocket", "previousTransport": "polling"}}},
		{"EIO=4&transport=websocket", "", ConnectionError{Status: 400, Code: 3, Message: "Bad request", Context: map[string]string{"name": "TRANSPORT_HANDSHAKE_ERROR"}}},
		{polling, "Origin: http://evil.example", ConnectionError{Status: 403, Code: 4, Message: "Forbidden", Context: map[string]string{"origin": "http://evil.example"}}},
		{polling, "X-Refuse: 1", ConnectionError{Status: 403, Code: 4, Message: "go away", Context: map[string]string{"message": "go away"}}},
		{"EIO=3&transport=polling", "", ConnectionError{Status: 400, Code: 5, Message: "Unsupported protocol version", Context: map[string]string{"protocol": "3"}}},
		{polling, "", ConnectionError{Status: 503, Code: -1, Message: "Too many connections"}},
	} {
		var header []string
		if tt.header != "" {
			header = append(header, tt.header)
		}
		s.do("GET", tt.query, "", header...)
		if got := receive(t, told); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %+v, want %+v", tt.query, got, tt.want)
		}
	}
	s.upgrade("EIO=4&transport=websocket", "", "Sec-WebSocket-Protocol: a, a")
	if got := receive(t, told); got.Message != "Bad WebSocket handshake" || got.Status != 400 {
		t.Errorf("got %+v", got)
	}
}

// TestMistakesOfTheProgramAroundAreLoggedOnce has the handler behind middleware without Unwrap, and mounted
// where it does not serve.
func TestMistakesOfTheProgramAroundAreLoggedOnce(t *testing.T) {
	var log lockedBuffer
	h := newEngine(func(engine.Conn, *http.Request) (engine.Receiver, error) { return deaf{}, nil },
		Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	defer h.Close()
	web := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(struct{ http.ResponseWriter }{w}, r)
	}))
	defer web.Close()
	s := &server{t: t, addr: strings.TrimPrefix(web.URL, "http://")}
	for range 3 {
		if c := s.upgrade("EIO=4&transport=websocket", ""); c.head.StatusCode != 500 {
			t.Errorf("without Unwrap: %d", c.head.StatusCode)
		}
		if status, _, _ := s.doPath("GET", "/?EIO=4&transport=polling", ""); status != 404 {
			t.Errorf("another path: %d", status)
		}
	}
	for _, want := range []string{"level=WARN msg=\"transport: a request is for no path below Options.Path", "level=ERROR msg=\"transport: no client gets a WebSocket"} {
		if strings.Count(log.String(), want) != 1 {
			t.Errorf("%d times %q in\n%s", strings.Count(log.String(), want), want, log.String())
		}
	}
}
