package lane

import (
	"sync/atomic"
	"time"

	"tether/broker"
)

// call is one Publish.
type call struct {
	results []result
	begun   int64         // ns since the base of the lanes
	left    atomic.Int32  // messages without an answer
	done    chan struct{} // capacity 1; a token when left reaches 0
	lanes   *Lanes        // immutable

	one [1]result // of the common call with one message
}

// result is the fate of one message.
type result struct {
	state atomic.Uint32
	reach broker.Receipt // written before state becomes answered
	err   error          // likewise
}

const (
	queued    = iota // waits in a lane
	taken            // in a batch; it may have been sent
	answered         // reach and err are set
	withdrawn        // the caller has gone before it was sent; it never will be
)

func (l *Lanes) newCall(n int) *call {
	c, _ := l.calls.Get().(*call)
	if c == nil {
		c = &call{lanes: l, done: make(chan struct{}, 1)}
	}
	if n == 1 {
		c.results = c.one[:]
		c.one[0].state.Store(queued)
		c.one[0].err = nil
	} else {
		c.results = make([]result, n)
	}
	c.begun = int64(time.Since(l.base))
	c.left.Store(int32(n))
	return c
}

// take claims a message for a batch; false: its caller has gone.
func (c *call) take(i int32) bool { return c.results[i].state.CompareAndSwap(queued, taken) }

// answer sets the fate of a message. It is called once for each that was not withdrawn.
func (c *call) answer(i int, r broker.Receipt, err error) {
	res := &c.results[i]
	res.reach, res.err = r, err
	res.state.Store(answered)
	if c.left.Add(-1) == 0 {
		c.done <- struct{}{}
	}
}

// cancel withdraws what has not been sent.
func (c *call) cancel() {
	for i := range c.results {
		c.results[i].state.CompareAndSwap(queued, withdrawn)
	}
}

// reaches returns what is known of each message, and the error of the first that has one.
func (c *call) reaches() ([]broker.Receipt, error) {
	reach := make([]broker.Receipt, len(c.results))
	var first error
	for i := range c.results {
		res := &c.results[i]
		if res.state.Load() != answered {
			reach[i].Bound = broker.Unknown
			continue
		}
		reach[i] = res.reach
		if res.err != nil {
			reach[i] = broker.Receipt{Bound: broker.Unknown}
			if first == nil {
				first = res.err
			}
		}
	}
	return reach, first
}
