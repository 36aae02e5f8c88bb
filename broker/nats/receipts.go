package nats

import (
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	natsio "github.com/nats-io/nats.go"

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
//   - neither within ackWait after the server has taken it, which a probe behind it shows: unknown;
//   - the server is silent, or the connection is replaced: the backend is unavailable.
type receipts struct {
	conn    *natsio.Conn
	link    *link
	alive   func() // tells the lanes that publishers wait for other nodes, not for the backend
	cluster *cluster
	inbox   string        // with the dot at its end
	wake    chan struct{} // capacity 1; the first message has begun to wait

	next    uint64 // owned by send; the number of the next message
	scratch []slot // owned by send

	mu    sync.Mutex
	first uint64 // guarded by mu; number of slots[0]
	slots []slot // guarded by mu; by number; those in front wait, or there are none
	sent  []sent // guarded by mu; what the slots were sent in, oldest first
}

// slot is one message.
type slot struct {
	lane.Pending
	wire  string // the subject of the server
	reply string
	waits bool
	none  bool // the server says that nobody is subscribed, and other servers may know better
}

// sent is one batch.
type sent struct {
	end   uint64 // one past its last number
	epoch epoch
	at    time.Time
	taken time.Time // when it was known that the server has it; zero before
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

func newReceipts(b *Broker) *receipts {
	return &receipts{
		conn:    b.conn,
		link:    b.link,
		alive:   b.lanes.Alive,
		cluster: b.cluster,
		inbox:   b.inbox,
		wake:    make(chan struct{}, 1),
		next:    1,
		first:   1,
	}
}

// wait has the messages of a batch wait for their receipts. They have been numbered from r.next on.
func (r *receipts) wait(batch []slot, e epoch) {
	r.mu.Lock()
	idle := len(r.slots) == 0
	if idle {
		r.first = r.next
	}
	r.slots = append(r.slots, batch...)
	r.next += uint64(len(batch))
	r.sent = append(r.sent, sent{end: r.next, at: time.Now(), epoch: e})
	r.mu.Unlock()
	if idle {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// fail says that a message was not sent.
func (r *receipts) fail(n uint64, err error) {
	r.mu.Lock()
	out := r.answerLocked(nil, n, unknown, err)
	r.mu.Unlock()
	for _, a := range out {
		a.give()
	}
}

// refuse fails what waits on a subject that we may not publish on.
func (r *receipts) refuse(wire string, err error) {
	var out []answer
	r.mu.Lock()
	first := r.first // answers may take the first ones away
	for i, s := range r.slots {
		if s.wire == wire {
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
	for len(r.sent) > 0 && r.sent[0].end <= r.first {
		r.sent[0] = sent{}
		r.sent = r.sent[1:]
	}
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
	certain := r.cluster.isCertain()
	r.mu.Lock()
	defer r.mu.Unlock()
	i := n - r.first
	if i >= uint64(len(r.slots)) || !r.slots[i].waits {
		return out
	}
	if !certain {
		r.slots[i].none = true
		return out
	}
	return r.answerLocked(out, n, broker.Receipt{}, nil)
}

// probed takes a probe that has come back: the server has taken everything up to a number.
func (r *receipts) probed(n uint64) {
	r.alive()
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.sent {
		if s := &r.sent[i]; s.end <= n+1 && s.taken.IsZero() {
			s.taken = now
		}
	}
}

// look is called every lookTick while somebody waits, and reports whether somebody still does. What has
// waited for long is answered.
func (r *receipts) look(out []answer, now time.Time) ([]answer, bool) {
	joined, alone := r.cluster.isJoined(), r.cluster.isAlone()
	current, why := r.link.current(), r.link.why()
	r.mu.Lock()
	n, probe := r.first, false
	for _, s := range slices.Clone(r.sent) {
		cut := s.epoch.n != current.n || s.epoch.ended()
		for ; n < s.end; n++ {
			reach, err, ok := r.overdueLocked(n, s, now, cut, joined, alone)
			switch {
			case !ok:
				continue
			case err == errReplaced:
				err = unavailable("publish", why)
			case err != nil:
				err = unavailable("publish", err)
			}
			out = r.answerLocked(out, n, reach, err)
		}
		probe = probe || now.Sub(s.at) >= lookTick/2
	}
	waits, last := len(r.slots) > 0, r.first+uint64(len(r.slots))-1
	r.mu.Unlock()
	if waits && probe {
		_ = r.conn.Publish(r.inbox+probeTail+strconv.FormatUint(last, 36), nil) // then it does not come back
	}
	return out, waits
}

// overdueLocked says what is to be told of a message that has waited long enough, or in vain, because its
// connection was cut.
func (r *receipts) overdueLocked(n uint64, s sent, now time.Time, cut, joined, alone bool) (reach broker.Receipt, err error, ok bool) {
	i := n - r.first
	if i >= uint64(len(r.slots)) || !r.slots[i].waits {
		return unknown, nil, false
	}
	switch none := r.slots[i].none; {
	case none && alone:
		return broker.Receipt{}, nil, true
	case none:
		return unknown, nil, joined || now.Sub(s.at) >= ackWait
	case !s.taken.IsZero():
		return unknown, nil, cut || now.Sub(s.taken) >= ackWait
	case cut:
		return unknown, errReplaced, true
	}
	return unknown, errSilent, now.Sub(s.at) >= timeout
}

// refused is the error for what the server has refused.
func refused(doing string, err error) error {
	return fmt.Errorf("nats: %s: %w: %w", doing, broker.ErrRefused, err)
}
