package seal

import (
	"crypto/cipher"
	"sync"
)

// source is a publisher that this node has heard.
type source struct {
	cipher cipher.AEAD // immutable; safe for concurrent use

	mu     sync.Mutex
	window window // guarded by mu
	newest int64  // guarded by mu; milliseconds, the latest time that a message of it had
}

func (s *source) take(h *head, now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = max(s.newest, h.at)
	return s.window.take(h.number, h.at, now)
}

// over reports whether all that s has sent so far is too old to be accepted.
func (s *source) over(now int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.newest < now-windowMillis
}

const windowMillis = int64(Window / 1e6)

// window knows which messages of a publisher have come, as long as they are young enough to be accepted. It
// takes a bit for each number that the publisher has used in that time, here or elsewhere: 16 KB for a thousand
// messages a second.
type window struct {
	chunks map[uint64]*chunk // by number of the first message, divided by chunkSize
	order  []uint64          // the keys of chunks, as they came
	last   *chunk            // that was used last
	lastID uint64
}

const chunkSize = 1024

// chunk is what has come of chunkSize messages in a row.
type chunk struct {
	come   [chunkSize / 64]uint64
	newest int64 // milliseconds, the latest time that one of them had
}

// take reports whether a message comes for the first time. Its age has been checked.
func (w *window) take(number uint64, at, now int64) bool {
	id := number / chunkSize
	c := w.last
	if c == nil || w.lastID != id {
		c = w.chunk(id, now)
		w.last, w.lastID = c, id
	}
	word, bit := &c.come[number%chunkSize/64], uint64(1)<<(number%64)
	if *word&bit != 0 {
		return false
	}
	*word |= bit
	c.newest = max(c.newest, at)
	return true
}

// chunk finds or makes a chunk. It forgets those whose messages would be refused for their age.
func (w *window) chunk(id uint64, now int64) *chunk {
	if c := w.chunks[id]; c != nil {
		return c
	}
	for len(w.order) > 0 && w.chunks[w.order[0]].newest < now-windowMillis {
		delete(w.chunks, w.order[0])
		w.order = w.order[1:]
	}
	if w.chunks == nil {
		w.chunks = make(map[uint64]*chunk)
	}
	c := new(chunk)
	w.chunks[id] = c
	w.order = append(w.order, id)
	return c
}
