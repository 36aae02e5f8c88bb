package transport

import "time"

const (
	// controlTime is how much of ControlRate may be used at once.
	controlTime = time.Minute

	// messageTime is how much of MessageRate may be used at once.
	messageTime = time.Second

	// tinyFragment is the size in bytes below which a fragment of a message costs more than it carries.
	tinyFragment = 128
)

// limiter holds a client to a rate: when it would have got there if it had kept to it exactly, in
// nanoseconds of Handler.now.
type limiter int64

// step counts one more. It returns how far the client is ahead of its rate.
func (p *limiter) step(now int64, rate int) time.Duration {
	*p = max(*p, limiter(now)) + limiter(time.Second)/limiter(rate)
	return time.Duration(int64(*p) - now)
}

// spend counts something that a client has sent that is no message, and reports whether it may.
func (s *session) spend() bool {
	rate := s.h.o.ControlRate
	if rate < 0 {
		return true
	}
	now := s.h.now()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.extraLocked().control.step(now, rate) <= controlTime
}

// allows counts a frame if it is one that carries next to nothing: a ping, a pong, a tiny fragment.
func (s *session) allows(f *frame) error {
	if f.op == opClose || f.op < opClose && (f.payload >= tinyFragment || f.fin && f.op != opContinuation) {
		return nil
	}
	if !s.spend() {
		return faultPolicy
	}
	return nil
}

// limitMessages waits when a client sends messages faster than MessageRate. It reports whether the session
// goes on.
func (s *session) limitMessages(cancel <-chan struct{}) bool {
	rate := s.h.o.MessageRate
	if rate <= 0 {
		return true
	}
	now := s.h.now()
	s.mu.Lock()
	ahead := s.extraLocked().messages.step(now, rate) - messageTime
	s.mu.Unlock()
	if ahead <= 0 {
		return true
	}
	passed := make(chan struct{})
	timer := time.AfterFunc(ahead, func() { close(passed) })
	defer timer.Stop()
	return s.pause(passed, cancel)
}
