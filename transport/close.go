package transport

import "tether/engine"

// Close implements [engine.Conn].
func (s *session) Close(reason engine.Reason) {
	s.mu.Lock()
	if s.state != stateOpen {
		s.mu.Unlock()
		return
	}
	polling := s.poll != nil && s.carrier == nil
	if polling && (reason == engine.ReasonParseError || reason == engine.ReasonForcedClose) { // the client's fault
		end := s.dismissLocked(reason)
		s.mu.Unlock()
		end.do()
		return
	}
	s.state, s.extraLocked().reason = stateClosing, reason
	s.roomLocked()
	wait := s.h.o.WriteTimeout
	if polling {
		wait = pollCloseWait
		if reason == engine.ReasonShutdown {
			wait = pollShutdownWait
		}
	}
	s.setDueLocked(s.h.now() + int64(wait))
	s.scheduleWriteLocked()
	s.mu.Unlock()
}

// shut ends the session because of something that the client did or failed to do, with a close frame
// behind what is queued. On polling there is nothing to wait for.
func (s *session) shut(reason engine.Reason, code uint16) {
	s.mu.Lock()
	if s.state == stateEnded || s.state == stateClosing && s.carrier != nil {
		s.mu.Unlock()
		return
	}
	if s.carrier == nil || reason == engine.ReasonPingTimeout && s.writing {
		end := s.endLocked(reason)
		s.mu.Unlock()
		end.do()
		return
	}
	s.state, s.code, s.extraLocked().reason = stateClosing, code, reason
	s.roomLocked()
	s.setDueLocked(s.h.now() + int64(s.h.o.WriteTimeout))
	s.scheduleWriteLocked()
	s.mu.Unlock()
}

// fail ends the session at once. What is queued is lost.
func (s *session) fail(reason engine.Reason) {
	s.mu.Lock()
	if s.state == stateEnded {
		s.mu.Unlock()
		return
	}
	end := s.endLocked(reason)
	s.mu.Unlock()
	end.do()
}

// dismissed ends the session of a client that has broken the rules of what is above Engine.IO.
func (s *session) dismissed(reason engine.Reason) {
	s.mu.Lock()
	if s.carrier != nil || s.state != stateOpen {
		s.mu.Unlock()
		s.shut(reason, 0)
		return
	}
	end := s.dismissLocked(reason)
	s.mu.Unlock()
	end.do()
}

// dismissLocked ends a session on polling at once, and keeps what the next GET gets for a moment if none
// waits: the client hears of the end, as from the reference server.
func (s *session) dismissLocked(reason engine.Reason) teardown {
	end := s.endLocked(reason)
	if !s.poll.waiting {
		s.poll.bye, end.keep = byeLater, true
		s.setDueLocked(s.h.now() + int64(byeWait))
	}
	return end
}

// teardown is what is left to do, without the lock, when a session has ended.
type teardown struct {
	s       *session // nil: nothing
	carrier carrier  // to be aborted, or nil
	probe   *websocket
	post    *post
	fresh   *fresh // nil, or it was until now
	keep    bool   // the session is found until its client has heard of the end
	tell    bool
}

// endLocked ends the session, once. The first reason counts.
func (s *session) endLocked(reason engine.Reason) teardown {
	if s.state == stateEnded { // it may be kept until its client has heard of that, and found by a request that would end it
		return teardown{}
	}
	x := s.extraLocked()
	if s.state == stateOpen {
		x.reason = reason
	}
	s.state, s.due = stateEnded, never
	s.rankLocked()
	s.queue.clear(s.h)
	s.writtenLocked()
	x.pongs, x.logs = nil, nil
	s.lostLocked()
	s.h.wheel.remove(s)
	if x.gone != nil {
		close(x.gone)
	}
	s.roomLocked()
	e := teardown{s: s, carrier: s.carrier}
	if s.poll != nil {
		e.probe, s.poll.probe = s.poll.probe, nil
		e.post = s.poll.post
		if f := s.poll.fresh; f != nil && !f.settling {
			f.timer.Stop()
			e.fresh, s.poll.fresh = f, nil
		}
		s.poll.wakeUp()
	}
	if !s.delivering {
		s.told, e.tell = true, true
	}
	return e
}

func (e teardown) do() {
	if e.s == nil {
		return
	}
	if !e.keep {
		e.s.h.forget(e.s)
	}
	if e.carrier != nil {
		e.carrier.abort()
	}
	if e.probe != nil {
		e.probe.giveUp()
	}
	if e.post != nil {
		e.post.cut()
	}
	if e.fresh != nil {
		e.s.h.incomplete.Drop(&e.fresh.share)
	}
	if e.tell {
		go e.s.tell() // the handler waits for it: sessions
	}
}

// tell tells the receiver that the session has ended, and gives back the session's share in the
// handler.
func (s *session) tell() {
	defer s.h.sessionsLeft.Done()
	defer s.recovered()
	s.receiver.Closed(s.extra.reason)
}
