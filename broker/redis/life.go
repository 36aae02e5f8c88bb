package redis

import (
	"context"

	"tether/internal/group"
)

// life is how long a broker lives, and what ends with it.
type life struct {
	group.Group // the goroutines

	// onEnd has f called when the broker is closed, or at once if it is, unless stop is called before.
	onEnd func(f func()) (stop func() bool) // immutable
	end   context.CancelFunc                // immutable; part of driver.Close
}

func newLife() *life {
	ctx, end := context.WithCancel(context.Background())
	return &life{onEnd: func(f func()) func() bool { return context.AfterFunc(ctx, f) }, end: end}
}

// closing reports whether the broker is being closed.
func (l *life) closing() bool {
	select {
	case <-l.Closing():
		return true
	default:
		return false
	}
}
