package redis

import "sync"

// life is how long a broker lives, and what ends with it.
type life struct {
	closed chan struct{} // closed by close

	mu       sync.Mutex
	isClosed bool           // guarded by mu
	next     int            // guarded by mu; key of release
	release  map[int]func() // guarded by mu; what close ends
	running  sync.WaitGroup // Add under mu, while not closed
}

func newLife() *life {
	return &life{closed: make(chan struct{}), release: make(map[int]func())}
}

// register leaves f to close. The function that it returns takes f back. False: it is closed.
func (l *life) register(f func()) (undo func(), ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
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

// spawn runs f on a goroutine that wait waits for, unless it is closed.
func (l *life) spawn(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isClosed {
		return false
	}
	l.running.Go(f)
	return true
}

// close calls first, and ends what is registered. False: it was closed before.
func (l *life) close(first func()) bool {
	l.mu.Lock()
	if l.isClosed {
		l.mu.Unlock()
		return false
	}
	l.isClosed = true
	close(l.closed)
	var end []func()
	for _, f := range l.release {
		end = append(end, f)
	}
	l.mu.Unlock()
	first()
	for _, f := range end {
		f()
	}
	return true
}

// wait returns when nothing that was spawned is left.
func (l *life) wait() { l.running.Wait() }
