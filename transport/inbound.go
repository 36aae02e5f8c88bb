package transport

import "sync"

// partials are the messages and bodies that have begun to come, and how much memory they take together.
// When that is too much, the one that began first ends: whoever means it well is done by then.
type partials struct {
	limit int // in bytes; negative: none

	mu          sync.Mutex
	total       int      // guarded by mu: bytes
	first, last *partial // guarded by mu
}

// partial is one of them. What is less than smallBytes is none.
type partial struct {
	end func() // ends the connection; called without a lock

	bytes      int      // guarded by partials.mu
	ended      bool     // guarded by partials.mu
	prev, next *partial // guarded by partials.mu
}

// hold notes how many bytes p takes now. It must be told 0 in the end.
func (ps *partials) hold(p *partial, bytes int) {
	if bytes < smallBytes {
		bytes = 0
	}
	ps.mu.Lock()
	if !p.ended {
		ps.setLocked(p, bytes)
	}
	for ps.limit >= 0 && ps.total > ps.limit {
		victim := ps.first
		ps.setLocked(victim, 0)
		victim.ended = true
		ps.mu.Unlock()
		victim.end()
		ps.mu.Lock()
	}
	ps.mu.Unlock()
}

func (ps *partials) setLocked(p *partial, bytes int) {
	was := p.bytes
	p.bytes = bytes
	ps.total += bytes - was
	switch {
	case was == 0 && bytes > 0:
		if p.prev = ps.last; p.prev == nil {
			ps.first = p
		} else {
			p.prev.next = p
		}
		ps.last = p
	case was > 0 && bytes == 0:
		if p.prev == nil {
			ps.first = p.next
		} else {
			p.prev.next = p.next
		}
		if p.next == nil {
			ps.last = p.prev
		} else {
			p.next.prev = p.prev
		}
		p.prev, p.next = nil, nil
	}
}

func (ps *partials) held() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	return ps.total
}
