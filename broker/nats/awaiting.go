package nats

import (
	"errors"
	"math"
	"strconv"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/beat"
)

// maxCancelled is how many cancellations are remembered before everything that waits is dropped.
const maxCancelled = 1 << 16

var errCancelled = errors.New("nats: messages were read too late to be counted")

// taken is a message on its way to the dispatcher.
type taken struct {
	m     broker.Message
	s     *subscription
	reply string     // subject
	stamp beat.Stamp // of the last good moment when it was read
	cost  int        // bytes that it holds of the backlog
	after []*op      // not nil: there is no message, but these to end when all before is delivered
}

// awaiting holds the messages that have been acknowledged, in order, until the server certainly has the
// acknowledgements: a mark that was published behind them has come back. It is part of what makes a
// verdict certain. It is owned by feed.
type awaiting struct {
	groups    []group             // by mark
	current   []taken             // of no group yet
	last      uint64              // mark of the last group
	flying    uint64              // mark that has not come back; 0 if there is none
	cancelled map[string]struct{} // reply subjects; of what is held, or has been dealt with
	spare     [][]taken
	buf       []byte
}

// group is what one mark is for: one message at least.
type group struct {
	mark uint64
	msgs []taken
}

// noMark is behind all others.
const noMark = math.MaxUint64

// empty reports whether nothing waits.
func (a *awaiting) empty() bool { return len(a.groups) == 0 && len(a.current) == 0 }

// begin is called before messages are added.
func (a *awaiting) begin() {
	if len(a.groups) == 0 && len(a.cancelled) > 0 {
		clear(a.cancelled) // nothing is held
	}
}

func (a *awaiting) add(t taken) {
	if n := len(a.spare); a.current == nil && n > 0 {
		a.current, a.spare = a.spare[n-1], a.spare[:n-1]
	}
	a.current = append(a.current, t)
}

// cancel cancels the message with a reply subject, if it is held. It reports false if there are too many.
func (a *awaiting) cancel(reply string) bool {
	if a.empty() {
		return true
	}
	if len(a.cancelled) >= maxCancelled {
		return false
	}
	if a.cancelled == nil {
		a.cancelled = make(map[string]struct{})
	}
	a.cancelled[reply] = struct{}{}
	return true
}

func (a *awaiting) isCancelled(reply string) bool {
	if len(a.cancelled) == 0 {
		return false
	}
	_, is := a.cancelled[reply]
	return is
}

// mark publishes a mark for what has been added, unless there is one under way: then it waits for that, so
// that under load one mark is for many. It reports false if a mark could not be published.
func (a *awaiting) mark(conn *natsio.Conn, subject string) bool {
	if len(a.current) > 0 {
		a.last++
		a.groups = append(a.groups, group{a.last, a.current})
		a.current = nil
	}
	if len(a.groups) == 0 || a.flying != 0 {
		return true
	}
	a.flying = a.last
	a.buf = strconv.AppendUint(append(a.buf[:0], 'm'), a.last, 10)
	return conn.Publish(subject, a.buf) == nil
}

// back takes note of a mark that has come back, or with noMark of what has been dropped.
func (a *awaiting) back(mark uint64) {
	if mark == a.flying || mark == noMark {
		a.flying = 0
	}
}

// markOf returns the mark that data is, if it is not a beat.
func markOf(data []byte) (mark uint64, ok bool) {
	if len(data) == 0 || data[0] != 'm' {
		return 0, false
	}
	n, err := strconv.ParseUint(string(data[1:]), 10, 63)
	if err != nil {
		n = 0 // no mark: anybody may have sent it
	}
	return n, true
}

// next takes the first messages out whose mark is up to mark; noMark is for those without one too.
func (a *awaiting) next(mark uint64) (msgs []taken, ok bool) {
	switch {
	case len(a.groups) > 0 && a.groups[0].mark <= mark && (mark <= a.last || mark == noMark):
		msgs = a.groups[0].msgs
		a.groups[0] = group{}
		a.groups = a.groups[1:]
	case mark == noMark && len(a.current) > 0:
		msgs, a.current = a.current, nil
	}
	return msgs, msgs != nil
}

// release takes back what next has returned.
func (a *awaiting) release(msgs []taken) {
	clear(msgs)
	if len(a.spare) < 16 {
		a.spare = append(a.spare, msgs[:0])
	}
}
