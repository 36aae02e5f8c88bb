package transport

import (
	"bufio"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// plainServer serves h as NewServer and Listener do, with another time for the head of a request.
func plainServer(t *testing.T, h http.Handler, headTime time.Duration) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer("", h)
	if headTime > 0 {
		srv.ReadHeaderTimeout = headTime
	}
	srv.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	done := make(chan struct{})
	go func() { defer close(done); srv.Serve(Listener(l)) }()
	t.Cleanup(func() { srv.Close(); <-done })
	return l.Addr().String()
}

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })

func TestARequestWhoseHeadDoesNotComeIsAnsweredWith408(t *testing.T) {
	addr := plainServer(t, hello, 50*time.Millisecond)
	for name, part := range map[string]string{
		"half a line":  "GET / HTTP/1.1\r\nHo",
		"nothing":      "",
		"half a head":  "GET / HTTP/1.1\r\nHost: te",
		"a second one": "GET / HTTP/1.1\r\nHost: test\r\n\r\nGET / HTTP/1.1\r\nHo",
	} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.SetDeadline(time.Now().Add(wait))
			io.WriteString(conn, part)
			br := bufio.NewReader(conn)
			if strings.Contains(part, "\r\n\r\n") {
				resp, err := http.ReadResponse(br, nil)
				if err != nil || resp.StatusCode != 200 {
					t.Fatalf("the first request got %v, %v", resp, err)
				}
				io.Copy(io.Discard, resp.Body)
			}
			b, err := io.ReadAll(br)
			if err != nil {
				t.Fatal(err)
			}
			if part == "" {
				if len(b) != 0 {
					t.Fatalf("a connection that said nothing got %q", b)
				}
				return
			}
			if string(b) != timeoutAnswer {
				t.Fatalf("got %q", b)
			}
		})
	}
}

func TestTheHeadOfARequestIsLimited(t *testing.T) {
	addr := plainServer(t, hello, 0)
	const line = "GET / HTTP/1.1\r\nHost: test\r\nX: \r\n\r\n"
	for extra, want := range map[int]int{0: 200, headerBytes - len(line): 200, headerBytes: 431} {
		conn, err := net.Dial("tcp", addr)
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
	addr := plainServer(t, hello, 100*time.Millisecond)
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(wait))
	br := bufio.NewReader(conn)
	for range 3 {
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		time.Sleep(150 * time.Millisecond) // longer than a head may take, but none has begun
	}
}
