package transport

import (
	"errors"
	"io"
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
		h.conns.Done()
		return
	}
	if w.end == nil { // the library has its own view
		w.end = faultProtocol
	}
	w.left(h)
	w.abort()
	h.conns.Done()
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

// setReadDeadline leaves the deadline alone once finish may have set it.
func (w *websocket) setReadDeadline(t time.Time) {
	if w.s == nil {
		return
	}
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	if w.s.state != stateEnded && !w.probing {
		w.Conn.SetReadDeadline(t)
	}
}

// Read hands over bytes of whole frames, never of more than one at a time, so that the library has
// dealt with a message before the next one is looked at. While nothing comes it holds no memory.
func (w *websocket) Read(p []byte) (int, error) {
	for {
		n, space := w.hand(p)
		switch {
		case n > 0 || w.end != nil:
			return n, w.end
		case w.raw != nil:
			if err := w.raw.Read(w.fetch); err != nil && w.end == nil {
				w.end = err
			}
		default:
			n, err := w.Conn.Read(space)
			if n = w.came(p, n, err); n > 0 {
				return n, nil
			}
		}
	}
}

// hand hands over what may be, or says where to read to.
//
//go:noinline
func (w *websocket) hand(p []byte) (n int, space []byte) {
	switch {
	case w.end != nil:
		return 0, nil
	case w.in == nil:
		w.setTimer()
		return 0, p
	case w.ready == 0:
		if w.end = w.look(); w.end != nil {
			return 0, nil
		}
		if w.ready == 0 {
			w.grow()
			w.setTimer()
			return 0, w.in[len(w.in):cap(w.in)]
		}
	}
	n = copy(p, w.in[w.at:w.at+w.ready])
	w.at += n
	if w.ready -= n; w.at == len(w.in) {
		w.release()
	}
	return n, nil
}

// fetcher returns fetch, which reads what has come, when something has. A connection that waits for
// its first byte has no buffer: one is taken for every attempt.
func (w *websocket) fetcher() func(fd uintptr) bool {
	return func(fd uintptr) bool {
		if w.in == nil {
			w.in = w.s.h.buffers.get()[:0]
			w.at = 0
		}
		n, err := tryRead(fd, w.in[len(w.in):cap(w.in)])
		for interrupted(err) {
			n, err = tryRead(fd, w.in[len(w.in):cap(w.in)])
		}
		if n > 0 {
			w.in = w.in[:len(w.in)+n]
			return true
		}
		if len(w.in) == 0 {
			w.release()
		}
		if wouldBlock(err) {
			return false
		}
		if w.end = err; err == nil {
			w.end = io.EOF
		}
		return true
	}
}

// came takes note of n bytes that were read where fetch cannot. When they are in p and a whole frame,
// it leaves them there and returns n; else they are kept, and it returns 0.
//
//go:noinline
func (w *websocket) came(p []byte, n int, err error) int {
	if n == 0 {
		w.end = err
		return 0
	}
	if w.in != nil {
		w.in = w.in[:len(w.in)+n]
		return 0
	}
	f, ok, err := w.check.next(p[:n], w.s.h.o.MaxPayload, w.format.compressed())
	if err != nil {
		w.end = err
		return 0
	}
	if ok {
		if w.end = w.s.allows(&f); w.end != nil {
			return 0
		}
		p[0] &^= bitRSV1
		if f.size() == n && f.op != opClose {
			w.passed()
			return n
		}
		w.need = f.size()
	}
	w.in, w.at = w.s.h.buffers.get()[:n], 0
	copy(w.in, p)
	return 0
}

// look finds out whether in[at:] begins with a whole frame.
func (w *websocket) look() error {
	b := w.in[w.at:]
	if w.need == 0 {
		f, ok, err := w.check.next(b, w.s.h.o.MaxPayload, w.format.compressed())
		if err != nil || !ok {
			return err
		}
		if err := w.s.allows(&f); err != nil {
			return err
		}
		w.need = f.size()
		b[0] &^= bitRSV1
	}
	if len(b) < w.need {
		return nil
	}
	if b[0]&0x0f == opClose {
		return w.peerClosed(b[:w.need])
	}
	w.ready, w.need = w.need, 0
	w.passed()
	return nil
}

// passed notes that a whole frame has come.
func (w *websocket) passed() {
	if w.check.open {
		return
	}
	w.check.size = 0
	if w.timer == timerOn {
		w.timer = timerOld
	}
}

// peerClosed reads a close frame.
func (w *websocket) peerClosed(b []byte) (err error) {
	f := frame{mask: [4]byte(b[2:6])}
	f.unmask(b[6:])
	if w.code, err = closeCode(b[6:]); err != nil {
		return err
	}
	return errPeerClosed
}

// grow makes room behind what is there. Memory grows with what has come, to the size of the frame.
func (w *websocket) grow() {
	if len(w.in) < cap(w.in) {
		return
	}
	if w.at > 0 {
		w.in, w.at = w.in[:copy(w.in, w.in[w.at:])], 0
		return
	}
	more := make([]byte, len(w.in), min(2*cap(w.in), w.need))
	copy(more, w.in)
	w.free()
	w.in = more
}

// setTimer sets or clears the read deadline, before a read that may wait.
func (w *websocket) setTimer() {
	w.note()
	switch begun := len(w.in) > w.at || w.check.open; {
	case w.probing: // the upgrade has a deadline of its own
	case begun && w.timer != timerOn:
		w.timer = timerOn
		w.setReadDeadline(time.Now().Add(w.s.h.o.MessageTimeout))
	case !begun && w.timer != timerOff:
		w.timer = timerOff
		w.setReadDeadline(time.Time{})
	}
}

// note has the budget know what has come of a message that is not complete.
func (w *websocket) note() {
	held := w.check.size
	if w.need > 0 && w.in[w.at]&bitFin == 0 {
		held = max(0, held-w.need) // this fragment has not come
	}
	held *= 2 // at most: the library's buffer for fragments doubles
	if cap(w.in) > bufferSize {
		held += cap(w.in)
	}
	if held < budget.Small && w.share == nil {
		return
	}
	w.hold(held)
}

//go:noinline
func (w *websocket) hold(bytes int) {
	if w.share == nil {
		w.share = &budget.Share{End: func() { w.s.fail(engine.ReasonTransportError) }}
	}
	w.s.h.incomplete.Hold(w.share, bytes)
}

// release gives back the buffer.
func (w *websocket) release() {
	w.free()
	w.in, w.at, w.ready, w.need = nil, 0, 0, 0
}

func (w *websocket) free() {
	if cap(w.in) == bufferSize && w.s != nil {
		w.s.h.buffers.put((*[bufferSize]byte)(w.in[:bufferSize]))
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
	w.s.h.spawn(func() { w.drainAll(rest, r) })
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
		s.stalls(rest, r)
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
