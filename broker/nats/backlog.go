package nats

import (
	"sync"
	"sync/atomic"

	natsio "github.com/nats-io/nats.go"
)

// backlog is the queue between pump and feed, bounded by bytes.
type backlog struct {
	max  int64
	held atomic.Int64  // bytes that wait, here or with feed
	wake chan struct{} // capacity 1; there are messages

	mu   sync.Mutex
	msgs []*natsio.Msg // guarded by mu
}

func newBacklog(max int) *backlog {
	return &backlog{max: int64(max), wake: make(chan struct{}, 1)}
}

// cost is what a message counts for: its bytes and about what nats.go needs besides.
func cost(m *natsio.Msg) int { return len(m.Subject) + len(m.Reply) + len(m.Data) + 192 }

// put reports false if there is no room. There is always room for what is ours.
func (q *backlog) put(m *natsio.Msg, isOurs bool) bool {
	n := int64(cost(m))
	if q.held.Load()+n > q.max && !isOurs {
		return false
	}
	q.held.Add(n)
	q.mu.Lock()
	q.msgs = append(q.msgs, m)
	first := len(q.msgs) == 1
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns what waits, and takes a slice to use next.
func (q *backlog) take(spare []*natsio.Msg) []*natsio.Msg {
	clear(spare)
	q.mu.Lock()
	defer q.mu.Unlock()
	msgs := q.msgs
	q.msgs = spare[:0]
	return msgs
}

// done says that feed holds so many bytes less.
func (q *backlog) done(bytes int) { q.held.Add(-int64(bytes)) }
