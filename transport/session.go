package transport

import (
	"math"
	"slices"
	"sync"
	"time"

	"tether/engine"
)

// A session's life. It is closing while what was queued leaves, and takes nothing more then.
const (
	stateOpen uint8 = iota
	stateClosing
	stateEnded
)

// session is an Engine.IO session: what a client is to the server, whatever carries it. It is the
// [engine.Conn] of its receiver.
//
// An idle session on WebSocket is held by the handler's registry and by the wheel, and owns nothing but
// itself and its carrier, which on epoll lies behind it in the same piece of memory. Everything else here is
// nil then. There are many of them, so the fields lie close together.
type session struct {
	receiver engine.Receiver // set under mu before the first carrier
	id       id
	slot     int32  // guarded by wheel.mu
	code     uint16 // guarded by mu: of the close frame, 0 for none

	poll  *poll // guarded by mu: nil for a session that began on WebSocket
	due   int64 // guarded by mu: when tick has something to do, in nanoseconds of Handler.now
	since int64 // guarded by mu: when delivering or paused began, likewise

	prev, next *session // guarded by wheel.mu: neighbours in a slot
	dirty      *session // guarded by flushers.mu: next in their list

	queue queue // guarded by mu

	// What a Send to an idle connection looks at is from the end of queue to the beginning of the carrier: no
	// more cache lines than it takes.
	h          *Handler
	mu         sync.Mutex
	carrier    carrier // guarded by mu: the WebSocket connection; nil on polling
	extra      *extra  // guarded by mu: nil until there is something in it
	state      uint8   // guarded by mu
	writing    bool    // guarded by mu: one writer has the session: a Send, a flusher, or the carrier
	ping       bool    // guarded by mu: a ping waits to be written
	awaiting   bool    // guarded by mu: a ping was sent, its pong has not come
	delivering bool    // guarded by mu: the receiver is being called, or the session is not started
	paused     bool    // guarded by mu: reading waits for the receiver
	told       bool    // guarded by mu: the receiver was told of the end, or is about to be
}

// extra is what few sessions have. It is guarded by the session's lock.
type extra struct {
	pongs             []byte        // frames that answer WebSocket pings and wait to be written; nil for none
	name              string        // the ID; empty for one that this node has made by itself
	gone              chan struct{} // closed at the end; nil unless somebody waits for it
	control, messages limiter       // of what is no message, and of messages
	rank              *rank         // nil until the session has one
	logs              []*engine.Log // of what was sent, see SendLogged
	stall             stall
	watched           []watched // nil while nobody is told what becomes of a packet

	room   chan struct{} // closed when there is room in the queue, or at the end; nil unless somebody waits for it
	reason engine.Reason // of the end; set with state
}

func (s *session) extraLocked() *extra {
	if s.extra == nil {
		s.extra = new(extra)
	}
	return s.extra
}

// pongsLocked are the frames that WebSocket pings are to be answered with, nil for none.
func (s *session) pongsLocked() []byte {
	if s.extra == nil {
		return nil
	}
	return s.extra.pongs
}

// carrier is a WebSocket connection under a session.
type carrier interface {
	// tryWrite writes what the connection takes at once. It never waits. A carrier that cannot do
	// that is not direct, and is only ever told to drain.
	tryWrite(b []byte) (int, error)
	direct() bool

	// drain writes rest, and then whatever the session has, until that is nothing, without keeping
	// the caller waiting; the session's writing flag is passed to it. What it wrote it reports to
	// session.wrote.
	drain(rest []byte, r round)

	// resume goes on with what drain was given, when a flusher has the session for that. It reports
	// whether nothing of it is left, and the flusher may go on.
	resume() bool

	// deadlinesLocked are the times, as session.due, at which a write that stands still and a message
	// that has begun are given up; never for those that tick has nothing to do with.
	deadlinesLocked() (write, message int64)

	// overdueLocked stops reading because of the message's deadline. What it returns is called
	// without the lock, unless it is nil.
	overdueLocked() func()

	// finish ends the connection after a close frame: nothing more is sent, and what the client
	// still sends is read for a moment, so that nothing that was written is lost by a reset.
	finish()

	// abort ends the connection at once.
	abort()

	formats() format
}

func (s *session) ID() string {
	if s.h.o.GenerateID == nil && s.h.node == "" {
		return s.id.String()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra != nil && s.extra.name != "" {
		return s.extra.name
	}
	return s.id.String() + s.h.node
}

func (s *session) Transport() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.poll != nil && s.carrier == nil {
		return Polling
	}
	return WebSocket
}

// Send implements [engine.Conn]. A packet for an idle connection is written at once, or queued so that the
// packets of a burst share their writes: see burst.
func (s *session) Send(p *engine.Packet, from *engine.Gate) error { return s.send(p, from, nil, nil) }

// SendLogged implements [engine.Conn].
func (s *session) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	return s.send(&e.Packet, from, e, log)
}

// send is Send, or SendLogged if log is not nil.
func (s *session) send(p *engine.Packet, from *engine.Gate, e *engine.Entry, log *engine.Log) error {
	if left := s.h.flushers.alone.Load(); left != nil && left != s {
		s.h.flushLeft(left)
	}
	size := p.Size()
	s.mu.Lock()
	if s.state != stateOpen || from.Shut() {
		s.mu.Unlock()
		return engine.ErrDisconnected
	}
	if p.Volatile() && !s.readyLocked() {
		s.mu.Unlock()
		s.h.slow.volatile.Add(1)
		p.Became(s, engine.NotReady)
		return nil
	}
	c := s.carrier
	now := c != nil && !s.writing && !p.More() && c.direct() && s.h.burst.direct(s)
	if now && s.queue.empty() {
		if log != nil && !s.logLocked(e, from, log) {
			s.mu.Unlock()
			return engine.ErrDisconnected
		}
		s.writing = true
		s.watchLocked(p, true)
		s.mu.Unlock()
		s.writeNow(c, p)
		return nil
	}
	if !s.queue.empty() && (s.queue.size+size > s.h.o.QueueBytes || p.Key() != "") {
		fits, end := s.admitLocked(p, size)
		if !fits {
			err := s.refusalLocked(log)
			s.mu.Unlock()
			end.do()
			return err
		}
	}
	if log != nil && !s.logLocked(e, from, log) {
		s.mu.Unlock()
		return engine.ErrDisconnected
	}
	s.queue.push(p.KeepAlone(), s.h)
	s.watchLocked(p, false)
	much := s.queue.size >= smallBytes || large(p)
	if much {
		s.rankLocked()
	}
	if s.writing = s.writing || now; !now && !p.More() {
		s.scheduleWriteLocked()
	}
	s.mu.Unlock()
	if now { // behind what was left for more
		s.h.flush(s)
	}
	if much {
		s.h.relieve()
	}
	return nil
}

// refusalLocked is the error for a packet that has no place in the queue. A log has it if the session is over.
func (s *session) refusalLocked(log *engine.Log) error {
	if s.state != stateOpen && log != nil {
		return engine.ErrDisconnected
	}
	return engine.ErrSlowConsumer
}

// logLocked adds to a log what takes its place in the order, and reports whether it could be.
func (s *session) logLocked(e *engine.Entry, from *engine.Gate, log *engine.Log) bool {
	if !log.Add(e, from) {
		return false
	}
	if x := s.extraLocked(); !slices.Contains(x.logs, log) {
		x.logs = append(x.logs, log)
	}
	return true
}

// markLogsLocked is called when a ping is to be written. It leaves before what is queued, so the pong proves
// nothing while anything is.
func (s *session) markLogsLocked() {
	if s.extra == nil || !s.queue.empty() {
		return
	}
	for _, log := range s.extra.logs {
		log.Mark(time.Now())
	}
}

// confirmLogsLocked is called when the pong has come.
func (s *session) confirmLogsLocked() {
	if s.extra == nil {
		return
	}
	for _, log := range s.extra.logs {
		log.Confirm(time.Now())
	}
}

// readyLocked reports whether a packet would be written now, wire protocol section 2.5.
func (s *session) readyLocked() bool {
	if s.writing || !s.queue.empty() {
		return false
	}
	return s.carrier != nil || s.poll != nil && s.poll.waiting
}

// scheduleWriteLocked makes sure that what waits is going to be written.
func (s *session) scheduleWriteLocked() {
	if s.carrier == nil {
		if s.poll != nil {
			s.poll.wakeUp()
		}
		return
	}
	if s.writing {
		return
	}
	s.writing = true
	if s.carrier.direct() {
		s.h.flushers.push(s)
	} else {
		s.carrier.drain(nil, round{})
	}
}

// start gives the session its first carrier, nil for polling. Until then it counts as delivering, so
// that the receiver is not told of the end before it exists.
func (s *session) start(c carrier) {
	s.mu.Lock()
	s.carrier = c
	s.delivering = false
	if s.state == stateEnded {
		s.told = true
		s.mu.Unlock()
		if c != nil {
			c.abort()
		}
		s.tell()
		return
	}
	if s.state == stateOpen {
		s.setDueLocked(s.h.now() + int64(s.h.o.PingInterval))
	}
	if s.state == stateClosing || !s.queue.empty() {
		s.scheduleWriteLocked()
	}
	s.mu.Unlock()
}

// never is a time that does not come.
const never = math.MaxInt64

// setDueLocked asks the wheel to call tick at due.
func (s *session) setDueLocked(due int64) {
	s.due = due
	s.wakeLocked()
}

// wakeLocked asks for tick at due, or at a deadline of the carrier's that is earlier.
func (s *session) wakeLocked() {
	at := s.due
	if s.carrier != nil {
		write, message := s.carrier.deadlinesLocked()
		at = min(at, write, message)
	}
	s.h.wheel.set(s, at)
}

// overdue ends a session on polling whose pong has not come in time, and reports whether it did: a request
// is not served because the wheel is late.
func (s *session) overdue() bool {
	now := s.h.now()
	s.mu.Lock()
	if s.state != stateOpen || s.carrier != nil || !s.awaiting || s.delivering || s.paused || now < s.due {
		s.mu.Unlock()
		return false
	}
	end := s.endLocked(engine.ReasonPingTimeout)
	s.mu.Unlock()
	end.do()
	return true
}

// tick does what is due: a ping, the end for want of a pong, or the end of a close, a write or a
// message that takes too long. The wheel calls it, at times too early.
func (s *session) tick() {
	now := s.h.now()
	s.mu.Lock()
	write, message := int64(never), int64(never)
	if s.carrier != nil {
		write, message = s.carrier.deadlinesLocked()
	}
	switch {
	case s.state == stateEnded:
		c, over := s.carrier, now >= s.due
		s.mu.Unlock()
		switch {
		case !over:
		case c != nil: // it has lingered
			c.abort()
		default: // nobody has come for the bye
			s.h.forget(s)
		}
		return
	case now >= write: // a slow consumer
		end := s.tooSlowLocked(&s.h.slow.still)
		s.mu.Unlock()
		end.do()
		return
	case now >= message:
		do := s.carrier.overdueLocked()
		s.wakeLocked()
		s.mu.Unlock()
		if do != nil {
			do()
		}
		return
	case now < s.due:
		s.wakeLocked()
	case s.state == stateClosing:
		end := s.endLocked(s.extra.reason)
		s.mu.Unlock()
		end.do()
		return
	case !s.awaiting:
		s.ping, s.awaiting = true, true
		s.markLogsLocked()
		s.setDueLocked(max(s.due, now-int64(s.h.o.PingTimeout/8)) + int64(s.h.o.PingTimeout)) // what the wheel is late by is not added
		s.scheduleWriteLocked()
	case (s.delivering || s.paused) && now-s.since < int64(s.h.o.PingInterval+s.h.o.PingTimeout):
		s.setDueLocked(now + int64(s.h.o.PingTimeout))
	default:
		s.mu.Unlock()
		s.shut(engine.ReasonPingTimeout, 0)
		return
	}
	s.mu.Unlock()
}
