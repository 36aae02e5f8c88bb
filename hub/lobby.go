package hub

import (
	"sync"
	"sync/atomic"
	"time"

	"tether/internal/budget"
)

// lobby is where connections are that have no namespace. Each has a deadline, and their handshakes, which may be
// large and lead to nothing, have a budget together.
type lobby struct {
	waiting
	handshakes budget.Budget

	large  atomic.Int32 // shares; a connection with a small handshake takes no lock
	mu     sync.Mutex
	shares map[*client]*budget.Share // guarded by mu
}

func (l *lobby) set(c *client, when time.Time) {
	l.waiting.set(c, when)
	l.hold(c)
}

func (l *lobby) add(c *client, when time.Time) {
	l.waiting.add(c, when)
	l.hold(c)
}

func (l *lobby) unset(c *client) {
	l.waiting.unset(c)
	if l.large.Load() == 0 {
		return
	}
	l.mu.Lock()
	share := l.shares[c]
	if share != nil {
		delete(l.shares, c)
		l.large.Add(-1)
	}
	l.mu.Unlock()
	if share != nil {
		l.handshakes.Drop(share)
	}
}

// hold counts the handshake of c.
func (l *lobby) hold(c *client) {
	c.mu.Lock()
	size := len(c.handshake)
	c.mu.Unlock()
	if size < budget.Small {
		return
	}
	l.mu.Lock()
	if l.shares[c] != nil {
		l.mu.Unlock()
		return
	}
	share := &budget.Share{End: func() { c.first.conn.Close(ReasonForcedClose) }}
	if l.shares == nil {
		l.shares = make(map[*client]*budget.Share)
	}
	l.shares[c] = share
	l.large.Add(1)
	l.mu.Unlock()
	l.handshakes.Hold(share, size)
}
