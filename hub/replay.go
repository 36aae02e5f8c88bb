package hub

import (
	"errors"

	"tether/engine"
)

// replay sends a socket that has just been told that it is connected what was kept for it, and opens the way for
// what comes. Events come behind the answer to CONNECT: a client that has no answer keeps what comes, also
// when it loses that connection too, and would get it twice. At is what it has to be sent first.
func (s *Socket) replay(a *admission, v *session, at uint64) {
	open := true
	var entries []*engine.Entry
	for {
		var ok bool
		if entries, ok = v.log.From(entries[:0], at, replayed); !ok {
			s.dropped(v)
			open = false
		}
		if !open || len(entries) == 0 {
			if s.opened(a, v, at, open) {
				return
			}
			continue
		}
		at += uint64(len(entries))
		for _, e := range entries {
			if open && !e.Volatile() {
				open = s.sendReplayed(e)
			}
		}
		clear(entries)
	}
}

const replayed = 64 // entries that are looked at in one go

// sendReplayed reports false if the connection has ended.
func (s *Socket) sendReplayed(e *engine.Entry) bool {
	for {
		behind, err := s.conn.Behind()
		if err != nil {
			return false
		}
		if behind == nil {
			break
		}
		<-behind // closed when the connection ends, too
	}
	err := s.conn.Send(e.Untimed(), nil) // how long it waited for its client is not how long we took
	return !errors.Is(err, ErrDisconnected)
}

// opened opens the way for what comes, if everything in the log has been sent, or nothing can be any more. It
// reports whether the socket is not being told any more.
func (s *Socket) opened(a *admission, v *session, at uint64, sent bool) bool {
	s.mu.Lock()
	if s.admission == nil { // it has gone meanwhile
		s.mu.Unlock()
		if a.disconnect {
			s.sendDisconnect()
			v.log.Close()
		}
		s.client.departed()
		return true
	}
	defer s.mu.Unlock()
	if sent && v.log.Next() != at {
		return false
	}
	s.admission = nil
	s.gate.Set(stateLogged)
	a.end()
	return true
}

// dropped ends a connection whose client cannot get what was kept for it: it was too much, unless another socket has
// the session by now, and that one has ended it.
func (s *Socket) dropped(v *session) {
	s.mu.Lock()
	if v.holder.Load() == s && v.why == lossNone {
		v.why = v.droppedLocked()
	}
	s.mu.Unlock()
	s.conn.Close(ReasonServerClose)
}

// pushLogged is pushFrom for a socket that has a session, or had one.
func (s *Socket) pushLogged(v *session, p *engine.Packet, from origin) error {
	if p.Control() { // an answer, which no log keeps
		if connected(s.gate.State()) { // the client has the answer to CONNECT
			return s.conn.Send(p, &s.gate)
		}
		return ErrDisconnected
	}
	h := s.client.hub
	e := h.entry(p, from)
	err := s.pushEntry(v, e, false)
	if err == errOvertaken && !e.Volatile() && !s.current().passedOn() {
		v.disordered()
	}
	if from.from != 0 && from.from == h.publisher.origin {
		h.arrivals.settle(from.number, err)
	}
	s.risk(e)
	return err
}

// errOvertaken says that an event that is late would come behind a later one.
var errOvertaken = errors.New("hub: an event is too late for the order")

// pushEntry is pushLogged for an entry. Again says that it has been looked at whether the client has it already.
func (s *Socket) pushEntry(v *session, e *engine.Entry, again bool) error {
	for tried := false; ; tried = true {
		state := s.gate.State()
		if tried {
			switch v.log.Standing(e) {
			case engine.Had:
				return nil
			case engine.Overtaken:
				return errOvertaken
			}
		}
		if e.Place != 0 && e.Place <= v.floor || !again && v.seen.has(e.Origin) { // behind the state: before, more may not have been known
			return nil
		}
		switch {
		case state == stateMoved:
			s = s.current()
		case state == stateLogged:
			err := s.conn.SendLogged(e, &s.gate, v.log)
			if !errors.Is(err, ErrDisconnected) {
				return err
			}
			if kept, err := s.keep(e); kept {
				return err
			}
		case state == stateParked:
			if kept, err := s.keep(e); kept {
				return err
			}
		case state < stateConnected:
			if s.holdLogged(e, again) {
				return nil
			}
		default:
			return ErrDisconnected
		}
	}
}

// keep puts an event into the log that cannot be sent now. It reports false if the log has another holder, or
// the socket has ended.
func (s *Socket) keep(e *engine.Entry) (kept bool, err error) {
	switch {
	case e.Volatile():
		e.Became(s.conn, engine.NotReady)
		return true, nil
	case e.Origin != (engine.Origin{}):
		kept = s.sessionOf().log.Add(e, &s.gate)
	default:
		kept, err = s.keepOwn(e)
	}
	if kept && err == nil {
		e.Became(s.conn, engine.Parked)
	}
	return kept, err
}

// keepOwn is keep for an event that no other node has: it is too late when another one was told of the log.
func (s *Socket) keepOwn(e *engine.Entry) (kept bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.sessionLocked()
	if s.gate.State() == stateParked && v.given {
		return true, ErrDisconnected
	}
	return v.log.Add(e, &s.gate), nil
}

// holdLogged keeps an event for a socket that is connecting. It reports false if it is not connecting.
func (s *Socket) holdLogged(e *engine.Entry, again bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.State() >= stateConnected {
		return false
	}
	v := s.sessionLocked()
	switch {
	case e.Volatile():
		e.Became(s.conn, engine.NotReady)
		return true
	case !again && v.seen.has(e.Origin):
		return true
	}
	e.Became(s.conn, engine.Held) // before it can be written
	return v.log.Add(e, &s.gate)
}
