package hub

import (
	"slices"
	"time"
)

// leaver is a connection that is about to be closed by a drain.
type leaver struct {
	client *client
	since  time.Time
}

// maxAwaited is how many leavers that cannot go yet are looked at in one round.
const maxAwaited = 1024

// closeWithdrawn closes the connections for which nothing more comes, or has been awaited for limit, and
// returns the others. Those do not hold up the ones behind them.
func closeWithdrawn(leaving []leaver, limit time.Duration) (left []leaver) {
	left = leaving[:0]
	for i, l := range leaving {
		if len(left) == maxAwaited {
			return append(left, leaving[i:]...)
		}
		if waited := time.Since(l.since); waited < limit && !l.client.withdraw(waited > welcomeLimit) {
			left = append(left, l)
			continue
		}
		l.client.first.conn.Close(ReasonShutdown)
	}
	return left
}

// withdraw ends the subscriptions that only the connection's sockets keep, while they still get what
// comes. It reports whether nothing comes for them alone any more, and is called until it does. Unless it is
// late, it waits until no socket is connecting: what is held for one has to arrive, and the others are not
// to be deaf meanwhile.
func (c *client) withdraw(late bool) (done bool) {
	sockets := c.all()
	if !late && slices.ContainsFunc(sockets, (*Socket).connecting) {
		return false
	}
	done = true
	for _, s := range sockets {
		done = s.withdraw() && done
	}
	return done
}

// connecting reports whether the hooks run, or what was held for the socket is still being sent.
func (s *Socket) connecting() bool { return s.gate.State() < stateConnected }

func (s *Socket) withdraw() (done bool) {
	h := s.client.hub
	s.mu.Lock()
	defer s.mu.Unlock()
	if state := s.gate.State(); state != stateConnected && state != stateLogged {
		return true
	}
	if s.sessionLocked() != nil {
		return true // it stays, and another node takes it over
	}
	done = true
	for i := range s.rooms {
		m := &s.rooms[i]
		if !m.withdrawn {
			h.interest.withdraw(m)
		}
		done = h.index.settled(m.room) && done
	}
	return done
}
