package transport

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/engine"
	"tether/internal/long"
)

// TestMain fails when goroutines are left after all tests: every handler ends what it began.
func TestMain(m *testing.M) {
	long.Parallel(4)
	before := runtime.NumGoroutine()
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	deadline := time.Now().Add(wait)
	for runtime.NumGoroutine() > before && time.Now().Before(deadline) {
		runtime.Gosched()
	}
	if n := runtime.NumGoroutine(); code == 0 && n > before && flag.Lookup("test.fuzz").Value.String() == "" {
		buf := make([]byte, 1<<20)
		fmt.Fprintf(os.Stderr, "%d goroutines before, %d after:\n%s\n", before, n, buf[:runtime.Stack(buf, true)])
		code = 1
	}
	os.Exit(code)
}

// onEpoll is set in an environment in which every server of the tests is to use epoll.
const onEpoll = "TETHER_TRANSPORT_EPOLL"

// wait bounds what a test waits for; it is long because the machine may be slow.
const wait = 20 * time.Second

// echo is a receiver that sends back what it gets, and tells of its end.
type echo struct {
	c      engine.Conn
	closed chan engine.Reason // of one: a second end blocks the test
}

func (e *echo) Text(data []byte) error {
	return e.c.Send(engine.NewPacket(engine.Terms{}, append([]byte{'4'}, data...)), nil)
}

func (e *echo) Binary(data []byte) error {
	return e.c.Send(engine.NewPacket(engine.Terms{}, nil, data), nil)
}

func (e *echo) Busy() <-chan struct{}       { return nil }
func (e *echo) Closed(reason engine.Reason) { e.closed <- reason }
func (e *echo) LogValue() slog.Value        { return slog.StringValue("42") }

// server is a handler on a loopback socket.
type server struct {
	t     testing.TB
	h     *Handler
	addr  string
	echos chan *echo // in the order of the handshakes
}

// serve starts a server of echoes.
func serve(t testing.TB, o Options) *server {
	s := &server{t: t, echos: make(chan *echo, 4096)}
	s.start(func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
		e := &echo{c: c, closed: make(chan engine.Reason, 1)}
		s.echos <- e
		return e, nil
	}, o)
	return s
}

// serveWith starts a server with an attach function of the test's.
func serveWith(t testing.TB, attach engine.AttachFunc, o Options) *server {
	s := &server{t: t}
	s.start(attach, o)
	return s
}

func (s *server) start(attach engine.AttachFunc, o Options) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Epoll = o.Epoll || os.Getenv(onEpoll) != ""
	s.startHandler(newEngine(attach, o))
}

func newEngine(attach engine.AttachFunc, o Options) *Handler { return newHandler(attach, o) }

// newHandler is NewHandler with options that are right.
func newHandler(server engine.Server, o Options) *Handler {
	h, err := NewHandler(server, o)
	if err != nil {
		panic(err)
	}
	return h
}

func (s *server) startHandler(h *Handler) {
	s.h = h
	hs := httptest.NewUnstartedServer(s.h)
	hs.Config = NewServer("", s.h)
	hs.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	hs.Listener = Listener(hs.Listener)
	hs.Start()
	s.addr = hs.Listener.Addr().String()
	s.t.Cleanup(func() {
		s.h.Close()
		hs.CloseClientConnections()
		hs.Close()
	})
}

// session is the receiver of the next handshake.
func (s *server) session() *echo {
	s.t.Helper()
	return receive(s.t, s.echos)
}

func receive[T any](t testing.TB, c <-chan T) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(wait):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

// wsClient is a WebSocket client that can do everything wrong.
type wsClient struct {
	t    testing.TB
	conn net.Conn
	br   *bufio.Reader
	head *http.Response
}

const goodKey = "dGhlIHNhbXBsZSBub25jZQ=="

func upgradeRequest(query string, header ...string) string {
	req := "GET /socket.io/?" + query + " HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + goodKey + "\r\n"
	for _, h := range header {
		req += h + "\r\n"
	}
	return req + "\r\n"
}

// dial opens a raw connection.
func (s *server) dial() net.Conn {
	s.t.Helper()
	conn, err := net.Dial("tcp", s.addr)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(wait))
	return conn
}

// upgrade sends an upgrade request and, behind it, extra bytes.
func (s *server) upgrade(query, extra string, header ...string) *wsClient {
	s.t.Helper()
	c := &wsClient{t: s.t, conn: s.dial()}
	io.WriteString(c.conn, upgradeRequest(query, header...)+extra)
	c.br = bufio.NewReader(c.conn)
	var err error
	if c.head, err = http.ReadResponse(c.br, nil); err != nil {
		s.t.Fatalf("answer to the handshake: %v", err)
	}
	return c
}

// websocket connects on WebSocket and reads the open packet.
func (s *server) websocket() *wsClient {
	s.t.Helper()
	c := s.upgrade("EIO=4&transport=websocket", "")
	if c.head.StatusCode != http.StatusSwitchingProtocols {
		s.t.Fatalf("status %d, want 101", c.head.StatusCode)
	}
	if got := c.text(); !strings.HasPrefix(got, `0{"sid":"`) {
		s.t.Fatalf("got %q, want an open packet", got)
	}
	return c
}

// clientFrame is a masked frame.
func clientFrame(first byte, payload []byte) []byte {
	b := []byte{first}
	switch n := len(payload); {
	case n < 126:
		b = append(b, bitMask|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, bitMask|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, bitMask|127), uint64(n))
	}
	mask := [4]byte{0x12, 0x34, 0x56, 0x78}
	b = append(b, mask[:]...)
	for i, c := range payload {
		b = append(b, c^mask[i&3])
	}
	return b
}

func textFrame(text string) []byte { return clientFrame(bitFin|opText, []byte(text)) }

func (c *wsClient) write(b []byte) {
	c.t.Helper()
	if _, err := c.conn.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

func (c *wsClient) send(text string) { c.t.Helper(); c.write(textFrame(text)) }

// frame reads one frame.
func (c *wsClient) frame() (first byte, payload []byte, err error) {
	var h [2]byte
	if _, err := io.ReadFull(c.br, h[:]); err != nil {
		return 0, nil, err
	}
	n := int(h[1])
	switch n {
	case 126:
		var l [2]byte
		io.ReadFull(c.br, l[:])
		n = int(binary.BigEndian.Uint16(l[:]))
	case 127:
		var l [8]byte
		io.ReadFull(c.br, l[:])
		n = int(binary.BigEndian.Uint64(l[:]))
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(c.br, payload)
	return h[0], payload, err
}

// text reads a text frame, answering no pings.
func (c *wsClient) text() string {
	c.t.Helper()
	first, payload, err := c.frame()
	if err != nil || first != bitFin|opText {
		c.t.Fatalf("got frame %#x %q, %v; want text", first, payload, err)
	}
	return string(payload)
}

// wantText reads a text frame and compares it.
func (c *wsClient) wantText(want string) {
	c.t.Helper()
	if got := c.text(); got != want {
		c.t.Fatalf("got %q, want %q", got, want)
	}
}

// wantClose reads up to the close frame and the end of the stream, and compares the code, 0 for none.
func (c *wsClient) wantClose(want int) {
	c.t.Helper()
	for {
		first, payload, err := c.frame()
		if err != nil {
			c.t.Fatalf("got %v, want a close frame", err)
		}
		if first != bitFin|opClose {
			continue
		}
		got := 0
		if len(payload) >= 2 {
			got = int(binary.BigEndian.Uint16(payload))
		}
		if got != want || len(payload) > 2 {
			c.t.Fatalf("got close %d %q, want %d", got, payload, want)
		}
		break
	}
	if _, _, err := c.frame(); err != io.EOF {
		c.t.Fatalf("after the close frame got %v, want EOF", err)
	}
}

// pollClient is a client on polling.
type pollClient struct {
	t      testing.TB
	http   *http.Client
	base   string
	sid    string
	opened string
}

func (s *server) url(query string) string { return "http://" + s.addr + "/socket.io/?" + query }

// polling connects on polling.
func (s *server) polling() *pollClient {
	s.t.Helper()
	transport := &http.Transport{}
	s.t.Cleanup(transport.CloseIdleConnections)
	c := &pollClient{t: s.t, http: &http.Client{Transport: transport, Timeout: wait}, base: s.url("EIO=4&transport=polling")}
	status, body := c.get()
	if status != 200 || !strings.HasPrefix(body, "0{") {
		s.t.Fatalf("got %d %q, want an open packet", status, body)
	}
	var open struct{ SID string }
	if err := json.Unmarshal([]byte(body[1:]), &open); err != nil {
		s.t.Fatal(err)
	}
	c.sid, c.opened = open.SID, body
	c.base += "&sid=" + open.SID
	return c
}

func (c *pollClient) get() (int, string) {
	c.t.Helper()
	return c.do("GET", "", nil)
}

func (c *pollClient) post(body string) (int, string) {
	c.t.Helper()
	return c.do("POST", "text/plain;charset=UTF-8", []byte(body))
}

func (c *pollClient) do(method, contentType string, body []byte) (int, string) {
	c.t.Helper()
	req, err := http.NewRequest(method, c.base, bytes.NewReader(body))
	if err != nil {
		c.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	return c.request(req)
}

func (c *pollClient) request(req *http.Request) (int, string) {
	c.t.Helper()
	resp, err := c.http.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(b)
}

// want polls and compares.
func (c *pollClient) want(want string) {
	c.t.Helper()
	if status, got := c.get(); status != 200 || got != want {
		c.t.Fatalf("got %d %q, want 200 %q", status, got, want)
	}
}

// wantEnd polls and finds that the session is gone.
func (c *pollClient) wantEnd() {
	c.t.Helper()
	if status, got := c.get(); status != 400 || got != `{"code":1,"message":"Session ID unknown"}` {
		c.t.Fatalf("got %d %q, want code 1", status, got)
	}
}

// background runs f and returns a function that waits for its result.
func background[T any](t testing.TB, f func() T) func() T {
	c := make(chan T, 1)
	var wg sync.WaitGroup
	wg.Go(func() { c <- f() })
	t.Cleanup(wg.Wait)
	return func() T { t.Helper(); return receive(t, c) }
}
