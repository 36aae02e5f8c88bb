package hub

import (
	"context"
	"time"
)

// refuseAtOnce refuses a CONNECT that no hook has to see: behind the answer to the CONNECT before it.
func (c *client) refuseAtOnce(namespace, message string) {
	r := refused{namespace, message}
	if before := c.newest(); before == nil || !before.answerWith(r) {
		c.refuse(r.namespace, r.message, nil)
	}
}

// refused is a CONNECT_ERROR that waits for the answer to another CONNECT.
type refused struct{ namespace, message string }

// newest is the socket of the last CONNECT, nil if there is none or it is gone.
func (c *client) newest() (s *Socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at := c.sockets; at != nil; at = at.next {
		s = at
	}
	return s
}

// turnLimit is how long the answer to a CONNECT waits for the answer to the one before it. The reference
// server answers in order unless a hook takes its time.
const turnLimit = time.Second

// awaitAnswer waits until the CONNECT of s has been answered, or for turnLimit, or ctx.
func (s *Socket) awaitAnswer(ctx context.Context) {
	s.mu.Lock()
	if s.answered {
		s.mu.Unlock()
		return
	}
	x := s.rareLocked()
	if x.answered == nil {
		x.answered = make(chan struct{})
	}
	answered := x.answered
	s.mu.Unlock()
	limit := time.NewTimer(turnLimit)
	defer limit.Stop()
	select {
	case <-answered:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// answerWith has r sent behind the answer to the CONNECT of s. It reports false if that has left, or so
// many wait for it that the client deserves no order.
func (s *Socket) answerWith(r refused) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered {
		return false
	}
	x := s.rareLocked()
	if len(x.refused) >= s.client.hub.options.Limits.Namespaces {
		return false
	}
	x.refused = append(x.refused, r)
	return true
}

// answer is called when the CONNECT of s has been answered, or will not be. It lets go what waits for that.
func (s *Socket) answer() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.extra != nil && s.extra.rare != nil && s.extra.rare.refused != nil {
		waiting := s.extra.rare.refused
		s.extra.rare.refused = nil
		s.mu.Unlock()
		for _, r := range waiting {
			s.client.refuse(r.namespace, r.message, nil)
		}
		s.mu.Lock()
	}
	s.answered = true
	if s.extra == nil || s.extra.rare == nil {
		return
	}
	if answered := s.extra.rare.answered; answered != nil {
		close(answered)
	}
	if s.extra.rare.answered = nil; s.extra.rare.places == nil && s.extra.rare.session == nil {
		s.extra.rare = nil
	}
}
