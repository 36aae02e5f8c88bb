package server

import (
	"sync"
	"time"
)

// throttle lets one event a second pass, and counts the others.
type throttle struct {
	mu   sync.Mutex
	last time.Time // when one passed; guarded by mu
	held int       // since then; guarded by mu
}

// pass says whether the event passes, and if so, how many before it did not.
func (t *throttle) pass(now time.Time) (held int, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.last) < time.Second {
		t.held++
		return 0, false
	}
	held, t.last, t.held = t.held, now, 0
	return held, true
}
