package transport

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// pipes is a listener whose connections are pipes in memory.
type pipes struct {
	conns  chan net.Conn
	closed chan struct{}
}

func (l pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}
func (l pipes) Close() error   { close(l.closed); return nil }
func (l pipes) Addr() net.Addr { return &net.TCPAddr{} }

// serveHello runs f in fake time with a function that connects to a server of hello.
func serveHello(t *testing.T, f func(t *testing.T, dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{make(chan net.Conn), make(chan struct{})}
		srv := NewServer("", hello)
		srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
		go srv.Serve(Listener(l))
		f(t, func() net.Conn {
			ours, theirs := net.Pipe()
			l.conns <- theirs
			return ours
		})
		srv.Close()
	})
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })

func TestARequestWhoseHeadDoesNotComeIsAnsweredWith408(t *testing.T) {
	const whole = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
	for _, tt := range []struct {
		name, part, want string
		after            time.Duration
	}{
		{"nothing", "", "", headerTime},
		{"a byte", "G", timeoutAnswer, headerTime},
		{"half a line", "GET / HTTP/1.1\r\nHo", timeoutAnswer, headerTime},
		{"half a head", "GET / HTTP/1.1\r\nHost: te", timeoutAnswer, headerTime},
		{"a second one", whole + "GET / HTTP/1.1\r\nHo", timeoutAnswer, headerTime},
		{"no second one", whole, "", idleTime},
	} {
		t.Run(tt.name, func(t *testing.T) {
			serveHello(t, func(t *testing.T, dial func() net.Conn) {
				conn := dial()
				defer conn.Close()
				start := time.Now()
				go io.WriteString(conn, tt.part)
				br := bufio.NewReader(conn)
				if strings.HasPrefix(tt.part, whole) {
					wantHello(t, br)
				}
				b, err := io.ReadAll(br)
				if string(b) != tt.want || err != nil {
					t.Errorf("got %q, %v; want %q", b, err, tt.want)
				}
				if got := time.Since(start); got != tt.after {
					t.Errorf("after %v, want %v", got, tt.after)
				}
			})
		})
	}
}

func wantHello(t *testing.T, br *bufio.Reader) {
	t.Helper()
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if resp.StatusCode != http.StatusOK || string(b) != "hello" || err != nil {
		t.Fatalf("got %d %q, %v", resp.StatusCode, b, err)
	}
}

func TestTheHeadOfARequestIsLimited(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer("", hello)
	go srv.Serve(Listener(l))
	defer srv.Close()
	const line = "GET / HTTP/1.1\r\nHost: test\r\nX: \r\n\r\n"
	for extra, want := range map[int]int{0: 200, headerBytes - len(line): 200, headerBytes - len(line) + 1: 431} {
		conn, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(wait))
		go io.WriteString(conn, strings.Replace(line, "X: ", "X: "+strings.Repeat("x", extra), 1))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%d bytes: %v", len(line)+extra, err)
		}
		if resp.StatusCode != want {
			t.Errorf("%d bytes: got %d, want %d", len(line)+extra, resp.StatusCode, want)
		}
		conn.Close()
	}
}

func TestAServerKeepsItsConnectionsForTheNextRequest(t *testing.T) {
	serveHello(t, func(t *testing.T, dial func() net.Conn) {
		conn := dial()
		defer conn.Close()
		br := bufio.NewReader(conn)
		for range 3 {
			go io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
			wantHello(t, br)
			time.Sleep(time.Minute) // longer than a head may take, but none has begun
		}
	})
}
