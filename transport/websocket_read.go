package transport

import (
	"io"
	"time"

	"tether/engine"
	"tether/internal/budget"
)

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

// note tells the budget what has come of a message that is not complete.
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
