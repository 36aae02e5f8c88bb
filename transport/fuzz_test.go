package transport

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"tether/engine"
)

// pipe connects a client to h over a pipe in memory, past net/http. It returns the client's end once
// the handshake has been answered.
func pipe(t testing.TB, h *Handler, query string) *wsClient {
	t.Helper()
	c, served := pipeHead(t, h, query)
	c.text()
	<-served
	return c
}

// pipeHead is pipe up to the head of the answer. The channel is closed when the handler has returned.
func pipeHead(t testing.TB, h *Handler, query string) (*wsClient, <-chan struct{}) {
	t.Helper()
	ours, theirs := net.Pipe()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(upgradeRequest(query))))
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		h.ServeHTTP(&hijacker{conn: theirs}, r)
	}()
	c := &wsClient{t: t, conn: ours, br: bufio.NewReader(ours)}
	if c.head, err = http.ReadResponse(c.br, r); err != nil {
		t.Fatal(err)
	}
	return c, served
}

// hijacker is a response writer that can only be hijacked.
type hijacker struct {
	conn   net.Conn
	header http.Header
}

func (h *hijacker) Header() http.Header {
	if h.header == nil {
		h.header = http.Header{}
	}
	return h.header
}
func (h *hijacker) Write(b []byte) (int, error) { return len(b), nil }
func (h *hijacker) WriteHeader(int)             {}
func (h *hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}

// feed sends in to a server in pieces of step bytes, and checks that the session ends once, and that
// what the server sends is well formed.
func feed(t *testing.T, in []byte, step int) {
	e := &echo{closed: make(chan engine.Reason, 2)}
	h := newEngine(func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
		e.c = c
		return e, nil
	}, Options{MaxPayload: 4096, Logger: slog.New(slog.DiscardHandler)})
	c := pipe(t, h, "EIO=4&transport=websocket")
	answered := make(chan error)
	go func() {
		for {
			first, _, err := c.frame()
			if err != nil {
				answered <- nil
				return
			}
			switch first {
			case bitFin | opText, bitFin | opBinary, bitFin | opPong, bitFin | opClose:
			default:
				t.Errorf("the server sent a frame that begins with %#x", first)
			}
		}
	}()
	c.conn.SetDeadline(time.Now().Add(wait))
	for len(in) > 0 {
		n := min(step, len(in))
		if _, err := c.conn.Write(in[:n]); err != nil {
			break
		}
		in = in[n:]
	}
	c.conn.Close()
	<-answered
	<-e.closed
	h.Close()
	if len(e.closed) != 0 {
		t.Error("the receiver was told of the end twice")
	}
}

// FuzzHandshake sends any bytes in the place of a request, through the checks that precede the
// upgrade. A request is answered, and only one that is in order with 101.
func FuzzHandshake(f *testing.F) {
	good := upgradeRequest("EIO=4&transport=websocket")
	f.Add([]byte(good))
	f.Add([]byte(strings.Replace(good, "13", "8", 1)))
	f.Add([]byte(strings.Replace(good, goodKey, "YQ==", 1)))
	f.Add([]byte(strings.Replace(good, "Connection: Upgrade", "Connection: noUpgradeish", 1)))
	f.Add([]byte(strings.Replace(good, "HTTP/1.1", "HTTP/1.0", 1)))
	f.Add([]byte(strings.Replace(good, "Host: test", "Host: test\r\nOrigin: http://evil.example", 1)))
	f.Add([]byte("POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n40"))
	f.Add([]byte("GET /socket.io/?EIO=4&transport=polling&sid=x HTTP/1.1\r\nHost: a\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(in)))
		if err != nil {
			return
		}
		h := newEngine(func(engine.Conn, *http.Request) (engine.Receiver, error) { return deaf{}, nil },
			Options{Logger: slog.New(slog.DiscardHandler)})
		ours, theirs := net.Pipe()
		w := &answer{hijacker: hijacker{conn: theirs}}
		got := make(chan []byte, 1)
		go func() {
			b, _ := io.ReadAll(io.LimitReader(ours, 12))
			got <- b
			io.Copy(io.Discard, ours)
		}()
		h.ServeHTTP(w, r)
		switch {
		case w.status == 0: // hijacked
			if b := <-got; string(b) != "HTTP/1.1 101" {
				t.Errorf("answered with %q", b)
			}
			if checkHandshake(r) != nil {
				t.Error("upgraded a request that is not in order")
			}
		case w.status < 200 || w.status > 599:
			t.Errorf("status %d", w.status)
		}
		ours.Close()
		theirs.Close()
		if w.status != 0 {
			<-got
		}
		h.Close()
	})
}

// answer keeps the status of an answer.
type answer struct {
	hijacker
	status int
}

func (a *answer) WriteHeader(status int) { a.status = status }
func (a *answer) Write(b []byte) (int, error) {
	if a.status == 0 {
		a.status = http.StatusOK
	}
	return len(b), nil
}
