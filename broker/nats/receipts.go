package nats

import (
	"slices"
	"sync"
	"time"

	"tether/broker"
	"tether/broker/internal/lane"
)

const (
	// ackWait is how long a publisher waits for an acknowledgement, once the server has the message, before it
	// says that it does not know.
	ackWait = time.Second

	// lookTick is the time between two looks at what waits.
	lookTick = 50 * time.Millisecond
)

// receipts holds the messages that wait to be acknowledged. A message is told of in one of these ways:
//
//   - a node acknowledges it: at least one node took it;
//   - the server says that nobody is subscribed: certainly none;
//   - neither within ackWait after the server has taken it: unknown;
//   - the server does not take it: the backend is unavailable.
type receipts struct {
	certain func() bool   // whether nobody is there if our own server says so
	wake    chan struct{} // capacity 1; the first message has begun to wait

	// Owned by send.
	next    uint64 // the number of the next message
	scratch []slot
	text    []byte
	ends    []int

	mu        sync.Mutex
	first     uint64     // guarded by mu; number of slots[0]
	slots     []slot     // guarded by mu; by number; the first one waits, or there are none
	deadlines []deadline // guarded by mu; oldest first
}

// slot is one message.
type slot struct {
	lane.Pending
	wire  string // the subject of the server
	reply string
	waits bool
}

// deadline says when the messages up to a number are given up.
type deadline struct {
	last uint64
	at   time.Time
}

// answer is what a publisher is to be told.
type answer struct {
	lane.Pending
	reach broker.Receipt
	err   error
}

func (a answer) give() {
	if a.err != nil {
		a.Fail(a.err)
	} else {
		a.Took(a.reach)
	}
}

var (
	unknown = broker.Receipt{Bound: broker.Unknown}
	atLeast = broker.Receipt{Nodes: 1, Bound: broker.AtLeast}
)

func newReceipts(certain func() bool) *receipts {
	return &receipts{
		certain: certain,
		wake:    make(chan struct{}, 1),
		next:    1,
		first:   1,
	}
}

// wait has the messages of a batch wait for their receipts. They have been numbered from next on.
func (r *receipts) wait(batch []slot) {
	r.mu.Lock()
	idle := len(r.slots) == 0
	if idle {
		r.first = r.next
	}
	r.slots = append(r.slots, batch...)
	r.next += uint64(len(batch))
	r.mu.Unlock()
	if idle {
		signal(r.wake)
	}
}

// signal makes sure that a channel of capacity 1 is not empty.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// fail says that a message was not sent.
func (r *receipts) fail(n uint64, err error) {
	r.failIf(err, func(at uint64, _ *slot) bool { return at == n })
}

// failFrom says that a message and those behind it were not sent.
func (r *receipts) failFrom(n uint64, err error) {
	r.failIf(err, func(at uint64, _ *slot) bool { return at >= n })
}

// refuse fails what waits on a subject that we may not publish on.
func (r *receipts) refuse(wire string, err error) {
	r.failIf(err, func(_ uint64, s *slot) bool { return s.wire == wire })
}

// failIf fails the messages that wait and for which is holds.
func (r *receipts) failIf(err error, is func(n uint64, s *slot) bool) {
	var out []answer
	r.mu.Lock()
	first, slots := r.first, r.slots // answers may take the first ones away
	for i := range slots {
		if slots[i].waits && is(first+uint64(i), &slots[i]) {
			out = r.answerLocked(out, first+uint64(i), unknown, err)
		}
	}
	r.mu.Unlock()
	for _, a := range out {
		a.give()
	}
}

// answerLocked adds the answer to a message that waits. It takes from the front what waits no more.
func (r *receipts) answerLocked(out []answer, n uint64, reach broker.Receipt, err error) []answer {
	i := n - r.first
	if i >= uint64(len(r.slots)) || !r.slots[i].waits {
		return out // answered, or nobody's
	}
	out = append(out, answer{r.slots[i].Pending, reach, err})
	r.slots[i] = slot{}
	if i > 0 {
		return out
	}
	done := slices.IndexFunc(r.slots, func(s slot) bool { return s.waits })
	if done < 0 {
		done = len(r.slots)
	}
	r.slots, r.first = r.slots[done:], r.first+uint64(done)
	return out
}

// acknowledge reads ranges of numbers. What makes no sense is left out: anybody may have sent it.
func (r *receipts) acknowledge(out []answer, data []byte) []answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(data) > 0 {
		first, n, rest, ok := cutRange(data)
		if !ok {
			break
		}
		data = rest
		end := min(first+n, r.first+uint64(len(r.slots)))
		for i := max(first, r.first); i < end; i++ {
			out = r.answerLocked(out, i, atLeast, nil)
		}
	}
	return out
}

// noResponders takes the word of the server that nobody is subscribed to the subject of a message.
func (r *receipts) noResponders(out []answer, n uint64) []answer {
	reach := unknown
	if r.certain() {
		reach = broker.Receipt{}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answerLocked(out, n, reach, nil)
}

// taken says that the server has taken all messages so far. It is called by send.
func (r *receipts) taken() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deadlines = append(r.deadlines, deadline{r.next - 1, time.Now().Add(ackWait)})
}

// look is called every lookTick while somebody waits, and reports whether somebody still does. What has
// waited for too long is answered.
func (r *receipts) look(out []answer, now time.Time) (_ []answer, waits bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.deadlines) > 0 && (r.deadlines[0].last < r.first || !now.Before(r.deadlines[0].at)) {
		for n := r.first; n <= r.deadlines[0].last; n++ {
			out = r.answerLocked(out, n, unknown, nil)
		}
		r.deadlines = r.deadlines[1:]
	}
	return out, len(r.slots) > 0
}
