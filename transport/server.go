package transport

import (
	"errors"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	headerTime  = 10 * time.Second
	headerBytes = 64 << 10
	idleTime    = 2 * time.Minute
	bodyTime    = 10 * time.Second // for each bodyChunk
	bodyChunk   = 64 << 10
	answerTime  = 20 * time.Second // for each answerChunk
	answerChunk = 64 << 10
)

// NewServer is an [http.Server] for any handler that bounds what a client can do:
//
//   - The head of a request may be 64 KiB (431 otherwise) and must come within 10 s (408 on a
//     [Listener], otherwise the connection is closed without a word).
//   - The body of a request must come at 64 KiB in 10 s or faster. Then reading it fails with
//     [os.ErrDeadlineExceeded]. A handler that sets a read deadline with [http.ResponseController]
//     replaces that.
//   - On a [Listener], a client must take 64 KiB of an answer within 20 s, or the connection ends. A
//     write deadline that a handler sets counts instead.
//   - A connection that waits for its next request is closed after 2 minutes.
//
// There is no limit on the time of a request as a whole, which a long-polling request spends waiting.
func NewServer(addr string, h http.Handler) *http.Server {
	return &http.Server{
		Addr:              addr,
		Handler:           boundBodies(h),
		ReadHeaderTimeout: headerTime,
		MaxHeaderBytes:    headerBytes - 4096, // net/http adds 4 KiB
		IdleTimeout:       idleTime,
		ConnState:         connState,
	}
}

// Listener wraps l for an [http.Server] made by [NewServer]. It has a request whose head does not come
// in time answered with 408, except under TLS, gives up clients that do not take their answer, and
// bounds the kernel's send buffer of every connection to 64 KiB.
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
	secret  atomic.Bool  // the client speaks TLS, in which nothing can be answered here
	bounded atomic.Bool  // somebody has set a write deadline
}

// tlsHandshake is the first byte of a TLS connection, RFC 8446 section 5.1. No HTTP method begins so.
const tlsHandshake = 22

const timeoutAnswer = "HTTP/1.1 408 Request Timeout\r\nContent-Type: text/plain; charset=utf-8\r\n" +
	"Content-Length: 19\r\nConnection: close\r\n\r\n408 Request Timeout"

func (c *headConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 && !c.begun.Swap(true) && p[0] == tlsHandshake {
		c.secret.Store(true)
	}
	if c.secret.Load() {
		return n, err
	}
	if t, ok := err.(net.Error); ok && t.Timeout() && c.begun.Load() && c.heading.CompareAndSwap(true, false) {
		c.dead.Store(true)
		c.Conn.SetWriteDeadline(time.Now().Add(time.Second))
		c.Conn.Write([]byte(timeoutAnswer))
	}
	return n, err
}

// Write gives the client answerTime for each answerChunk.
func (c *headConn) Write(p []byte) (int, error) {
	if c.dead.Load() {
		return len(p), nil
	}
	if c.bounded.Load() {
		return c.Conn.Write(p)
	}
	written := 0
	for {
		c.Conn.SetWriteDeadline(time.Now().Add(answerTime))
		n, err := c.Conn.Write(p[written:min(written+answerChunk, len(p))])
		written += n
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// SetWriteDeadline replaces the deadline of Write, until it is cleared.
func (c *headConn) SetWriteDeadline(t time.Time) error {
	c.bounded.Store(!t.IsZero())
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *headConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
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

// boundBodies gives the bodies of requests their time.
func boundBodies(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			// A body that the handler does not read is read by net/http before the answer leaves, from the
			// connection: the deadline is there for that too.
			b := &boundBody{ReadCloser: r.Body, conn: http.NewResponseController(w)}
			b.extend()
			r.Body = b
		}
		h.ServeHTTP(w, r)
	})
}

// boundBody is a body that has to keep coming.
type boundBody struct {
	io.ReadCloser
	conn *http.ResponseController
	left int // of the chunk that the deadline is for
}

// extend starts another chunk. A connection without deadlines, a test's say, is not bounded.
func (b *boundBody) extend() {
	b.conn.SetReadDeadline(time.Now().Add(bodyTime))
	b.left = bodyChunk
}

func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	switch b.left -= n; {
	case err == io.EOF: // from here on it would end the request's context
		b.conn.SetReadDeadline(time.Time{})
	case b.left <= 0:
		b.extend()
	}
	return n, err
}
