package transport

import (
	"errors"
	"io"
	"net"

	"golang.org/x/sys/unix"

	"tether/engine"
)

// errOverdue says that a message did not complete in time.
var errOverdue = errors.New("transport: message timed out")

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
		c.in.note(c.s)
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
	c.in.forget(c.s.h)
	c.s.fail(engine.ReasonTransportClose)
	c.abort()
}

// fill reads what has come, into room bytes. At the end the error is [io.EOF].
func (c *epoll) fill() (n, room int, err error) {
	if c.in == nil {
		c.in = c.s.h.reads.get()
	}
	in := c.in
	b := in.room()
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

// handle deals with the frames that are whole. On the poller's goroutine it stops at a message that is for
// the receiver, and returns false.
func (c *epoll) handle(worker bool) bool {
	in := c.in
	for !c.discarding {
		if !in.whole {
			if err := in.next(c.s, c.format, c); err != nil {
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

// pinged implements [pinger].
func (c *epoll) pinged(payload []byte) error {
	c.s.pinged(payload)
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
		s.h.recycle(idle)
	case c.isShut(): // abort found the reading under way, and left this to it
		in.forget(s.h)
	}
	return true
}
