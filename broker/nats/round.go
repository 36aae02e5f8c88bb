package nats

import (
	"strconv"
	"time"
)

// round waits, after the first acknowledgement of a few messages, for as long as a message takes to the
// server and back: the other nodes that took them have mostly acknowledged them by then, and are counted.
type round struct {
	number uint64
	begun  time.Time
	msgs   []ref
}

// beginRound begins a round for what has been acknowledged since the last.
func (r *receipts) beginRound() {
	r.mu.Lock()
	if len(r.fresh) == 0 {
		r.mu.Unlock()
		return
	}
	n := r.numberLocked()
	r.rounds = append(r.rounds, round{n, time.Now(), r.fresh})
	r.fresh = nil
	r.mu.Unlock()
	if r.conn.Publish(r.inbox+roundMark+"."+strconv.FormatUint(n, 36), nil) != nil {
		r.endRound(n)
	}
}

// endRound ends the rounds up to a number.
func (r *receipts) endRound(number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if number > r.last {
		return
	}
	for len(r.rounds) > 0 && r.rounds[0].number <= number {
		r.endRoundLocked()
	}
}

func (r *receipts) endRoundLocked() {
	for _, m := range r.rounds[0].msgs {
		r.answerLocked(m, m.b.reach(m.i))
	}
	r.rounds[0] = round{}
	r.rounds = r.rounds[1:]
}
