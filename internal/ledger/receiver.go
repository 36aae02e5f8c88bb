package ledger

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"tether/broker"
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

// Settle says, once all messages have arrived or never will, what was lost and which receipts were not
// true. It is called once.
func (l *Ledger) Settle() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	end := l.nowLocked()
	settle := func(m *Message) {
		if !m.end.happened() {
			m.end, m.failed = end, true
		}
		l.settleLocked(m)
	}
	for _, number := range slices.Sorted(maps.Keys(l.late)) {
		settle(l.late[number])
	}
	for _, m := range l.messages {
		settle(m)
	}
	return l.counts
}

// Forget settles the messages that were published longer than age ago and that everybody has who must,
// so that a book of a long run stays small. The others wait for Settle. A message that arrives after
// it was settled counts as doubled, so age has to be longer than any can take.
func (l *Ledger) Forget(age time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	cut := time.Now().Add(-age)
	n := 0
	for _, m := range l.messages {
		if m.call.At.After(cut) {
			break
		}
		n++
		l.late[m.Mark.Number] = m
	}
	l.first += uint64(n)
	l.messages = slices.Clone(l.messages[n:])
	oldest := cut
	for number, m := range l.late {
		if m.end.happened() && m.end.At.Add(l.latency).Before(cut) && !l.missingLocked(m) {
			l.settleLocked(m)
			delete(l.late, number)
		} else if m.call.At.Before(oldest) {
			oldest = m.call.At
		}
	}
	l.forgetReceiversLocked(oldest)
}

// missingLocked reports whether somebody must have m, has not got it, and no gap says why.
func (l *Ledger) missingLocked(m *Message) bool {
	for _, room := range m.to {
		for _, r := range l.rooms[room] {
			if _, ok := r.got[m.Mark.Number]; !ok && !m.failed && !m.waived && r.mustLocked(room, m, l.latency) &&
				!l.excusedLocked(r.node, m.call.At, m.end.At.Add(l.latency)) {
				return true
			}
		}
	}
	return false
}

// forgetReceiversLocked forgets what no message counts on that was published at oldest or later.
func (l *Ledger) forgetReceiversLocked(oldest time.Time) {
	for room, list := range l.rooms {
		l.rooms[room] = slices.DeleteFunc(list, func(r *Receiver) bool {
			return r.ended && !slices.ContainsFunc(r.stays[room], func(s *Stay) bool {
				return !s.gone.At.Add(Ghost).Before(oldest)
			})
		})
		for _, r := range l.rooms[room] {
			for number := range r.got {
				if number < l.first && l.late[number] == nil {
					delete(r.got, number)
				}
			}
		}
	}
}

func (l *Ledger) settleLocked(m *Message) {
	seen := make(map[*Receiver]bool)
	there, perhaps := "", false // for the receipt
	for _, room := range m.to {
		for _, r := range l.rooms[room] {
			perhaps = perhaps || l.own[room] || r.lingersLocked(room, m)
			if r.surelyLocked(room, m.call, m.end) && m.end.Before(l.drains[r.node]) && !l.excusedLocked(r.node, m.call.At, m.end.At) {
				there = r.String()
			}
			if seen[r] || m.failed || m.waived || !r.mustLocked(room, m, l.latency) {
				continue
			}
			seen[r] = true
			l.counts.Expected++
			if _, ok := r.got[m.Mark.Number]; ok {
				continue
			}
			if l.excusedLocked(r.node, m.call.At, m.end.At.Add(l.latency)) {
				l.counts.InGap++
				continue
			}
			l.faultLocked(&l.counts.Lost, "%s never got %s, sent at %s", r, m, m.call.At.Format(time.TimeOnly+".000"))
		}
	}
	if !m.noted || m.bound == broker.Unknown {
		return
	}
	switch {
	case m.nodes == 0 && there != "":
		l.faultLocked(&l.counts.Receipts, "the receipt of %s, sent at %s, says that nobody is there, and %s is", m, m.call.At.Format(time.TimeOnly+".000"), there)
	case m.nodes > len(m.heard) && l.unheardLocked(m):
		l.faultLocked(&l.counts.Unheard, "%s, sent at %s, was taken by %d nodes, and somebody got it on %q", m, m.call.At.Format(time.TimeOnly+".000"), m.nodes, m.heard)
	case m.nodes > 0 && !perhaps:
		l.faultLocked(&l.counts.Receipts, "the receipt of %s counts %d nodes, and nobody has been there for %v", m, m.nodes, Ghost)
	}
}

// unheardLocked reports whether m, which more nodes took than it was received on, should have been received on
// another: of those that were in its room there, all have been sent away by a drain.
func (l *Ledger) unheardLocked(m *Message) bool {
	if l.overtakes || m.waived || len(m.to) > 1 || len(m.except) > 0 || l.own[m.to[0]] {
		return false
	}
	drained := make(map[string]bool) // nodes on which nobody received it; false: for another reason, perhaps
	for _, r := range l.rooms[m.to[0]] {
		if !r.lingersLocked(m.to[0], m) || slices.Contains(m.heard, r.node) {
			continue
		}
		sent := r.stayedLocked(m.to[0]) && !l.excusedLocked(r.node, m.call.At, m.end.At.Add(l.latency))
		all, known := drained[r.node]
		drained[r.node] = sent && (all || !known)
	}
	others := 0
	for _, all := range drained {
		if !all {
			others++
		}
	}
	return len(drained) > 0 && m.nodes > len(m.heard)+others
}

// stayedLocked reports whether the socket was in the room until it was sent away.
func (r *Receiver) stayedLocked(room string) bool {
	for _, s := range r.stays[room] {
		if !s.sure.Before(r.sent) || !r.sent.Before(s.leaving) {
			return false
		}
	}
	return r.sent.happened()
}

// mustLocked reports whether the socket has to get m because of its stay in the room.
func (r *Receiver) mustLocked(room string, m *Message, latency time.Duration) bool {
	if r.ledger.drains[r.node].Before(m.end) {
		latency += Withdrawal
	}
	var stay *Stay
	for _, s := range r.stays[room] {
		if s.sure.Before(m.call) && (!s.leaving.happened() || s.leaving.At.After(m.end.At.Add(latency))) {
			stay = s
		}
	}
	if stay == nil {
		return false
	}
	for _, x := range m.except {
		for _, s := range r.stays[x] {
			if !s.gone.happened() || !s.gone.Before(m.call) {
				return false
			}
		}
	}
	// Of a union, the message of another room that the socket comes into or leaves meanwhile may be
	// the one that was left out.
	for _, other := range m.to {
		if other == room {
			continue
		}
		for _, s := range r.stays[other] {
			if s.asked.At.Before(m.end.At.Add(latency)) && m.call.Before(s.gone) &&
				!(s.sure.Before(m.call) && (!s.leaving.happened() || s.leaving.At.After(m.end.At.Add(latency)))) {
				return false
			}
		}
	}
	return true
}

// lingersLocked reports whether the socket's node may be counted for the room.
func (r *Receiver) lingersLocked(room string, m *Message) bool {
	for _, s := range r.stays[room] {
		if s.asked.Before(m.end) && (!s.gone.happened() || s.gone.At.Add(Ghost).After(m.call.At)) {
			return true
		}
	}
	return false
}
