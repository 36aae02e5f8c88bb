// Package group owns goroutines: it starts them until it is closed, and waits until they have ended.
package group

import (
	"context"
	"sync"
	"sync/atomic"
)

// Group starts goroutines until it is closed. The zero value is ready to use. All methods may be called
// concurrently.
type Group struct {
	n atomic.Int64 // that run; closed is added by Close

	mu      sync.Mutex
	closing chan struct{} // guarded by mu; closed by Close; nil until somebody asks
	idle    chan struct{} // guarded by mu; closed when nothing runs after Close; nil until somebody asks
}

const closed = 1 << 62

// Go runs f on a goroutine that Wait waits for. It reports false, and does not run f, after Close.
func (g *Group) Go(f func()) bool {
	if !g.Begin() {
		return false
	}
	go func() { // Wait waits for it
		defer g.End()
		f()
	}()
	return true
}

// Begin is Go for a caller that starts the goroutine itself. After true the goroutine calls End when it
// ends.
func (g *Group) Begin() bool {
	for {
		n := g.n.Load()
		if n&closed != 0 {
			return false
		}
		if g.n.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// End undoes one Begin.
func (g *Group) End() {
	if g.n.Add(-1) == closed {
		close(g.channel(&g.idle))
	}
}

// Len is how many run.
func (g *Group) Len() int { return int(g.n.Load() &^ closed) }

// Close lets nothing start any more. It does not wait. It reports whether this is the first call.
func (g *Group) Close() bool {
	n := g.n.Or(closed)
	if n&closed != 0 {
		return false
	}
	close(g.channel(&g.closing))
	if n == 0 {
		close(g.channel(&g.idle))
	}
	return true
}

// Closing is closed by Close.
func (g *Group) Closing() <-chan struct{} { return g.channel(&g.closing) }

// Wait returns when the group is closed and nothing runs any more.
func (g *Group) Wait() { <-g.channel(&g.idle) }

// WaitFor is Wait, or the error of ctx if that ends first.
func (g *Group) WaitFor(ctx context.Context) error {
	select {
	case <-g.channel(&g.idle):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// channel is one of the channels. The first caller makes it.
func (g *Group) channel(of *chan struct{}) chan struct{} {
	g.mu.Lock()
	defer g.mu.Unlock()
	if *of == nil {
		*of = make(chan struct{})
	}
	return *of
}
