package transport

import "sync"

// buffers are the read buffers that no connection holds. It is not a [sync.Pool] because an idle
// connection must never be the one that allocates: see workers.
type buffers struct {
	mu   sync.Mutex
	free []*[bufferSize]byte // guarded by mu
}

// maxBuffers is how many are kept.
const maxBuffers = 64

func (p *buffers) get() *[bufferSize]byte {
	p.mu.Lock()
	n := len(p.free)
	if n == 0 {
		p.mu.Unlock()
		return new([bufferSize]byte)
	}
	b := p.free[n-1]
	p.free = p.free[:n-1]
	p.mu.Unlock()
	return b
}

func (p *buffers) put(b *[bufferSize]byte) {
	p.mu.Lock()
	if len(p.free) < maxBuffers {
		p.free = append(p.free, b)
	}
	p.mu.Unlock()
}
