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
//   - The head of a request may be 64 KiB (431 otherwise) and must come within 10 s, or the connection is
//     closed.
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
	}
}

// Listener wraps l for an [http.Server] made by [NewServer]. It gives up clients that do not take their
// answer, and bounds the kernel's send buffer of every connection to 64 KiB.
func Listener(l net.Listener) net.Listener { return boundListener{l, kernelSize, 0} }

// boundListener bounds what the kernel holds for a connection.
type boundListener struct {
	net.Listener
	send, receive int // sizes of the kernel's buffers in bytes; 0 or less: as they are
}

func (l boundListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	// An error of these says that the connection has gone, and so does the first read.
	b, ok := c.(interface {
		SetReadBuffer(int) error
		SetWriteBuffer(int) error
	})
	if ok && l.send > 0 {
		_ = b.SetWriteBuffer(l.send)
	}
	if ok && l.receive > 0 {
		_ = b.SetReadBuffer(l.receive)
	}
	return &boundConn{Conn: c}, nil
}

// boundConn gives a client time for each part of an answer, unless somebody else has set a deadline.
type boundConn struct {
	net.Conn

	bounded atomic.Bool // somebody has set a write deadline
}

// Write gives the client answerTime for each answerChunk.
func (c *boundConn) Write(p []byte) (int, error) {
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
func (c *boundConn) SetWriteDeadline(t time.Time) error {
	c.bounded.Store(!t.IsZero())
	return c.Conn.SetWriteDeadline(t)
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (c *boundConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// CloseWrite lets net/http end a connection without a reset.
func (c *boundConn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return nil
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
