package nats

import (
	"strconv"
	"time"
)

// round waits, after the first acknowledgement of a few messages, for as long as a message takes to the
// server and back: the other nodes that took them have mostly acknowledged them by then, and are counted.
// It ends with a mark of its own, or with that of a batch that was begun later. One mark is under way at a
// time.
type round struct {
	number uint64
	begun  time.Time
	msgs   []ref
}

// beginRound begins a round for what has been acknowledged since the last.
func (r *receipts) beginRound() {
	r.mu.Lock()
	if len(r.fresh) > 0 {
		r.rounds = append(r.rounds, round{r.numberLocked(), time.Now(), r.fresh})
		r.fresh = nil
	}
	if len(r.rounds) == 0 || r.flying != 0 {
		r.mu.Unlock()
		return
	}
	n := r.rounds[len(r.rounds)-1].number
	r.flying = n
	r.mu.Unlock()
	if r.conn.Publish(r.inbox+roundMark+"."+strconv.FormatUint(n, 36), nil) != nil {
		r.endRounds(n)
	}
}

// endRounds ends the rounds up to a number whose mark is back.
func (r *receipts) endRounds(number uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.endRoundsLocked(number)
}

func (r *receipts) endRoundsLocked(number uint64) {
	if number > r.last {
		return // nobody's
	}
	if number >= r.flying {
		r.flying = 0
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
