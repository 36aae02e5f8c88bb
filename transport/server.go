package transport

import (
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	headerTime  = 10 * time.Second
	headerBytes = 64 << 10
	idleTime    = 2 * time.Minute
)

// NewServer is an [http.Server] for any handler that bounds what a client can do before its request
// has been read: the head of a request may be 64 KiB (431 otherwise) and must come within 10 s (408 on
// a [Listener], otherwise the connection is closed without a word). Connections that wait for their
// next request are closed after 2 minutes. There is no limit on the time of a request as a whole,
// which a long-polling request spends waiting.
func NewServer(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           h,
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    headerBytes - 4096, // net/http adds 4 KiB
		IdleTimeout:       idleTime,
		ConnState:         connState,
	}
}

// Listener wraps l for an [http.Server] made by [NewServer]. It has a request whose head does not come
// in time answered with 408, and bounds the kernel's send buffer of every connection to 64 KiB.
func Listener(l net.Listener) net.Listener { return headListener{l} }

type headListener struct{ net.Listener }

func (l headListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	if b, ok := c.(interface{ SetWriteBuffer(int) error }); ok {
		b.SetWriteBuffer(kernelSize)
	}
	hc := &headConn{Conn: c}
	hc.heading.Store(true)
	return hc, nil
}

// headConn knows whether its server waits for the head of a request, and answers with 408 when that
// is what a read timed out on.
type headConn struct {
	net.Conn

	heading atomic.Bool  // set by connState: a head is being read, or waited for
	begun   atomic.Bool  // bytes of it have come
	waits   atomic.Int32 // deadlines that net/http sets on an idle connection before a head has begun
	dead    atomic.Bool  // it was answered with 408; what net/http thinks of the bytes is not sent
}

const timeoutAnswer = "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Content-Length: 19\r\nConnection: close\r\n\r\n408 Request Timeout"

func (c *headConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.begun.Store(true)
	}
	if t, ok := err.(net.Error); ok && t.Timeout() && c.begun.Load() && c.heading.CompareAndSwap(true, false) {
		c.dead.Store(true)
		c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		c.Conn.Write([]byte(timeoutAnswer))
	}
	return n, err
}

func (c *headConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

// SetReadDeadline counts: on a connection between two requests net/http sets a deadline for the
// first bytes of the next one, and when it has them, which may have come together with the request
// before, one for the rest of the head.
func (c *headConn) SetReadDeadline(t time.Time) error {
	if c.waits.Load() > 0 && c.waits.Add(-1) == 0 {
		c.begun.Store(true)
	}
	return c.Conn.SetReadDeadline(t)
}

// CloseWrite lets net/http end a connection without a reset.
func (c *headConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
}

func connState(conn net.Conn, state http.ConnState) {
	c, ok := conn.(*headConn)
	if !ok {
		return
	}
	switch state {
	case http.StateIdle:
		c.begun.Store(false)
		c.waits.Store(2)
		c.heading.Store(true)
	case http.StateActive, http.StateHijacked, http.StateClosed:
		c.heading.Store(false)
	}
}
