package sim

import (
	"sync"
	"time"
)

// clock is a node's wall clock. It can be wrong, and it can be set; time.Now, the clock of the bubble,
// is the one that durations are measured by.
type clock struct {
	mu  sync.Mutex
	off time.Duration // guarded by mu
	set time.Time     // guarded by mu; when it was set last, on the clock of the bubble
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.off)
}

// jump sets the clock.
func (c *clock) jump(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.off += d
	c.set = time.Now()
}

// steady reports whether the clock has not been set for d.
func (c *clock) steady(d time.Duration) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.set) > d
}

// expiries are the sockets of a node that are to be disconnected when its wall clock says so.
type expiries struct {
	mu    sync.Mutex
	at    map[int]time.Time // guarded by mu; by client, on the node's clock
	since map[int]time.Time // guarded by mu; when it was first seen to be over, on the clock of the bubble
}

func (e *expiries) set(client int, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.at == nil {
		e.at, e.since = make(map[int]time.Time), make(map[int]time.Time)
	}
	e.at[client] = at
	delete(e.since, client)
}

// passed reports whether the client's time is over.
func (e *expiries) passed(client int, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	at := e.at[client]
	return !at.IsZero() && !now.Before(at)
}

// overdue is for how long the client's time has been over, as far as is known.
func (e *expiries) overdue(client int, now time.Time) time.Duration {
	over := e.passed(client, now)
	e.mu.Lock()
	defer e.mu.Unlock()
	switch since := e.since[client]; {
	case !over:
		delete(e.since, client)
		return 0
	case since.IsZero():
		if e.since == nil {
			return 0
		}
		e.since[client] = time.Now()
		return 0
	default:
		return time.Since(since)
	}
}
