package hub

// withdraw ends the subscriptions that only the connection's sockets keep, while they still get what
// comes. It reports whether nothing comes for them alone any more, and is called until it does.
func (c *Client) withdraw() (done bool) {
	done = true
	for _, s := range c.all() {
		done = s.withdraw() && done
	}
	return done
}

func (s *Socket) withdraw() (done bool) {
	h := s.client.hub
	s.mu.Lock()
	defer s.mu.Unlock()
	switch s.gate.state.Load() {
	case stateGone:
		return true
	case stateConnecting, stateWelcome: // what is held for it has to arrive first
		return false
	}
	done = true
	for i := range s.seats {
		m := &s.seats[i].membership
		if !m.withdrawn {
			h.interest.withdraw(m)
		}
		done = h.index.settled(m.room) && done
	}
	return done
}
