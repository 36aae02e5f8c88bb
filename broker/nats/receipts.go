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

	// lookTick is the time between two looks at what waits, and logTick that with a log: what the stream has stored and
	// nobody has acknowledged in between may be for nobody.
	lookTick = 50 * time.Millisecond
	logTick  = 5 * time.Millisecond
)

// receipts holds the messages that wait to be acknowledged. A message is told of in one of these ways:
//
//   - a node acknowledges it: at least one node took it;
//   - the server says that nobody is subscribed: certainly none;
//   - neither within ackWait after the server has taken it: unknown;
//   - the server does not take it: the backend is unavailable.
//
// A message with a place is taken when the stream has stored it. If nobody is subscribed a little later then that is
// unknown, too: somebody may have been.
type receipts struct {
	tick    time.Duration // between two looks
	certain func() bool   // whether nobody is there if our own server says so
	wake    chan struct{} // capacity 1; the first message has begun to wait

	// Owned by send.
	next    uint64 // the number of the next message
	scratch []slot
	text    []byte
	room    []byte
	ends    []int

	mu        sync.Mutex
	first     uint64     // guarded by mu; number of slots[0]
	slots     []slot     // guarded by mu; by number; the first one waits, or there are none
	deadlines []deadline // guarded by mu; oldest first

	unstored map[uint64]struct{} // guarded by mu; numbers of the batch that the stream has not answered for
	settled  chan struct{}       // capacity 1; unstored has become empty since it was looked last
	marked   uint64              // guarded by mu; the next number when it was looked last
	probed   uint64              // guarded by mu; what comes before was asked for
}

// slot is one message.
type slot struct {
	lane.Pending
	wire  string // the subject of the server
	reply string
	waits bool

	placed, stored bool // it has a place; the stream has it
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

func newReceipts(certain func() bool, tick time.Duration) *receipts {
	return &receipts{
		tick:    tick,
		settled: make(chan struct{}, 1),
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

// failFrom says that a message and those behind it were not sent, but for those that the stream has stored.
func (r *receipts) failFrom(n uint64, err error) {
	r.failIf(err, func(at uint64, s *slot) bool { return at >= n && !s.stored })
}

// failUnstored says of messages with a place, from one on, that the stream has not stored them in time.
func (r *receipts) failUnstored(n uint64, err error) {
	r.failIf(err, func(at uint64, s *slot) bool { return at >= n && s.placed && !s.stored })
}

// refuse fails what waits on a subject that we may not publish on.
func (r *receipts) refuse(wire string, err error) {
	r.failIf(err, func(_ uint64, s *slot) bool { return s.wire == wire })
}

// expect notes that the stream is to answer for a message.
func (r *receipts) expect(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.unstored == nil {
		r.unstored = make(map[uint64]struct{})
	}
	r.unstored[n] = struct{}{}
}

// expects reports whether the stream has to answer for anything.
func (r *receipts) expects() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.unstored) > 0
}

// forget gives up what the stream has not answered for.
func (r *receipts) forget() {
	r.mu.Lock()
	defer r.mu.Unlock()
	clear(r.unstored)
}

func (r *receipts) settleLocked(n uint64) {
	if _, is := r.unstored[n]; !is {
		return
	}
	if delete(r.unstored, n); len(r.unstored) == 0 {
		signal(r.settled)
	}
}

// waitsForStream reports whether the stream is to answer for a message.
func (r *receipts) waitsForStream(n uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, is := r.unstored[n]
	return is
}

// stored takes what the stream says of a message: it has it, or why not.
func (r *receipts) stored(out []answer, n uint64, err error) []answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.settleLocked(n)
	i := n - r.first
	switch {
	case i >= uint64(len(r.slots)) || !r.slots[i].placed:
	case err != nil:
		return r.answerLocked(out, n, unknown, err)
	default:
		r.slots[i].stored = true
	}
	return out
}

// nobody takes the word of the server that nobody was subscribed a little after a message was passed on.
func (r *receipts) nobody(out []answer, n uint64) []answer {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.answerLocked(out, n, unknown, nil)
}

// unacked is a message that nobody has acknowledged.
type unacked struct {
	n    uint64
	wire string
}

// unacknowledged returns, each once, what the stream has stored and nobody has acknowledged since the look before.
func (r *receipts) unacknowledged() (out []unacked) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := max(r.probed, r.first)
	for ; n < r.marked && n-r.first < uint64(len(r.slots)); n++ {
		s := &r.slots[n-r.first]
		if s.waits && s.placed && !s.stored {
			break
		}
		if s.waits && s.placed {
			out = append(out, unacked{n, s.wire})
		}
	}
	r.probed, r.marked = n, r.first+uint64(len(r.slots))
	return out
}

// failIf fails the messages that wait and for which is holds.
func (r *receipts) failIf(err error, is func(n uint64, s *slot) bool) {
	var out []answer
	r.mu.Lock()
	first, slots := r.first, r.slots // answers may take the first ones away
	for i := range slots {
		if slots[i].waits && is(first+uint64(i), &slots[i]) {
			r.settleLocked(first + uint64(i))
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
	if i := n - r.first; i < uint64(len(r.slots)) && r.slots[i].placed { // it is the stream that is not there
		reach = unknown
	}
	return r.answerLocked(out, n, reach, nil)
}

// taken says that the server has taken all messages so far, or will not. It is called by send.
func (r *receipts) taken() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.deadlines) > 0 && r.deadlines[0].last < r.first { // look may not come while all are answered at once
		r.deadlines = r.deadlines[1:]
	}
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
