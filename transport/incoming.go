package transport

import (
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"runtime/debug"
	"time"

	"tether/engine"
)

// pongBytes limits the answers to pings that wait for a client: 16 of the largest.
const pongBytes = 16 * (2 + maxControl)

// pinged has a WebSocket ping answered, RFC 6455 section 5.5.2. Of more than fit while nothing could be
// written the last are answered, as section 5.5.3 allows.
func (s *session) pinged(payload []byte) {
	s.mu.Lock()
	if s.state == stateOpen {
		x := s.extraLocked()
		if len(x.pongs)+2+len(payload) > pongBytes {
			x.pongs = x.pongs[:0]
		}
		x.pongs = appendPongFrame(x.pongs, payload)
		s.scheduleWriteLocked()
	}
	s.mu.Unlock()
}

// control handles an Engine.IO packet that is not a message: text as it came. It reports whether the
// session goes on.
func (s *session) control(text []byte) bool {
	if len(text) == 0 {
		s.shut(engine.ReasonParseError, 0)
		return false
	}
	switch text[0] {
	case '3':
		s.mu.Lock()
		asked := s.state == stateOpen && s.awaiting
		if asked { // one that nobody asked for postpones nothing
			s.awaiting, s.ping = false, false
			s.confirmLogsLocked()
			s.setDueLocked(s.h.now() + int64(s.h.o.PingInterval))
		}
		s.mu.Unlock()
		return asked || s.tolerate()
	case '0', '5', '6':
		return s.tolerate()
	case '1':
		s.mu.Lock()
		if s.poll != nil {
			s.poll.bye = byeNoop
		}
		s.mu.Unlock()
		s.shut(engine.ReasonTransportClose, 0)
	case '2': // only the server pings
		s.shut(engine.ReasonTransportError, 0)
	default:
		s.shut(engine.ReasonParseError, 0)
	}
	return false
}

// tolerate counts a packet that means nothing. It reports whether the session goes on.
func (s *session) tolerate() bool {
	if !s.spend() {
		s.shut(engine.ReasonTransportError, uint16(faultPolicy))
		return false
	}
	return true
}

// deliver hands a message to the receiver. It reports whether the session goes on.
func (s *session) deliver(text bool, data []byte) bool {
	s.mu.Lock()
	if s.state != stateOpen {
		s.mu.Unlock()
		return false
	}
	s.delivering, s.since = true, s.h.now()
	s.mu.Unlock()

	err := s.call(text, data)

	s.mu.Lock()
	s.delivering = false
	if took := s.h.now() - s.since; s.awaiting && s.state == stateOpen && took > int64(time.Millisecond) {
		s.setDueLocked(s.due + took) // the pong may have come meanwhile
	}
	tell := s.state == stateEnded && !s.told
	s.told = s.told || tell
	open := s.state == stateOpen
	s.mu.Unlock()

	switch {
	case tell:
		s.tell()
	case err == errPanic:
		s.shut(engine.ReasonTransportError, uint16(faultInternal))
	case err != nil:
		s.dismissed(engine.ReasonOf(err))
	default:
		return open
	}
	return false
}

var errPanic = errors.New("transport: receiver panicked")

func (s *session) call(text bool, data []byte) (err error) {
	defer func() {
		if v := recover(); v != nil {
			s.h.panicked(v)
			err = errPanic
		}
	}()
	if text {
		return s.receiver.Text(data)
	}
	return s.receiver.Binary(data)
}

// recovered is deferred around a call of the receiver.
func (s *session) recovered() {
	if v := recover(); v != nil {
		s.h.panicked(v)
	}
}

// panicked logs a panic: the text of a runtime error, of any other value its type, as it may hold a secret.
func (h *Handler) panicked(v any) {
	what := fmt.Sprintf("%T", v)
	if e, ok := v.(runtime.Error); ok {
		what = e.Error()
	}
	h.o.Logger.Error("transport: receiver panicked", slog.String("panic", what), slog.String("stack", string(debug.Stack())))
}

// await waits until the receiver is ready for more, or cancel. It reports whether the session goes on.
func (s *session) await(cancel <-chan struct{}) bool {
	for {
		busy := s.busy()
		if busy == nil {
			return s.limitMessages(cancel)
		}
		select {
		case <-busy:
			continue
		default:
		}
		if !s.pause(busy, cancel) {
			return false
		}
	}
}

// pause waits for wake. While it does, the client is not given up for a pong that may lie unread. It
// reports whether the session goes on.
func (s *session) pause(wake, cancel <-chan struct{}) bool {
	s.mu.Lock()
	if s.state != stateOpen {
		s.mu.Unlock()
		return false
	}
	x := s.extraLocked()
	if x.gone == nil {
		x.gone = make(chan struct{})
	}
	gone := x.gone
	s.paused, s.since = true, s.h.now()
	s.mu.Unlock()

	var ok bool
	select {
	case <-wake:
		ok = true
	case <-gone:
	case <-cancel:
	}

	s.mu.Lock()
	s.paused = false
	if s.awaiting && s.state == stateOpen {
		s.setDueLocked(s.h.now() + int64(s.h.o.PingTimeout))
	}
	s.mu.Unlock()
	return ok
}

func (s *session) busy() <-chan struct{} {
	defer s.recovered()
	return s.receiver.Busy()
}
