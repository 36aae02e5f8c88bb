package transport

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

// fuzzHub is a hub of echoes that runs until the test ends.
func fuzzHub(f testing.TB, l hub.Limits) *hub.Hub {
	h, err := hub.New(memory.NewBus().Broker(), hub.Options{DrainWindow: -1, Limits: l, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		f.Fatal(err)
	}
	h.Of("/").OnAny(func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		if err := m.Ack(m.Args()...); err != nil {
			return err
		}
		return s.Emit("back", m.Args()...)
	})
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // the cleanup waits for it
		defer close(ended)
		h.Run(ctx)
	}()
	f.Cleanup(func() { cancel(); <-ended })
	return h
}

// FuzzServer sends any bytes to a whole server, from the first of a connection on, through the HTTP
// server, the handler, a carrier and a hub. In them SID stands for the ID of a polling session. The
// connection ends, and a client beside it is served as before.
func FuzzServer(f *testing.F) {
	const polling = "GET /socket.io/?EIO=4&transport=polling"
	post := func(body string) string {
		return "POST /socket.io/?EIO=4&transport=polling&sid=SID HTTP/1.1\r\nHost: a\r\nContent-Type: text/plain;charset=UTF-8\r\nContent-Length: " +
			strconv.Itoa(len(body)) + "\r\n\r\n" + body
	}
	const get = polling + "&sid=SID HTTP/1.1\r\nHost: a\r\n\r\n"
	upgrade := upgradeRequest("EIO=4&transport=websocket")
	probe := upgradeRequest("EIO=4&transport=websocket&sid=SID")
	for _, seed := range []string{
		polling + " HTTP/1.1\r\nHost: a\r\n\r\n",
		post("40") + get + get,
		post("40\x1e42[\"a\",1]\x1e451-[\"b\",{\"_placeholder\":true,\"num\":0}]\x1ebAQID") + get + get + get,
		post("42[\"a\"]") + get,
		post("b") + post("1"),
		post("40") + post("") + get,
		strings.Replace(post("4x"), "Content-Length: 2", "Transfer-Encoding: chunked", 1),
		strings.Replace(post("4x"), "text/plain", "application/octet-stream", 1),
		strings.Replace(post("4x"), "Content-Length: 2", "Content-Length: 99999999999", 1),
		upgrade + text("40") + text(`42["a"]`) + text(`421["a"]`) + closing(""),
		upgrade + text("40{}") + text(`451-["b",{"_placeholder":true,"num":0}]`) + bin("x") + text("41"),
		upgrade + text("40/nope,") + text("40") + text("40"),
		upgrade + "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x04mask",
		upgrade + frameBytes(opText, "4") + ping("p") + frameBytes(bitFin, "0"),
		upgrade + bin("nobody announced it"),
		probe + text("2probe") + text("5") + text("40") + text(`42["a"]`),
		post("40") + probe + text("2probe"),
		probe + text("5"),
		strings.Replace(upgrade, "13", "8", 1),
		strings.Replace(upgrade, "transport=websocket", "transport=__proto__", 1),
		"GET /socket.io/?EIO=3&transport=polling HTTP/1.0\r\n\r\n",
		"DELETE /socket.io/?EIO=4&transport=polling&sid=SID HTTP/1.1\r\nHost: a\r\n\r\n",
		"OPTIONS /socket.io/ HTTP/1.1\r\nHost: a\r\nOrigin: http://evil.example\r\n\r\n",
		"\x16\x03\x01\x00\xa5",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
	} {
		f.Add([]byte(seed), uint16(0xffff), true)
		f.Add([]byte(seed), uint16(6), false)
	}
	// The client beside it may answer a ping late when the machine has other work.
	o := Options{MaxPayload: 4096, PingInterval: 300 * time.Millisecond, PingTimeout: 5 * time.Second, Compress: true}
	servers := map[bool]*server{}
	bystanders := map[bool]*bystander{}
	for _, epoll := range []bool{false, true} {
		o.Epoll = epoll
		h := fuzzHub(f, hub.Limits{})
		servers[epoll] = serveWith(f, func(c engine.Conn, r *http.Request) (engine.Receiver, error) { return h.Attach(c, r) }, o)
		bystanders[epoll] = newBystander(servers[epoll])
	}
	f.Fuzz(func(t *testing.T, in []byte, step uint16, epoll bool) {
		if len(in) > 16<<10 || len(in)/(int(step)+1) > 500 {
			return
		}
		s := servers[epoll].with(t)
		if bytes.Contains(in, []byte("SID")) {
			in = bytes.ReplaceAll(in, []byte("SID"), []byte(s.polling().sid))
		}
		conn := s.dial()
		for len(in) > 0 {
			n := min(len(in), int(step)+1)
			if _, err := conn.Write(in[:n]); err != nil {
				break
			}
			in = in[n:]
		}
		conn.(*net.TCPConn).CloseWrite()
		if _, err := io.Copy(io.Discard, conn); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				t.Errorf("the connection does not end: %v", err)
			}
		}
		conn.Close()
		bystanders[epoll].wantEcho(t)
	})
}

// bystander is a client that answers pings, beside those that a fuzzer is.
type bystander struct {
	c     *wsClient
	echos chan struct{} // one for every echo that has come; closed at the end
}

func newBystander(s *server) *bystander {
	b := &bystander{s.websocket(), make(chan struct{}, 1)}
	b.c.conn.SetDeadline(time.Time{})
	b.c.send("40")
	b.c.text()
	go func() { // ends with the server
		defer close(b.echos)
		for {
			_, got, err := b.c.frame()
			switch {
			case err != nil:
				return
			case string(got) == "2":
				b.c.conn.Write(textFrame("3"))
			case string(got) == `42["back","here"]`:
				b.echos <- struct{}{}
			}
		}
	}()
	return b
}

// wantEcho finds that the client is served.
func (b *bystander) wantEcho(t *testing.T) {
	t.Helper()
	b.c.conn.Write(textFrame(`42["still","here"]`))
	select {
	case _, ok := <-b.echos:
		if !ok {
			t.Fatal("a client beside it has been disconnected")
		}
	case <-time.After(wait):
		t.Fatal("a client beside it is not served")
	}
}

// with is s for one test of several.
func (s *server) with(t *testing.T) *server {
	one := *s
	one.t = t
	return &one
}
