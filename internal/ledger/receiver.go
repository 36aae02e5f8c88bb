package ledger

import (
	"fmt"
	"slices"
)

// Receiver is one socket.
type Receiver struct {
	ledger *Ledger
	name   string
	node   string

	// Guarded by the ledger's mu.
	stays map[string][]*Stay
	got   map[uint64]struct{}
	last  map[string]uint64 // sequence of each stream
	left  Moment            // since when it may be leaving all rooms
	sent  Moment            // away, by a drain, before it has left
	ended bool
}

// Stay is one time of a socket in one room. Between asked and sure it may be in the room or not, and so
// again between leaving and gone.
type Stay struct {
	receiver                   *Receiver
	asked, sure, leaving, gone Moment
}

// Receiver opens the account of a socket on a node.
func (l *Ledger) Receiver(name, node string) *Receiver {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := &Receiver{
		ledger: l, name: name, node: node,
		stays: make(map[string][]*Stay),
		got:   make(map[uint64]struct{}),
		last:  make(map[string]uint64),
	}
	return r
}

// Ask notes that the socket has asked to be in a room.
func (r *Receiver) Ask(room string) *Stay {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(r.stays[room]) == 0 {
		l.rooms[room] = append(l.rooms[room], r)
	}
	s := &Stay{receiver: r, asked: l.nowLocked(), leaving: r.left}
	r.stays[room] = append(r.stays[room], s)
	return s
}

// Own notes that the room is the socket's own: its receipts count the node that the socket's ID names,
// for as long as that node is there.
func (r *Receiver) Own(room string) *Stay {
	s := r.Ask(room)
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	r.ledger.own[room] = true
	return s
}

// Sure notes that the socket knows that it is in the room.
func (s *Stay) Sure() { s.set(&s.sure) }

// Leave notes that the socket has asked to leave the room.
func (s *Stay) Leave() { s.set(&s.leaving) }

// Gone notes that the socket knows that it is no longer in the room.
func (s *Stay) Gone() { s.set(&s.leaving); s.set(&s.gone) }

func (s *Stay) set(m *Moment) {
	l := s.receiver.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if !m.happened() {
		*m = l.nowLocked()
	}
}

// Leave notes that the socket may be leaving a room, or with "*" all of them, since a moment.
func (r *Receiver) Leave(room string, since Moment) {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if room == "*" && since.Before(r.left) {
		r.left = since
	}
	for name, stays := range r.stays {
		if room != "*" && room != name {
			continue
		}
		for _, s := range stays {
			if since.Before(s.leaving) {
				s.leaving = since
			}
		}
	}
}

// SentAway notes that a drain of its node has ended the connection, before the socket left by itself.
func (r *Receiver) SentAway() {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	if !r.left.happened() && r.ledger.drains[r.node].happened() {
		r.sent = r.ledger.nowLocked()
	}
}

// End notes that the socket is in no room any more.
func (r *Receiver) End() {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.ended {
		return
	}
	r.ended = true
	now := l.nowLocked()
	for _, stays := range r.stays {
		for _, s := range stays {
			if !s.leaving.happened() {
				s.leaving = now
			}
			if !s.gone.happened() {
				s.gone = now
			}
		}
	}
}

// Disturb notes that all sockets that are or may be in a room may be leaving it from now on.
func (l *Ledger) Disturb(room string) Moment {
	l.mu.Lock()
	now := l.nowLocked()
	rs := slices.Clone(l.rooms[room])
	l.mu.Unlock()
	for _, r := range rs {
		r.Leave("*", now)
	}
	return now
}

// Drop notes that a node may be closing the connections that it has from now on. Their clients know it
// only when they read it.
func (l *Ledger) Drop(node string) {
	l.mu.Lock()
	now := l.nowLocked()
	var all []*Receiver
	for _, list := range l.rooms {
		for _, r := range list {
			if r.node == node && !r.ended {
				all = append(all, r)
			}
		}
	}
	l.mu.Unlock()
	for _, r := range all {
		r.Leave("*", now)
	}
}

// WasIn reports whether the socket was in the room for certain at m.
func (r *Receiver) WasIn(room string, m Moment) bool {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	return r.surelyLocked(room, m, m)
}

// MayHaveBeenIn reports whether the socket may have been in the room at some moment in between.
func (r *Receiver) MayHaveBeenIn(room string, from, to Moment) bool {
	r.ledger.mu.Lock()
	defer r.ledger.mu.Unlock()
	return r.perhapsLocked(room, from, to)
}

// Known reports whether the socket knows that it is in the room, or was.
func (s *Stay) Known() bool {
	s.receiver.ledger.mu.Lock()
	defer s.receiver.ledger.mu.Unlock()
	return s.sure.happened()
}

// Got notes that the socket has received a message.
func (r *Receiver) Got(mark Mark) {
	l := r.ledger
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.nowLocked()
	m := l.findLocked(mark.Number)
	if m == nil && mark.Number < l.first {
		l.faultLocked(&l.counts.Doubled, "%s got %+v, which everybody had long ago", r, mark)
		return
	}
	if m == nil || m.Mark != mark {
		l.faultLocked(&l.counts.Foreign, "%s got %+v, which nobody sent", r, mark)
		return
	}
	if !slices.ContainsFunc(m.to, func(room string) bool { return r.perhapsLocked(room, m.call, now) }) {
		l.faultLocked(&l.counts.Foreign, "%s got %s and was not in its room", r, m)
	}
	for _, room := range m.except {
		if r.surelyLocked(room, m.call, now) {
			l.faultLocked(&l.counts.Foreign, "%s got %s although it is in %q", r, m, room)
		}
	}
	if _, again := r.got[mark.Number]; again {
		if r.steadyLocked(m, now) {
			l.faultLocked(&l.counts.Doubled, "%s got %s again", r, m)
		}
		return
	}
	r.got[mark.Number] = struct{}{}
	if !slices.Contains(m.heard, r.node) {
		m.heard = append(m.heard, r.node)
	}
	l.counts.Received++
	if mark.Seq == 0 {
		return
	}
	stream := mark.Publisher + "\x00" + mark.Room
	if last := r.last[stream]; mark.Seq < last {
		l.faultLocked(&l.counts.Inverted, "%s got %s after number %d of its stream", r, m, last)
	} else {
		r.last[stream] = mark.Seq
	}
}

func (r *Receiver) String() string { return r.name + " on " + r.node }

func (m *Message) String() string {
	return fmt.Sprintf("message %d (%s, number %d to %q)", m.Mark.Number, m.Mark.Publisher, m.Mark.Seq, m.to)
}

// perhapsLocked reports whether the socket may have been in the room at some moment in between.
func (r *Receiver) perhapsLocked(room string, from, to Moment) bool {
	for _, s := range r.stays[room] {
		if s.asked.Before(to) && from.Before(s.gone) {
			return true
		}
	}
	return false
}

// surelyLocked reports whether the socket was in the room all the time in between.
func (r *Receiver) surelyLocked(room string, from, to Moment) bool {
	for _, s := range r.stays[room] {
		if s.sure.Before(from) && to.Before(s.leaving) {
			return true
		}
	}
	return false
}

// steadyLocked reports whether the socket's membership in the rooms of m was the same all the time
// until a moment: only then a union reaches it exactly once.
func (r *Receiver) steadyLocked(m *Message, to Moment) bool {
	if len(m.to) == 1 {
		return true
	}
	for _, room := range m.to {
		if r.perhapsLocked(room, m.call, to) && !r.surelyLocked(room, m.call, to) {
			return false
		}
	}
	return true
}
