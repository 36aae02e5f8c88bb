package transport

import (
	"bytes"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"tether/engine"
)

const (
	// roundBytes is how much is gathered for one write. Larger packets are written by themselves.
	roundBytes   = 64 << 10
	roundPackets = 256

	// yieldWrites is after how many writes a flusher lets other goroutines run. The runtime does not see its
	// system calls, and would let it go on for 10 ms. When there is more than can be written, the goroutines
	// that read from the broker come first, so that what is behind waits in the queues of the sessions, where it
	// shares its writes, and not in the broker.
	yieldWrites = 8

	shortNap = 30 * time.Microsecond // see flushers
	longNap  = 270 * time.Microsecond
)

// round is what one write takes from a session.
type round struct {
	final   bool           // a close frame is the last of it
	watched bool           // one of the packets is: see session.roundWritten
	packet  *engine.Packet // whose frames the bytes are, compressed or not; nil for a copy
	oldest  int64          // when the oldest event of those with a time was emitted, as Handler.now; 0: there is none
}

// note notes when the event of p was emitted, and whether somebody is to be told that it was written.
func (r *round) note(h *Handler, p *engine.Packet) {
	if !p.Noted() {
		return
	}
	r.watched = r.watched || p.Watched()
	at, ok := p.Emitted()
	if !ok {
		return
	}
	if at := int64(at.Sub(h.started)); r.oldest == 0 || at < r.oldest {
		r.oldest = at
	}
}

// report tells OnWritten, and watchers, of a round that was written.
func (s *session) report(r *round) {
	if r.watched {
		s.roundWritten()
	}
	if r.oldest != 0 && s.h.o.OnWritten != nil {
		s.h.o.OnWritten(s, time.Duration(s.h.now()-r.oldest))
	}
}

// writer gathers what a session has to say into one piece of memory. It is reused.
type writer struct {
	packets []*engine.Packet
	buf     []byte
}

// take takes the next round from s, whose writing flag the caller holds. With nothing to write it
// gives the flag back and returns no bytes. own says that the bytes are the writer's, and will change.
func (w *writer) take(s *session) (b []byte, r round, own bool) {
	w.buf, w.packets = w.buf[:0], w.packets[:0]
	s.mu.Lock()
	if s.state == stateEnded {
		s.writing = false
		s.mu.Unlock()
		return nil, r, false
	}
	if pongs := s.pongsLocked(); pongs != nil {
		w.buf = append(w.buf, pongs...)
		s.extra.pongs = nil
	}
	if s.ping {
		w.buf = append(w.buf, frameEnginePing...)
		s.ping = false
	}
	gathered := 0
	for !s.queue.empty() && len(w.packets) < roundPackets {
		size := s.queue.first.Size()
		if gathered > 0 && gathered+size > roundBytes {
			break
		}
		p := s.queue.pop(s.h)
		r.note(s.h, p)
		s.takenLocked(p)
		w.packets = append(w.packets, p)
		gathered += size
	}
	s.lessLocked()
	r.final = s.state == stateClosing && s.queue.empty()
	if len(w.buf) == 0 && len(w.packets) == 0 && !r.final {
		s.writing = false
		s.mu.Unlock()
		return nil, r, false
	}
	code, format := s.code, s.carrier.formats()
	s.mu.Unlock()

	if len(w.buf) == 0 && len(w.packets) == 1 && !r.final {
		b, r.packet = frames(w.packets[0], format), w.packets[0]
	} else {
		for _, p := range w.packets {
			w.buf = append(w.buf, frames(p, format)...)
			p.GiveBack()
		}
		if r.final {
			w.buf = appendCloseFrame(w.buf, code)
		}
		b, own = w.buf, true
	}
	clear(w.packets)
	return b, r, own
}

// trim lets go of memory that an unusually large packet left behind.
func (w *writer) trim() {
	if cap(w.buf) > 2*roundBytes {
		w.buf = nil
	}
}

// wrote accounts for a round that was written, and reports whether there is more. If not, it has given
// the writing flag back.
func (s *session) wrote(r round) (more bool) {
	s.report(&r)
	s.mu.Lock()
	s.writtenLocked()
	if !r.final || s.state == stateEnded {
		if more = s.pendingLocked(); !more {
			s.writing = false
		}
		s.mu.Unlock()
		return more
	}
	c := s.carrier
	end := s.endLocked(s.extra.reason)
	s.mu.Unlock()
	end.carrier = nil
	c.finish()
	end.do()
	return false
}

// pendingLocked reports whether there is anything to write.
func (s *session) pendingLocked() bool {
	return s.state != stateEnded && (!s.queue.empty() || s.ping || s.pongsLocked() != nil || s.state == stateClosing)
}

// writeNow writes a packet in the goroutine of its Send, which holds the writing flag.
func (s *session) writeNow(c carrier, p *engine.Packet) {
	b := frames(p, c.formats())
	n, err := c.tryWrite(b)
	s.h.burst.wrote()
	if err != nil {
		s.fail(engine.ReasonTransportError)
		return
	}
	if n < len(b) {
		rest, r := b[n:], round{packet: p}
		if p.Lent() {
			rest, r = bytes.Clone(rest), round{}
		}
		r.note(s.h, p)
		s.unwritten(rest, r)
		c.drain(rest, r)
		return
	}
	if p.Noted() {
		var r round
		r.note(s.h, p)
		s.report(&r)
	}
	s.mu.Lock()
	if s.pendingLocked() {
		s.h.flushers.push(s)
	} else {
		s.writing = false
	}
	s.mu.Unlock()
}

// flush writes one round of s and reports whether there may be more.
func (s *session) flush(w *writer) bool {
	if !s.carrier.resume() {
		return false
	}
	b, r, own := w.take(s)
	if len(b) == 0 {
		return false
	}
	n, err := s.carrier.tryWrite(b)
	if err != nil {
		s.fail(engine.ReasonTransportError)
		return false
	}
	if n < len(b) {
		rest := b[n:]
		if own {
			rest = append([]byte(nil), rest...)
		}
		s.unwritten(rest, r)
		s.carrier.drain(rest, r)
		return false
	}
	return s.wrote(r)
}

// flushLeft writes what the Sends before one to another session have left in s.
func (h *Handler) flushLeft(s *session) {
	if h.burst.writes.Load() >= burstWrites || !h.flushers.take(s) {
		return
	}
	h.burst.more()
	h.flush(s)
}

// flush writes a round of s in the goroutine of a Send.
func (h *Handler) flush(s *session) {
	w := h.writer()
	if s.flush(w) {
		h.flushers.push(s)
	}
	h.keep(w)
	h.burst.wrote()
}

func (h *Handler) writer() *writer {
	if w, _ := h.writers.Get().(*writer); w != nil {
		return w
	}
	return new(writer)
}

func (h *Handler) keep(w *writer) {
	w.trim()
	h.writers.Put(w)
}

// flushers write what sessions have queued: a few goroutines over one list of the sessions that have
// something to say. They never wait for a client. Goroutines are started when they are first needed
// and end with stop, which the handler calls.
//
// A session that is alone in the list is taken out again by the Send that turns to another session. A
// flusher that comes and sees that this goes on takes a nap: to write in between would only tear bursts
// apart. It writes what is there when nothing has changed during a nap. Naps grow while it goes on, so that
// what is left at the end waits a tenth of a millisecond, or for no longer than all of it took.
type flushers struct {
	max int

	alone atomic.Pointer[session] // the only one in the list, or nil; written with mu held

	mu         sync.Mutex
	work       sync.Cond // of mu
	head, tail *session  // guarded by mu
	changes    uint64    // guarded by mu: counts what Sends did to the list
	noticed    uint64    // guarded by mu: changes, when a flusher was last called or lay down
	idle       int       // guarded by mu: goroutines that wait
	running    int       // guarded by mu
	stopped    bool      // guarded by mu

	done sync.WaitGroup
}

func (f *flushers) init(max int) {
	f.max = max
	f.work.L = &f.mu
}

// push adds s, whose writing flag is passed on.
func (f *flushers) push(s *session) {
	f.mu.Lock()
	if f.tail == nil {
		f.head = s
		f.alone.Store(s)
	} else {
		f.tail.dirty = s
		f.alone.Store(nil)
	}
	f.tail = s
	f.changes++
	switch {
	case f.head == s && f.idle < f.running: // one will look again in a moment
	case f.idle > 0:
		f.noticed = f.changes
		f.work.Signal()
	case f.running < f.max && !f.stopped:
		f.noticed = f.changes
		f.running++
		f.done.Add(1)
		go f.run() // stop waits for it
	}
	f.mu.Unlock()
}

// take takes s out of the list if it is alone there, and reports whether it was.
func (f *flushers) take(s *session) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.alone.Load() != s {
		return false
	}
	f.takeLocked()
	f.changes++
	return true
}

// takeLocked takes the first of the list, which is not empty.
func (f *flushers) takeLocked() *session {
	s := f.head
	f.head, s.dirty = s.dirty, nil
	switch f.head {
	case nil:
		f.tail = nil
		f.alone.Store(nil)
	case f.tail:
		f.alone.Store(f.tail)
	}
	return s
}

func (f *flushers) run() {
	defer f.done.Done()
	var w writer
	for n := 1; ; n++ {
		s := f.pop()
		if s == nil {
			return
		}
		if s.flush(&w) {
			f.push(s)
		}
		w.trim()
		if n%yieldWrites == 0 {
			runtime.Gosched()
		}
	}
}

// pop waits for a session. It returns nil after stop.
func (f *flushers) pop() *session {
	f.mu.Lock()
	defer f.mu.Unlock()
	for d := shortNap; ; {
		switch {
		case f.head == nil && f.stopped:
			return nil
		case canNap && f.head == f.tail && f.changes != f.noticed && !f.stopped:
			f.noticed = f.changes
			f.mu.Unlock()
			nap(d)
			d = min(3*d, longNap)
			f.mu.Lock()
		case f.head == nil:
			f.idle++
			f.work.Wait()
			f.idle--
			d = shortNap
		default:
			return f.takeLocked()
		}
	}
}

func (f *flushers) stop() {
	f.mu.Lock()
	f.stopped = true
	f.work.Broadcast()
	f.mu.Unlock()
	f.done.Wait()
}
