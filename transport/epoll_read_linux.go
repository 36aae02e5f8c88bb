package transport

import (
	"errors"
	"io"
	"net"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"tether/engine"
	"tether/internal/budget"
)

// errOverdue says that a message did not complete in time.
var errOverdue = errors.New("transport: message timed out")

// readState is what has come over an [epoll] connection and was not dealt with: a part of a message, or
// more, for as long as somebody reads.
type readState struct {
	buf   []byte // what has come
	at    int    // buf[:at] was dealt with
	head  frame  // of the frame at buf[at:]
	known bool   // head is

	check   frameCheck
	parts   []byte // the fragments so far of the message that has begun
	text    bool   // what that message is
	started int64  // when that message had to be waited for, as session.due; 0: it was not
	code    uint16 // of the client's close frame

	share    *budget.Share // nil until the message is worth counting
	whole    bool          // a message is complete: data
	data     []byte        // aliases buf or parts
	deadline int64         // of the message that has begun, as session.due; set while nobody reads
}

func (c *epoll) newReadState() *readState {
	if in, _ := c.s.h.poller.reads.Get().(*readState); in != nil {
		return in
	}
	return &readState{buf: make([]byte, 0, bufferSize)}
}

// recycle gives in back, unless it has grown.
func (c *epoll) recycle(in *readState) {
	c.forget(in)
	if cap(in.buf) == bufferSize && cap(in.parts) <= bufferSize {
		*in = readState{buf: in.buf[:0], parts: in.parts[:0]}
		c.s.h.poller.reads.Put(in)
	}
}

// note tells the budget what has come of a message that is not complete.
func (c *epoll) note() {
	in := c.in
	held := 0
	if cap(in.buf) > bufferSize {
		held = cap(in.buf)
	}
	if in.check.open || cap(in.parts) > bufferSize {
		held += cap(in.parts)
	}
	if held < budget.Small && in.share == nil {
		return
	}
	if in.share == nil {
		in.share = &budget.Share{End: func() { c.s.fail(engine.ReasonTransportError) }}
	}
	c.s.h.incomplete.Hold(in.share, held)
}

// forget undoes note.
func (c *epoll) forget(in *readState) {
	if in != nil && in.share != nil {
		c.s.h.incomplete.Drop(in.share)
	}
}

// begun reports whether a message has begun to come.
func (in *readState) begun() bool { return in.at < len(in.buf) || in.check.open }

// run goes on with a turn that the poller's goroutine, or begin, left to a worker.
func (c *epoll) run() {
	if c.in != nil {
		c.handle(true)
	}
	c.turn(true)
}

// turn reads until nothing more has come. The poller's goroutine reads once, and leaves everything
// else to a worker. turn reports whether one had to be hired.
func (c *epoll) turn(worker bool) (hired bool) {
	defer c.recovered()
	for {
		n, room, err := c.fill()
		if err != nil && err != unix.EAGAIN {
			c.gone()
			return false
		}
		if !c.handle(worker) {
			return c.s.h.workers.hand(c)
		}
		c.note()
		if n < room { // that was all
			if c.rest(err != nil) {
				return false
			}
		} else if !worker {
			return c.s.h.workers.hand(c)
		}
	}
}

func (c *epoll) recovered() {
	if v := recover(); v != nil {
		c.s.h.panicked(v)
		c.gone()
	}
}

// gone ends the connection. The reading flag stays with nobody.
func (c *epoll) gone() {
	c.forget(c.in)
	c.s.fail(engine.ReasonTransportClose)
	c.abort()
}

// fill reads what has come, into room bytes. At the end the error is [io.EOF].
func (c *epoll) fill() (n, room int, err error) {
	if c.in == nil {
		c.in = c.newReadState()
	}
	in := c.in
	in.grow()
	b := in.buf[len(in.buf):cap(in.buf)]
	if !c.acquire() {
		return 0, 0, net.ErrClosed
	}
	n, err = unix.Read(int(c.fd), b)
	for err == unix.EINTR {
		n, err = unix.Read(int(c.fd), b)
	}
	c.release()
	if err != nil {
		return 0, len(b), err
	}
	if n == 0 {
		return 0, 0, io.EOF
	}
	in.buf = in.buf[:len(in.buf)+n]
	return n, len(b), nil
}

// grow makes room behind what is there. Memory grows with what has come, to the size of the frame.
func (in *readState) grow() {
	if in.at == len(in.buf) {
		in.buf, in.at = in.buf[:0], 0
	}
	if len(in.buf) < cap(in.buf) {
		return
	}
	if in.at > 0 {
		in.buf, in.at = in.buf[:copy(in.buf, in.buf[in.at:])], 0
		return
	}
	more := make([]byte, len(in.buf), min(2*cap(in.buf), in.head.size()))
	copy(more, in.buf)
	in.buf = more
}

// handle deals with the frames that are whole. On the poller's goroutine it stops at a message that is for
// the receiver, and returns false.
func (c *epoll) handle(worker bool) bool {
	in := c.in
	for !c.discarding {
		if !in.whole {
			if err := c.next(in); err != nil {
				c.stop(err)
				break
			}
			if !in.whole {
				return true
			}
		}
		compressed := in.check.compressed
		if !worker && (!in.text || compressed || isMessage(in.data)) {
			return false
		}
		in.whole = false
		if !c.s.h.receive(job{s: c.s, text: in.text, compressed: compressed, data: in.data}) {
			c.stop(errStopped)
		}
	}
	in.buf, in.at = in.buf[:0], 0
	return true
}

// next deals with whole frames up to one that completes a message.
func (c *epoll) next(in *readState) error {
	for !in.whole {
		b := in.buf[in.at:]
		if !in.known {
			f, ok, err := in.check.next(b, c.s.h.o.MaxPayload, c.format.compressed())
			if err != nil || !ok {
				return err
			}
			if err := c.s.allows(&f); err != nil {
				return err
			}
			in.head, in.known = f, true
		}
		f := &in.head
		if len(b) < f.size() {
			return nil
		}
		payload := b[f.header:f.size()]
		f.unmask(payload)
		in.at += f.size()
		in.known = false
		if err := c.frame(in, f, payload); err != nil {
			return err
		}
	}
	return nil
}

// frame deals with one frame.
func (c *epoll) frame(in *readState, f *frame, payload []byte) (err error) {
	switch f.op {
	case opPing:
		c.s.pinged(payload)
		return nil
	case opPong:
		return nil
	case opClose:
		if in.code, err = closeCode(payload); err != nil {
			return err
		}
		return errPeerClosed
	case opContinuation:
		in.parts = append(in.parts, payload...)
	default:
		in.text = f.op == opText
		if !f.fin {
			in.parts = append(in.parts[:0], payload...)
		}
	}
	if !f.fin {
		return nil
	}
	in.data = payload
	if f.op == opContinuation {
		in.data = in.parts
	}
	if in.text && !in.check.compressed && !utf8.Valid(in.data) {
		return faultEncoding
	}
	in.whole, in.started = true, 0
	return nil
}

// stop discards what the client still sends, and ends the session as err demands.
func (c *epoll) stop(err error) {
	c.discarding = true
	s, f := c.s, fault(0)
	switch {
	case err == errPeerClosed:
		s.shut(engine.ReasonTransportClose, c.in.code)
	case errors.As(err, &f):
		s.shut(engine.ReasonTransportError, uint16(f))
	case err == errOverdue:
		s.shut(engine.ReasonTransportError, 0)
	}
}

// rest ends a turn, unless there is more to read; it reports which. Less than there was room for is
// all that there was, but for the end, which has to be asked for; dry says that this has been done.
func (c *epoll) rest(dry bool) bool {
	s := c.s
	s.mu.Lock()
	if c.again || c.ended && !dry {
		c.again = false
		s.mu.Unlock()
		return false
	}
	c.reading = false
	in := c.in
	idle := in
	if idle != nil && idle.begun() && !c.discarding {
		if idle.started == 0 {
			idle.started = s.h.now()
		}
		idle.deadline = idle.started + int64(s.h.o.MessageTimeout)
		if s.state != stateEnded {
			s.wakeLocked()
		}
		idle = nil
	} else {
		c.in = nil
	}
	s.mu.Unlock()
	switch {
	case idle != nil:
		c.recycle(idle)
	case c.isShut(): // abort found the reading under way, and left this to it
		c.forget(in)
	}
	return true
}
