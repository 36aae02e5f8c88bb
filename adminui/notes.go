package adminui

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"tether/hub"
)

// note is something that has happened to a socket of this node.
type note struct {
	At        time.Time `json:"at"`
	What      string    `json:"what"` // an event of pages
	Namespace string    `json:"nsp"`
	Socket    string    `json:"id"`
	Text      string    `json:"text"` // name of the event, or reason of the end
}

const (
	maxNotes  = 256              // of a node, the latest
	noteTime  = 10 * time.Second // for which a node takes notes after it was asked for them
	noteBytes = 256              // of a text
)

// notes are what a node has noted lately. It takes none while nobody asks.
type notes struct {
	until atomic.Int64 // Unix nanoseconds

	mu   sync.Mutex
	next uint64 // guarded by mu; number of the next note
	all  []note // guarded by mu; the oldest first
}

// watch notes the events of a namespace, and why its sockets end.
func (n *notes) watch(space *hub.Namespace) {
	space.UseEvent(func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		n.take("event_received", s, m.Event())
		return nil
	})
	space.OnAnyOutgoing(func(s *hub.Socket, event string, _ []any) { n.take("event_sent", s, event) })
	space.OnDisconnect(func(s *hub.Socket, r hub.Reason) { n.take("socket_disconnected", s, string(r)) })
}

func (n *notes) take(what string, s *hub.Socket, text string) {
	now := time.Now()
	if now.UnixNano() > n.until.Load() {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.all) == maxNotes {
		n.all = append(n.all[:0], n.all[1:]...)
	}
	n.all = append(n.all, note{now, what, s.Namespace().Name(), s.ID(), text[:min(len(text), noteBytes)]})
	n.next++
}

// since returns the notes from a number on, if they are wanted, and the number of the next one.
func (n *notes) since(first uint64, wanted bool) ([]note, uint64) {
	n.until.Store(time.Now().Add(noteTime).UnixNano())
	n.mu.Lock()
	defer n.mu.Unlock()
	if !wanted || first > n.next {
		return nil, n.next
	}
	return append([]note(nil), n.all[max(0, len(n.all)-int(n.next-first)):]...), n.next
}
