package hub

import (
	"crypto/sha256"
	"sync"
)

// lapsed remembers why sessions have ended that nobody has asked for yet.
type lapsed struct {
	mu   sync.Mutex
	whys recent[[sha256.Size]byte, loss] // guarded by mu
}

const maxLapsed = 4096

func (l *lapsed) add(secret []byte, why loss) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.whys.put(sha256.Sum256(secret), why, maxLapsed)
}

func (l *lapsed) whyOf(hash [sha256.Size]byte) loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	if why, ok := l.whys.m[hash]; ok {
		return why
	}
	return lossUnknown
}
