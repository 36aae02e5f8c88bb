package hub

import (
	"cmp"
	"slices"
	"time"

	"tether/cluster"
)

// A socket that has lost its client, and whose session waits for it, is parked: it stays in its rooms, and what
// it is sent goes into the log of the session. It counts as gone for everything else.

// comesBack reports whether a client comes back after its connection has ended for this reason.
func comesBack(r Reason) bool {
	return r != ReasonClientDisconnect && r != ReasonServerDisconnect && r != ReasonParseError
}

// lose ends the socket because its connection has ended, or parks it.
func (s *Socket) lose(reason Reason) {
	if !s.park(reason) {
		s.leave(reason)
	}
}

// park reports false if the socket has no session that can wait for its client.
func (s *Socket) park(reason Reason) bool {
	h := s.client.hub
	if !h.options.Recovery.On {
		return false
	}
	s.mu.Lock()
	v, was := s.sessionLocked(), s.gate.State()
	if v == nil || was >= stateParked {
		s.mu.Unlock()
		return was >= stateParked
	}
	told := was != stateConnecting // that it is connected
	if !told && (!v.taken || v.home != "" && !v.coming) || !comesBack(reason) {
		s.mu.Unlock()
		return false
	}
	if told {
		v.away = true
	}
	switch {
	case h.ending.Load():
		v.why = lossNode
	case s.extra.acks != nil && len(s.extra.acks.waiting) > 0:
		v.why = lossQuestion
	}
	if v.why != lossNone {
		s.mu.Unlock()
		return false
	}
	admission := s.awayLocked(was, stateParked)
	var left chan struct{}
	if told {
		left = make(chan struct{})
		v.since, v.left = time.Now(), left
	}
	deadline := v.since.Add(h.options.Recovery.Window)
	s.mu.Unlock()

	h.parked.set(s, deadline)
	if s.gate.State() != stateParked { // it has been taken meanwhile
		h.parked.unset(s)
	}
	s.gone(was, admission)
	if told {
		s.client.enqueue(task{socket: s, reason: reason, done: left})
		h.boundUsers(s)
	}
	s = v.lockHolder()
	defer s.mu.Unlock()
	s.changedLocked()
	return true
}

// awayLocked shuts the way to the connection.
func (s *Socket) awayLocked(was, state uint32) *admission {
	if was == stateWelcome {
		s.client.departs()
	}
	s.gate.Set(state)
	admission := s.admission
	if s.admission = nil; admission != nil {
		admission.end()
	}
	return admission
}

// gone is what has to be done when a socket that was not away is.
func (s *Socket) gone(was uint32, admission *admission) {
	if admission != nil {
		admission.cancel()
	}
	if connected(was) {
		s.ns.connected.Add(-1)
	}
	s.tellEnded()
	s.client.forget(s, was, false)
}

// unrecovered ends the session of a socket that has ended, and tells the application if the client had lost it.
// Refused says that the application does not want it.
func (s *Socket) unrecovered(refused bool) {
	s.mu.Lock()
	v := s.sessionLocked()
	if v == nil || v.holder.Load() != s {
		s.mu.Unlock()
		return
	}
	why := cmp.Or(v.why, lossRefused)
	away, home, claim, inherits := v.away, v.home, v.claim, v.heir != nil
	if v.away {
		v.away, v.lapsed = false, why
	}
	saved, k := v.kept.saved && home == "" && v.passed == "", s.keyLocked(v)
	s.mu.Unlock()
	h := s.client.hub
	if h.records.unset(s); saved && why != lossNode { // if this node ends another one goes on
		h.dropRecord(k, h.tag)
	}
	switch refuses := home != "" && why == lossRefused && refused; {
	case refuses && inherits:
		h.dropRecord(k, home)
	case refuses:
		h.tellRefused(home, k, claim)
	}
	if away || refused { // else its client has left
		h.lapsed.add(v.secret[:], why)
	}
	if !away {
		return
	}
	h.log.Debug("a session is not recovered", "socket", s.ID(), "reason", lossText[why])
	s.tellRegistered(Target{})
	s.client.enqueue(task{socket: s, reason: Reason(lossText[why]), lapsed: true})
}

// lapse ends a session that waits.
func (s *Socket) lapse(why loss) {
	s.mu.Lock()
	if s.gate.State() != stateParked {
		s.mu.Unlock()
		return
	}
	v := s.sessionLocked()
	if v.passed != "" {
		s.mu.Unlock()
		s.finish(v)
		return
	}
	v.why = why
	s.mu.Unlock()
	s.leave("") // a parked socket has been told why
}

// sweepParked ends the sessions whose time is over, and the oldest while all together take too much.
func (h *Hub) sweepParked(now time.Time) {
	for _, s := range h.parked.passed(now) {
		s.lapse(lossExpired)
	}
	for _, s := range h.remembered.passed(now) {
		v := s.sessionOf()
		v.seen.set(nil)
		v.log.ForgetLate()
	}
	for h.logs.Used() > h.options.Recovery.TotalBytes/8*7 {
		oldest := h.parked.first()
		if oldest == nil {
			return
		}
		h.parked.unset(oldest)
		oldest.lapse(lossOverflowed)
	}
}

// boundUsers ends sessions that wait, the oldest first, while those of a user take too much.
func (h *Hub) boundUsers(s *Socket) {
	for _, user := range s.Users() {
		var waiting []*Socket
		bytes := 0
		for o := range h.index.lookup(s.ns.subject + user.name).each {
			if o.gate.State() == stateParked {
				waiting = append(waiting, o)
				bytes += o.sessionOf().log.Size()
			}
		}
		slices.SortFunc(waiting, func(a, b *Socket) int { return a.lost().Compare(b.lost()) })
		for _, o := range waiting {
			if bytes <= h.options.Recovery.UserBytes {
				break
			}
			bytes -= o.sessionOf().log.Size()
			o.lapse(lossOverflowed)
		}
	}
}

// lost is when the client of a parked socket was lost.
func (s *Socket) lost() time.Time {
	v := s.sessionOf()
	defer v.lockHolder().mu.Unlock()
	return v.since
}

// cutSessions is told that messages may have been missed: what clients have from before cannot be recovered from.
// A client that has been told since then that its session is recovered has to learn that it may not be.
func (h *Hub) cutSessions(from time.Time, subjects []string) {
	if !h.options.Recovery.On {
		return
	}
	cut := func(s *Socket) {
		s.mu.Lock()
		v := s.sessionLocked()
		if v == nil || s.gate.State() >= stateMoved {
			s.mu.Unlock()
			return
		}
		v.gap = true
		v.log.Cut()
		parked, wrong := s.gate.State() == stateParked, v.taken && v.back.After(from)
		s.mu.Unlock()
		switch {
		case parked:
			s.lapse(lossGap)
		case wrong:
			s.conn.Close(ReasonServerClose)
		}
	}
	if subjects == nil {
		for _, s := range h.sockets.all() {
			cut(s)
		}
		return
	}
	for _, subject := range subjects {
		for s := range h.index.lookup(subject).each {
			cut(s)
		}
	}
}

// lingerLimit is how long a node that drains waits for other nodes to take the sessions of its clients over: most
// clients come back within two seconds, and those that come to this node first, which refuses them, within six.
const lingerLimit = 8 * time.Second

// linger returns when no session waits here any more, or after limit.
func (h *Hub) linger(limit time.Duration) {
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for begin := time.Now(); h.parked.len() > 0 && time.Since(begin) < limit && h.hasSuccessor(); {
		<-ticker.C
	}
}

// hasSuccessor reports whether there is another node that takes clients.
func (h *Hub) hasSuccessor() bool {
	members, _ := h.cluster.Members()
	return slices.ContainsFunc(members, func(m cluster.Member) bool { return m.Tag != h.tag && !m.Draining })
}

// endParked ends all sessions that wait: this node does.
func (h *Hub) endParked() {
	if !h.options.Recovery.On {
		return
	}
	h.ending.Store(true)
	for _, s := range h.sockets.all() {
		s.lapse(lossNode)
	}
}
