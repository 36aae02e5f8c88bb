package redis

import (
	"sync"

	"tether/internal/group"
)

// life is how long a broker lives, and what ends with it.
type life struct {
	group.Group // the goroutines

	mu      sync.Mutex
	over    bool           // guarded by mu
	next    int            // guarded by mu; key of release
	release map[int]func() // guarded by mu; what end calls
}

func newLife() *life { return &life{release: make(map[int]func())} }

// closing reports whether the broker is being closed.
func (l *life) closing() bool {
	select {
	case <-l.Closing():
		return true
	default:
		return false
	}
}

// register leaves f to end. The function that it returns takes f back. False: it is over.
func (l *life) register(f func()) (undo func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.over {
		return nil, false
	}
	key := l.next
	l.next++
	l.release[key] = f
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.release, key)
	}, true
}

// end calls all that is registered. Nothing can be registered any more.
func (l *life) end() {
	l.mu.Lock()
	l.over = true
	var all []func()
	for _, f := range l.release {
		all = append(all, f)
	}
	l.mu.Unlock()
	for _, f := range all {
		f()
	}
}
