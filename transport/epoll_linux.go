package transport

import (
	"net"

	"golang.org/x/sys/unix"

	"tether/engine"
)

// epoll is the WebSocket carrier of Linux: a descriptor that the handler's poller watches. While it is
// idle it has no goroutine, no stack and no buffer, and is all that is left of the connection: the
// [net.TCPConn] that it came with is closed, and this is a copy of its descriptor.
//
// One goroutine reads at a time: the one that has set the reading flag. It is the poller's at first, which
// finds out what has come, and deals with what is not for the receiver, a pong for example. From the first
// message for the receiver on it is a worker. One goroutine writes at a time: the one that has set the
// session's writing flag, as with every carrier. None waits for a client that does not take what is written
// to it, because what is left lies in out.
type epoll struct {
	descriptor
	format format // of what is written

	reading  bool // guarded by s.mu
	again    bool // guarded by s.mu: more has come since somebody began to read
	ended    bool // guarded by s.mu: the end has come, and is read after what came before it
	writable bool // guarded by s.mu: it may have become so since the last attempt

	discarding bool // owned by the reader: nothing more is wanted from the client

	s   *session
	in  *readState    // owned by the reader, else guarded by s.mu; nil while there is nothing
	out *pendingWrite // changed by the writer, with s.mu; nil while there is nothing
}

// pendingWrite is what the kernel did not take.
type pendingWrite struct {
	rest []byte // owned by the writer
	r    round
	mark int // len(rest) when deadline was set

	waiting  bool  // guarded by s.mu: for the connection to become writable
	deadline int64 // guarded by s.mu: as session.due
}

// newSessionOnEpoll returns a session, and what is going to carry it, unless it cannot.
func newSessionOnEpoll() (*session, adopted) {
	both := new(struct {
		session session
		epoll   epoll
	})
	return &both.session, &both.epoll
}

// adopt returns a carrier for the connection of w, or nil where that is not to be or cannot be: over
// anything but TCP, and when descriptors run out. The caller closes w.Conn once it is not used any more.
func (h *Handler) adopt(s *session, w *websocket) adopted {
	conn, ok := w.Conn.(*net.TCPConn)
	if !ok || !h.o.Epoll {
		return nil
	}
	fd, err := duplicate(conn)
	if err != nil {
		return nil
	}
	c, ok := w.moved.(*epoll)
	if !ok {
		c = new(epoll)
	}
	c.s, c.fd, c.format, c.reading = s, int32(fd), w.format, true
	if h.poller.add(c) != nil {
		unix.Close(fd)
		return nil
	}
	h.conns.Begin() // before Close can wait: the session is not told yet
	return c
}

func duplicate(c *net.TCPConn) (fd int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	if e := raw.Control(func(old uintptr) { fd, err = unix.FcntlInt(old, unix.F_DUPFD_CLOEXEC, 0) }); e != nil {
		return 0, e
	}
	return fd, err
}

// begin implements [adopted].
func (c *epoll) begin(early []byte) {
	if len(early) > 0 {
		c.in = c.s.h.reads.get()
		c.in.buf = append(c.in.buf, early...)
	} else if c.rest(false) {
		return
	}
	c.s.h.workers.hand(c)
}

// release gives acquire back.
func (c *epoll) release() {
	if c.descriptor.release() {
		unix.Close(int(c.fd))
		c.s.h.conns.End()
	}
}

// abort implements [carrier]. It may be called more than once.
func (c *epoll) abort() {
	if !c.acquire() {
		return
	}
	if c.shut() {
		c.s.h.poller.remove(c)
		c.s.mu.Lock()
		var in *readState
		if !c.reading { // else the reader does it
			in = c.in
		}
		c.s.mu.Unlock()
		in.forget(c.s.h)
	}
	c.release()
}

// event is called by the poller. It reports whether a worker had to be hired.
func (c *epoll) event(events uint32) bool {
	const ended = unix.EPOLLRDHUP | unix.EPOLLHUP | unix.EPOLLERR
	s := c.s
	s.mu.Lock()
	if events&(unix.EPOLLOUT|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		if o := c.out; o != nil && o.waiting {
			o.waiting = false
			s.h.flushers.push(s)
		} else {
			c.writable = true
		}
	}
	read := false
	if events&(unix.EPOLLIN|ended) != 0 {
		read = !c.reading
		c.again = c.reading
		c.reading = true
		c.ended = c.ended || events&ended != 0
	}
	s.mu.Unlock()
	return read && c.turn(false)
}

func (c *epoll) direct() bool    { return true }
func (c *epoll) formats() format { return c.format }

func (c *epoll) tryWrite(b []byte) (int, error) {
	if !c.acquire() {
		return 0, net.ErrClosed
	}
	n, err := tryWrite(int(c.fd), b)
	c.release()
	c.s.h.burst.bytes.Add(uint64(max(n, 0)))
	return n, err
}

// drain implements [carrier]: it leaves rest to a flusher that comes when the client takes it.
func (c *epoll) drain(rest []byte, r round) {
	c.s.mu.Lock()
	c.out = &pendingWrite{rest: rest, r: r}
	c.parkLocked()
	c.s.mu.Unlock()
}

// parkLocked waits for the connection to become writable. The client has WriteTimeout to take so much
// as drainChunk.
func (c *epoll) parkLocked() {
	o, s := c.out, c.s
	if o.deadline == 0 || o.mark-len(o.rest) >= drainChunk {
		o.mark, o.deadline = len(o.rest), s.h.now()+int64(s.h.o.WriteTimeout)
	}
	if c.writable { // or it was so before the attempt, and the next one fails too
		c.writable = false
		s.h.flushers.push(s)
		return
	}
	o.waiting = true
	if s.state != stateEnded {
		s.wakeLocked()
	}
}

// resume implements [carrier].
func (c *epoll) resume() bool {
	o, s := c.out, c.s
	if o == nil {
		return true
	}
	n, err := c.tryWrite(o.rest)
	if err != nil {
		s.fail(engine.ReasonTransportError)
		return false
	}
	o.rest = o.rest[n:]
	s.mu.Lock()
	if len(o.rest) > 0 {
		c.parkLocked()
		s.mu.Unlock()
		return false
	}
	c.out = nil
	s.mu.Unlock()
	return s.wrote(o.r)
}

// finish implements [carrier]. What still comes is discarded, for a moment.
func (c *epoll) finish() {
	if !c.acquire() {
		return
	}
	unix.Shutdown(int(c.fd), unix.SHUT_WR)
	c.release()
	s := c.s
	s.mu.Lock()
	s.due = s.h.now() + int64(lingerTime)
	s.h.wheel.set(s, s.due)
	s.mu.Unlock()
}

func (c *epoll) deadlinesLocked() (write, message int64) {
	write, message = never, never
	if c.out != nil && c.out.waiting {
		write = c.out.deadline
	}
	if !c.reading && c.in != nil {
		message = c.in.deadline
	}
	return write, message
}

func (c *epoll) overdueLocked() func() {
	c.reading = true
	return func() {
		c.stop(errOverdue)
		c.s.h.workers.hand(c)
	}
}
