package transport

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
	"time"

	"tether/engine"
)

const (
	headSize   = 16       // bytes that are read at first where reading waits
	drainChunk = 32 << 10 // what a client must take within WriteTimeout
	kernelSize = 64 << 10 // of the kernel's buffers, in each direction

	// lingerTime is how long a connection is still read after everything was sent, so that the kernel
	// does not answer what the client still sends with a reset, which would destroy what was sent.
	lingerTime = time.Second
)

// websocket is the portable WebSocket carrier: one goroutine reads, on a stack of its own that began
// after the handshake.
type websocket struct {
	descriptor        // of Conn, to write without waiting
	tries      bool   // there is a descriptor
	format     format // of what is written
	probing    bool   // owned by the reader: the session is still on polling

	s        *session // nil for a connection that is refused
	net.Conn          // what it carries over; closed by abort

	raw   syscall.RawConn       // to read without waiting; nil where that is not possible
	fetch func(fd uintptr) bool // reads without waiting; nil when raw is
	first *[headSize]byte       // what is read to at first; nil when raw is not

	// Owned by the reader.
	in    *readState // nil while there is nothing
	timer uint8      // of the message that has begun
	code  uint16     // of the client's close frame
	end   error      // why reading stopped
	moved adopted    // what goes on with the connection; nil for most
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

// prepare makes w ready to be a session's carrier.
func (w *websocket) prepare() error {
	c, ok := w.Conn.(syscall.Conn)
	if !ok || !canTry {
		w.first = new([headSize]byte)
		return nil
	}
	raw, err := c.SyscallConn()
	if err == nil {
		err = raw.Control(func(fd uintptr) { w.fd = int32(fd) })
	}
	w.raw, w.fetch, w.tries = raw, w.fetcher(), true
	return err
}

// serve starts the reader: the goroutine that reads from the connection until it ends. What it calls
// on the way to a read that waits has small frames, and everything that takes more stack is left to
// others: see workers. The runtime gives a goroutine the stack that goroutines have used on average,
// and this one is most of them.
func (w *websocket) serve(h *Handler) {
	go func() { // Handler.Close waits for it: conns
		defer w.served(h)
		for w.handle(); w.end == nil; w.handle() {
			w.setTimer()
			w.fill()
		}
	}()
}

// fill waits until something comes, and reads it. While nothing comes the connection holds no memory.
func (w *websocket) fill() {
	if w.raw != nil {
		if err := w.raw.Read(w.fetch); err != nil && w.end == nil {
			w.end = err
		}
		return
	}
	b := w.first[:]
	if w.in != nil {
		b = w.in.room()
	}
	n, err := w.Conn.Read(b)
	if n == 0 {
		w.end = err
		return
	}
	if w.in == nil {
		w.in = w.s.h.reads.get()
		copy(w.in.room(), b[:n])
	}
	w.in.buf = w.in.buf[:len(w.in.buf)+n]
}

// fetcher returns fetch, which reads what has come, when something has. A connection that waits for
// its first byte has no buffer: one is taken for every attempt.
func (w *websocket) fetcher() func(fd uintptr) bool {
	return func(fd uintptr) bool {
		if w.in == nil {
			w.in = w.s.h.reads.get()
		}
		b := w.in.room()
		n, err := tryRead(fd, b)
		for interrupted(err) {
			n, err = tryRead(fd, b)
		}
		if n > 0 {
			w.in.buf = w.in.buf[:len(w.in.buf)+n]
			return true
		}
		if !w.in.begun() {
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

// handle deals with the messages that are whole.
//
//go:noinline
func (w *websocket) handle() {
	for in := w.in; in != nil && w.end == nil; in.whole = false {
		if w.end = in.next(w.s, w.format, w); w.end != nil {
			w.code = in.code
			return
		}
		if !in.whole {
			if !in.begun() {
				w.release()
			}
			return
		}
		if w.timer == timerOn {
			w.timer = timerOld
		}
		switch {
		case w.probing && in.check.compressed:
			w.end = errStopped
		case w.probing:
			w.probe(in.text, in.data)
		default:
			w.receive(job{s: w.s, text: in.text, compressed: in.check.compressed, data: in.data})
		}
	}
}

// receive leaves a message to a worker, and waits for it.
func (w *websocket) receive(j job) {
	worker := w.s.h.workers.get()
	worker.job = j
	worker.jobs <- struct{}{}
	if !<-worker.ok {
		w.end = errStopped
	}
	w.s.h.workers.put(worker)
}

// setTimer sets or clears the read deadline, before a read that may wait, and tells the budget what has come.
func (w *websocket) setTimer() {
	begun := w.in != nil
	if begun {
		w.in.note(w.s)
	}
	switch {
	case w.probing: // the upgrade has a deadline of its own
	case begun && w.timer != timerOn:
		w.timer = timerOn
		w.setReadDeadline(time.Now().Add(w.s.h.o.MessageTimeout))
	case !begun && w.timer != timerOff:
		w.timer = timerOff
		w.setReadDeadline(time.Time{})
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

// early is what has come before a reader was there for it.
func (w *websocket) early() []byte {
	if w.in == nil {
		return nil
	}
	return w.in.buf[w.in.at:]
}

// release gives back what has come.
func (w *websocket) release() {
	if w.in != nil {
		w.s.h.recycle(w.in)
		w.in = nil
	}
}

// served is deferred by the reader.
func (w *websocket) served(h *Handler) {
	if v := recover(); v != nil {
		h.panicked(v)
		w.end = faultInternal
	}
	if w.end == errMoved {
		w.Conn.Close() // a copy of its descriptor goes on
		w.moved.begin(w.early())
		w.release()
		h.conns.End()
		return
	}
	w.left(h)
	w.release()
	w.abort()
	h.conns.End()
}

// left does what follows from the end of reading.
func (w *websocket) left(h *Handler) {
	var f fault
	if w.probing {
		w.s.dropProbe(w)
		if w.s.poll.arrival != nil {
			h.departed(w.s)
		}
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
	w.setReadDeadline(time.Now().Add(h.o.WriteTimeout + lingerTime))
	in := h.reads.get()
	defer h.reads.put(in)
	for {
		if _, err := w.Conn.Read(in.room()); err != nil {
			return
		}
	}
}

// pinged implements [pinger].
func (w *websocket) pinged(payload []byte) error {
	if w.probing {
		return w.writeWithin(appendPongFrame(nil, payload), w.s.h.o.WriteTimeout)
	}
	w.s.pinged(payload)
	return nil
}

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
	w.s.h.burst.bytes.Add(uint64(max(n, 0)))
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
			s.h.burst.bytes.Add(uint64(n))
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
	s.h.keep(out)
}

// writeWithin writes b within d. No deadline is left behind.
func (w *websocket) writeWithin(b []byte, d time.Duration) error {
	w.Conn.SetWriteDeadline(time.Now().Add(d))
	_, err := w.Conn.Write(b)
	w.Conn.SetWriteDeadline(time.Time{})
	return err
}
