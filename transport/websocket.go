package transport

import (
	"errors"
	"net"
	"os"
	"syscall"
	"time"
	"unicode/utf8"

	"tether/engine"
	"tether/internal/budget"
)

const (
	headSize   = 16       // bytes that are read at first, into memory that the connection has anyway
	bufferSize = 4 << 10  // of a pooled buffer, taken when there is more
	drainChunk = 32 << 10 // what a client must take within WriteTimeout
	kernelSize = 64 << 10 // of the kernel's buffers, in each direction

	// lingerTime is how long a connection is still read after everything was sent, so that the kernel
	// does not answer what the client still sends with a reset, which would destroy what was sent.
	lingerTime = time.Second
)

// websocket is the portable WebSocket carrier: one goroutine reads, on a stack of its own that began
// after the handshake. To the library it is the [net.Conn] of its connection: Read hands over whole
// frames that have been checked, and after the handshake Write and Close do nothing.
type websocket struct {
	descriptor        // of Conn, to write without waiting
	tries      bool   // there is a descriptor
	format     format // of what is written
	probing    bool   // owned by the reader: the session is still on polling

	s        *session // nil for a connection that is refused
	net.Conn          // what it carries over; closed by abort

	raw   syscall.RawConn       // to read without waiting; nil where that is not possible
	fetch func(fd uintptr) bool // reads without waiting; nil when raw is

	// Owned by the reader.
	in    []byte // bytes that came and were not handed over; nil while there are none
	at    int    // in[:at] were handed over
	ready int    // of in[at:], what belongs to a frame that may be handed over
	need  int    // size of the frame at in[at:], 0 while it is not known
	check frameCheck
	timer uint8  // of the message that has begun
	code  uint16 // of the client's close frame
	end   error  // why reading stopped

	share *budget.Share // nil until a message is worth counting

	moved adopted // owned by the reader: what goes on with the connection; nil for most
}

// newConnection returns a session that begins on WebSocket, and the connection of its handshake. On epoll
// the session and what is going to carry it are one piece of memory.
func (h *Handler) newConnection() (*session, *websocket) {
	if h.o.Epoll {
		s, c := newSessionOnEpoll()
		return s, &websocket{s: s, moved: c}
	}
	s := new(session)
	return s, &websocket{s: s}
}

// The states of the read deadline.
const (
	timerOff uint8 = iota
	timerOn        // set for the message that has begun
	timerOld       // set for a message that has ended
)

var (
	// errPeerClosed says that the client sent a close frame.
	errPeerClosed = errors.New("transport: closed by the client")

	// errMoved says that another carrier goes on with the connection.
	errMoved = errors.New("transport: moved to another carrier")

	// errStopped says that nothing more is wanted from the client.
	errStopped = errors.New("transport: reading has stopped")
)

// prepare makes w ready to be a session's carrier, and returns what reads from it.
func (w *websocket) prepare(h *Handler) (*libraryConn, error) {
	if c, ok := w.Conn.(syscall.Conn); ok && canTry {
		raw, err := c.SyscallConn()
		if err == nil {
			err = raw.Control(func(fd uintptr) { w.fd = int32(fd) })
		}
		if err != nil {
			return nil, err
		}
		w.raw, w.fetch, w.tries = raw, w.fetcher(), true
	}
	return h.library.accept(w)
}

// serve starts the reader: the goroutine that reads from the connection until it ends. What it calls
// on the way to a read that waits has small frames, and everything that takes more stack is left to
// others: see workers. The runtime gives a goroutine the stack that goroutines have used on average,
// and this one is most of them.
func (w *websocket) serve(h *Handler, c *libraryConn) {
	go func() { // Handler.Close waits for it: conns
		defer w.served(h)
		h.library.read(c)
	}()
}

// served is deferred by the reader.
func (w *websocket) served(h *Handler) {
	if w.share != nil {
		h.incomplete.Drop(w.share)
	}
	if v := recover(); v != nil {
		h.panicked(v)
		w.end = faultInternal
	}
	if w.end == errMoved {
		w.Conn.Close() // a copy of its descriptor goes on
		w.moved.begin(w.in[w.at:])
		w.release()
		h.conns.End()
		return
	}
	if w.end == nil { // the library has its own view
		w.end = faultProtocol
	}
	w.left(h)
	w.abort()
	h.conns.End()
}

// left does what follows from the end of reading.
func (w *websocket) left(h *Handler) {
	var f fault
	if w.probing {
		w.s.dropProbe(w)
		if errors.As(w.end, &f) {
			w.code = uint16(f)
		}
		w.refuse(h, w.code)
		return
	}
	switch {
	case w.end == errPeerClosed:
		w.s.shut(engine.ReasonTransportClose, w.code)
	case errors.As(w.end, &f):
		w.s.shut(engine.ReasonTransportError, uint16(f))
	case errors.Is(w.end, os.ErrDeadlineExceeded): // a message that did not complete
		w.s.shut(engine.ReasonTransportError, 0)
	case w.end != errStopped:
		w.s.fail(engine.ReasonTransportClose)
		return
	}
	w.discard(h)
	w.s.fail(engine.ReasonTransportClose) // the client has gone before all was written
}

// refuse sends a close frame and waits a moment for the client's.
func (w *websocket) refuse(h *Handler, code uint16) {
	if w.writeWithin(appendCloseFrame(nil, code), h.o.WriteTimeout) == nil {
		w.finish()
		w.discard(h)
	}
}

// discard reads what still comes until the connection ends, which is at the latest when a close
// would have had to complete, or a moment after finish.
func (w *websocket) discard(h *Handler) {
	w.release()
	w.setReadDeadline(time.Now().Add(h.o.WriteTimeout + lingerTime))
	b := h.buffers.get()
	defer h.buffers.put(b)
	for {
		if _, err := w.Conn.Read(b[:]); err != nil {
			return
		}
	}
}

// received is called by the library with every message. data is only lent. received returns the worker
// that is to be told of it, and given back to settled; nil when there is nothing for the session.
//
//go:noinline
func (w *websocket) received(text bool, data []byte) *worker {
	switch compressed := w.check.compressed; {
	case w.end != nil:
	case text && !compressed && !utf8.Valid(data):
		w.end = faultEncoding
	case w.probing && compressed:
		w.end = errStopped
	case w.probing:
		w.probe(text, data)
	default:
		worker := w.s.h.workers.get()
		worker.job = job{s: w.s, text: text, compressed: compressed, data: data}
		return worker
	}
	return nil
}

// settled notes whether the session goes on after what worker did.
//
//go:noinline
func (w *websocket) settled(worker *worker, ok bool) {
	w.s.h.workers.put(worker)
	if !ok {
		w.end = errStopped
	}
}

// pinged is called by the library with every ping.
func (w *websocket) pinged(payload []byte) {
	if w.probing {
		if err := w.writeWithin(appendPongFrame(nil, payload), w.s.h.o.WriteTimeout); err != nil {
			w.end = err
		}
		return
	}
	w.s.pinged(payload)
}

// Write does nothing: the library has nothing to say to the client.
func (w *websocket) Write(p []byte) (int, error) { return len(p), nil }

// Close does nothing: the reader closes the connection when it ends.
func (w *websocket) Close() error { return nil }

// SetDeadline does nothing: deadlines are this side's.
func (w *websocket) SetDeadline(time.Time) error { return nil }

func (w *websocket) direct() bool    { return w.tries }
func (w *websocket) formats() format { return w.format }

// abort implements [carrier]. It may be called more than once.
func (w *websocket) abort() {
	if w.acquire() {
		w.shut()
		w.done()
	}
}

// done gives acquire back.
func (w *websocket) done() {
	if w.descriptor.release() {
		w.Conn.Close()
	}
}

func (w *websocket) tryWrite(b []byte) (int, error) {
	if !w.acquire() {
		return 0, net.ErrClosed
	}
	n, err := tryWrite(int(w.fd), b)
	w.done()
	return n, err
}

func (w *websocket) finish() {
	w.Conn.SetReadDeadline(time.Now().Add(lingerTime))
	if c, ok := w.Conn.(interface{ CloseWrite() error }); ok && c.CloseWrite() == nil {
		return
	}
	w.abort()
}

// deadlinesLocked: both are those of Conn.
func (w *websocket) deadlinesLocked() (write, message int64) { return never, never }
func (w *websocket) overdueLocked() func()                   { return nil }

func (w *websocket) resume() bool { return true }

func (w *websocket) drain(rest []byte, r round) {
	w.s.h.conns.Go(func() { w.drainAll(rest, r) })
}

// drainAll writes and waits for the client to take it, as long as it takes something within
// WriteTimeout.
func (w *websocket) drainAll(rest []byte, r round) {
	s := w.s
	out := s.h.writer()
	for {
		for len(rest) > 0 {
			n := min(len(rest), drainChunk)
			if err := w.writeWithin(rest[:n], s.h.o.WriteTimeout); err != nil {
				if errors.Is(err, os.ErrDeadlineExceeded) {
					s.tooSlow()
				} else {
					s.fail(engine.ReasonTransportError)
				}
				return
			}
			rest = rest[n:]
		}
		if !s.wrote(r) {
			break
		}
		if rest, r, _ = out.take(s); len(rest) == 0 {
			break
		}
		s.unwritten(rest, r)
	}
	s.h.recycle(out)
}

// writeWithin writes b within d. No deadline is left behind.
func (w *websocket) writeWithin(b []byte, d time.Duration) error {
	w.Conn.SetWriteDeadline(time.Now().Add(d))
	_, err := w.Conn.Write(b)
	w.Conn.SetWriteDeadline(time.Time{})
	return err
}
