package transport

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
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

// serveHello is serveAll for hello.
func serveHello(t *testing.T, f func(t *testing.T, dial func() net.Conn)) { serveAll(t, hello, f) }

var hello = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })

func TestARequestWhoseHeadDoesNotComeEndsTheConnection(t *testing.T) {
	const whole = "GET / HTTP/1.1\r\nHost: test\r\n\r\n"
	for _, tt := range []struct {
		name, part string
		after      time.Duration
	}{
		{"nothing", "", headerTime},
		{"a byte", "G", headerTime},
		{"half a line", "GET / HTTP/1.1\r\nHo", headerTime},
		{"half a head", "GET / HTTP/1.1\r\nHost: te", headerTime},
		{"a second one", whole + "GET / HTTP/1.1\r\nHo", headerTime},
		{"no second one", whole, idleTime},
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
				if _, err := io.ReadAll(br); err != nil {
					t.Errorf("got %v, want the end of the connection", err)
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

// serveAll runs f in fake time with a function that connects to a server of h.
func serveAll(t *testing.T, h http.Handler, f func(t *testing.T, dial func() net.Conn)) {
	synctest.Test(t, func(t *testing.T) {
		l := pipes{make(chan net.Conn), make(chan struct{})}
		srv := NewServer("", h)
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

func TestABodyThatDoesNotComeEndsTheConnection(t *testing.T) {
	reader := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("reading the body: %v", err)
		}
	})
	for name, h := range map[string]http.Handler{"that is read": reader, "that nobody reads": hello} {
		t.Run(name, func(t *testing.T) {
			serveAll(t, h, func(t *testing.T, dial func() net.Conn) {
				conn := dial()
				start := time.Now()
				var drip sync.WaitGroup
				drip.Go(func() { // a byte a second
					io.WriteString(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n")
					for {
						if _, err := conn.Write([]byte{'x'}); err != nil {
							return
						}
						time.Sleep(time.Second)
					}
				})
				defer drip.Wait()
				defer conn.Close()
				io.Copy(io.Discard, conn)
				if got := time.Since(start); got < bodyTime || got > bodyTime+time.Second {
					t.Errorf("the connection ended after %v, want %v", got, bodyTime)
				}
			})
		})
	}
}

func TestABodyThatKeepsComingHasAllTheTimeThatItNeeds(t *testing.T) {
	const size = 10 * bodyChunk
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if n, err := io.Copy(io.Discard, r.Body); n != size || err != nil {
			t.Errorf("the body: %d bytes, %v", n, err)
		}
		select {
		case <-r.Context().Done():
			t.Error("the context of the request has ended with its body's time")
		case <-time.After(2 * bodyTime):
		}
		io.WriteString(w, "hello")
	})
	serveAll(t, h, func(t *testing.T, dial func() net.Conn) {
		conn := dial()
		var sender sync.WaitGroup
		defer sender.Wait()
		defer conn.Close()
		sender.Go(func() {
			fmt.Fprintf(conn, "POST / HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n", size)
			for range 10 {
				conn.Write(make([]byte, bodyChunk))
				time.Sleep(bodyTime * 9 / 10)
			}
		})
		wantHello(t, bufio.NewReader(conn))
	})
}

func TestAClientThatDoesNotTakeItsAnswerIsGivenUp(t *testing.T) {
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		for {
			if _, err := w.Write(make([]byte, answerChunk)); err != nil {
				if got := time.Since(start); got != answerTime {
					t.Errorf("the answer failed after %v, want %v", got, answerTime)
				}
				return
			}
		}
	})
	serveAll(t, h, func(t *testing.T, dial func() net.Conn) {
		conn := dial()
		defer conn.Close()
		io.WriteString(conn, "GET / HTTP/1.1\r\nHost: test\r\n\r\n")
		time.Sleep(2 * answerTime)
	})
}
