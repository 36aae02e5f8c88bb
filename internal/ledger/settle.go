package ledger

import (
	"maps"
	"slices"
	"time"

	"tether/broker"
)

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

// Forget settles the messages that were published longer than age ago and that all clients which must have them have,
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
