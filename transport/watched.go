package transport

import (
	"slices"

	"tether/engine"
)

// watched is a packet whose watcher has not been told the end yet: it waits, or is being written.
type watched struct {
	packet *engine.Packet
	taken  bool // it is in the round that is being written
}

// watchLocked notes a packet that has its place in the order. Taken says that it is about to be written.
func (s *session) watchLocked(p *engine.Packet, taken bool) {
	if !p.Watched() {
		return
	}
	x := s.extraLocked()
	x.watched = append(x.watched, watched{p, taken})
	if !taken {
		p.Became(s, engine.Queued)
	}
}

// takenLocked is called when a packet has left the queue to be written.
func (s *session) takenLocked(p *engine.Packet) {
	if !p.Watched() || s.extra == nil {
		return
	}
	for i := range s.extra.watched {
		if s.extra.watched[i].packet == p {
			s.extra.watched[i].taken = true
		}
	}
}

// becameLocked tells the end of a packet that had its place.
func (s *session) becameLocked(p *engine.Packet, o engine.Outcome) {
	if !p.Watched() || s.extra == nil {
		return
	}
	s.toldLocked(o, func(w watched) bool { return w.packet == p })
}

// toldLocked tells the end of the packets that match.
func (s *session) toldLocked(o engine.Outcome, match func(watched) bool) {
	s.extra.watched = slices.DeleteFunc(s.extra.watched, func(w watched) bool {
		if !match(w) {
			return false
		}
		w.packet.Became(s, o)
		return true
	})
}

// roundWritten tells of the packets of a round.
func (s *session) roundWritten() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra != nil {
		s.toldLocked(engine.Written, func(w watched) bool { return w.taken })
	}
}

// lostLocked tells of all packets that an end of the session leaves behind.
func (s *session) lostLocked() {
	s.toldLocked(engine.Lost, func(watched) bool { return true })
	s.extra.watched = nil
}
