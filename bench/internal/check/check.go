// Package check counts what went wrong with numbered messages: lost, doubled, inverted, foreign.
package check

import "tether/bench/internal/mark"

// Counts is what a check found. Counts of several receivers are added.
type Counts struct {
	Received uint64 `json:"received"` // messages of this run, for this receiver, each counted once
	Expected uint64 `json:"expected"` // what the publishers say they sent to receivers that were there all the time
	Lost     uint64 `json:"lost"`     // sent, and never received by one that was there all the time
	Doubled  uint64 `json:"doubled"`  // received again
	Inverted uint64 `json:"inverted"` // received after a later one of the same publisher and user
	Foreign  uint64 `json:"foreign"`  // of another run, for another user, or from an unknown publisher
	Missed   uint64 `json:"missed"`   // sent to receivers that come and go, and not received by them
}

// Add adds o to c.
func (c *Counts) Add(o Counts) {
	c.Received += o.Received
	c.Expected += o.Expected
	c.Lost += o.Lost
	c.Doubled += o.Doubled
	c.Inverted += o.Inverted
	c.Foreign += o.Foreign
	c.Missed += o.Missed
}

// Faults is the number of things that must not happen.
func (c Counts) Faults() uint64 { return c.Lost + c.Doubled + c.Inverted + c.Foreign }

// Verdict is what [Receiver.Take] thinks of a message.
type Verdict uint8

const (
	Good Verdict = iota
	Doubled
	Inverted
	Foreign
)

// Receiver checks the messages of one connection. It is exact: a message that comes late is known
// from one that comes twice however late it is.
type Receiver struct {
	run     uint32
	user    uint32
	streams []stream // one for each publisher and kind, few
}

type stream struct {
	publisher uint16
	everyone  bool
	next      uint64 // the sequence expected next
	got       uint64 // received, each counted once
	holes     []hole // below next, not received, in order
}

type hole struct{ from, to uint64 } // to is not in it

// NewReceiver checks what reaches user in run.
func NewReceiver(run, user uint32) Receiver { return Receiver{run: run, user: user} }

// Take notes that m was received and counts it in c.
func (r *Receiver) Take(m mark.Mark, c *Counts) Verdict {
	if m.Run != r.run || m.User != r.user && m.User != mark.Everyone || m.Seq == 0 {
		c.Foreign++
		return Foreign
	}
	s := r.stream(m.Publisher, m.User == mark.Everyone)
	switch {
	case m.Seq == s.next:
		s.next++
	case m.Seq > s.next:
		s.holes = append(s.holes, hole{s.next, m.Seq})
		s.next = m.Seq + 1
	case s.fill(m.Seq):
		s.got++
		c.Received++
		c.Inverted++
		return Inverted
	default:
		c.Doubled++
		return Doubled
	}
	s.got++
	c.Received++
	return Good
}

func (r *Receiver) stream(publisher uint16, everyone bool) *stream {
	for i := range r.streams {
		if s := &r.streams[i]; s.publisher == publisher && s.everyone == everyone {
			return s
		}
	}
	r.streams = append(r.streams, stream{publisher: publisher, everyone: everyone, next: 1})
	return &r.streams[len(r.streams)-1]
}

// fill takes seq out of the holes, and reports whether it was in one.
func (s *stream) fill(seq uint64) bool {
	for i := len(s.holes) - 1; i >= 0; i-- {
		h := &s.holes[i]
		if seq >= h.to {
			return false
		}
		if seq < h.from {
			continue
		}
		switch {
		case h.to-h.from == 1:
			s.holes = append(s.holes[:i], s.holes[i+1:]...)
		case seq == h.from:
			h.from++
		case seq == h.to-1:
			h.to--
		default:
			tail := hole{seq + 1, h.to}
			h.to = seq
			s.holes = append(s.holes, hole{})
			copy(s.holes[i+2:], s.holes[i+1:])
			s.holes[i+1] = tail
		}
		return true
	}
	return false
}

// Sent is what one publisher sent: the length of each sequence.
type Sent struct {
	Publisher uint16   `json:"publisher"`
	First     uint32   `json:"first"`    // the user that Users[0] counts
	Users     []uint64 `json:"users"`    // messages to each user, in order from First
	Everyone  uint64   `json:"everyone"` // messages to everyone
}

// To is the number of messages for one user alone.
func (s Sent) To(user uint32) uint64 {
	if i := int64(user) - int64(s.First); i >= 0 && i < int64(len(s.Users)) {
		return s.Users[i]
	}
	return 0
}

// Total is the number of messages sent to single users.
func (s Sent) Total() (n uint64) {
	for _, u := range s.Users {
		n += u
	}
	return n
}

// Settle compares what was received with what was sent, and adds the difference to c. stayed says
// that the receiver was there from before the first message until after the last.
func (r *Receiver) Settle(sent []Sent, stayed bool, c *Counts) {
	known := 0
	for _, p := range sent {
		for _, everyone := range []bool{false, true} {
			want := p.Everyone
			if !everyone {
				want = p.To(r.user)
			}
			var got uint64
			for i := range r.streams {
				if s := &r.streams[i]; s.publisher == p.Publisher && s.everyone == everyone {
					got = s.got
					known++
				}
			}
			switch {
			case got > want: // numbers that nobody sent
				c.Foreign += got - want
			case stayed:
				c.Lost += want - got
			default:
				c.Missed += want - got
			}
			if stayed {
				c.Expected += want
			}
		}
	}
	if known < len(r.streams) {
		for i := range r.streams {
			s := &r.streams[i]
			if !published(sent, s.publisher) {
				c.Foreign += s.got
			}
		}
	}
}

func published(sent []Sent, publisher uint16) bool {
	for _, p := range sent {
		if p.Publisher == publisher {
			return true
		}
	}
	return false
}
