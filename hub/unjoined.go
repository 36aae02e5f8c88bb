package hub

import (
	"sync"
	"sync/atomic"
	"time"

	"tether/internal/budget"
)

// unjoined are the connections without a namespace. Each has a deadline, and their handshakes, which may be
// large and lead to nothing, have a budget together.
type unjoined struct {
	waiting
	handshakes budget.Budget

	large  atomic.Int32 // shares; a connection with a small handshake takes no lock
	mu     sync.Mutex
	shares map[*client]*budget.Share // guarded by mu
}

func (u *unjoined) set(c *client, when time.Time) {
	u.waiting.set(c, when)
	u.hold(c)
}

func (u *unjoined) add(c *client, when time.Time) {
	u.waiting.add(c, when)
	u.hold(c)
}

func (u *unjoined) unset(c *client) {
	u.waiting.unset(c)
	if u.large.Load() == 0 {
		return
	}
	u.mu.Lock()
	share := u.shares[c]
	if share != nil {
		delete(u.shares, c)
		u.large.Add(-1)
	}
	u.mu.Unlock()
	if share != nil {
		u.handshakes.Drop(share)
	}
}

// hold counts the handshake of c.
func (u *unjoined) hold(c *client) {
	c.mu.Lock()
	size := len(c.handshake)
	c.mu.Unlock()
	if size < budget.Small {
		return
	}
	u.mu.Lock()
	if u.shares[c] != nil {
		u.mu.Unlock()
		return
	}
	share := &budget.Share{End: func() { c.first.conn.Close(ReasonForcedClose) }}
	if u.shares == nil {
		u.shares = make(map[*client]*budget.Share)
	}
	u.shares[c] = share
	u.large.Add(1)
	u.mu.Unlock()
	u.handshakes.Hold(share, size)
}
