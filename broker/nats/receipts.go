package nats

import (
	"encoding/binary"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/lane"
)

const inboxQueue = 1 << 15 // answers that nats.go has read and we have not

// receipts reads what comes back for what we published. It has one inbox. Numbers are in base 36, whose
// letters are small:
//
//	inbox.BATCH          the mark that we publish behind a batch: the server has taken all of it
//	inbox.BATCH.INDEX    the reply subject of one message, for the server's "no responders"
//	inbox.BATCH.INDEX._  the same of a question, and
//	inbox.BATCH.INDEX.-  of a cancellation; see verdict
//	inbox._              acknowledgements of receivers, as pairs of uvarints
//	inbox.R.NUMBER       the mark of a round, which gathers acknowledgements
//	inbox.V.NUMBER       the mark of a verdict
//	inbox.P              a probe: the link is alive
//
// All that has to do with one receipt comes through this inbox on one connection, in the order in which
// the server has sent it, and loop reads it in that order.
type receipts struct {
	conn      *natsio.Conn
	link      *link
	alive     func()                              // tells the lanes that publishers wait for other nodes, not for the backend
	clustered func() bool                         // cluster.isClustered
	intact    func(e epoch, since time.Time) bool // cluster.intact
	spawn     func(func()) bool                   // runs a goroutine that Close waits for; false after Close
	inbox     string                              // with the dot at its end
	in        chan *natsio.Msg                    // immutable after start
	wake      chan struct{}                       // capacity 1; the first batch has begun to wait
	busy      atomic.Bool                         // an inquiry is being sent
	out       []answer                            // owned by loop; to be given

	mu      sync.Mutex
	started bool                 // guarded by mu
	sub     *natsio.Subscription // guarded by mu; nil before start
	last    uint64               // guarded by mu; the last number given out
	open    map[uint64]*batch    // guarded by mu; those that something is still missing of
	waiting []*batch             // guarded by mu; for acknowledgements, by deadline
	fresh   []ref                // guarded by mu; acknowledged, and in no round yet
	rounds  []round              // guarded by mu; under way, by number
	flying  uint64               // guarded by mu; the number of the round whose mark is under way, or 0
	verdict *verdict             // guarded by mu; under way, or nil
}

// fate is what is known of one message.
type fate uint8

const (
	unknown      fate = iota
	nobody            // the server said so, and it is certain
	absent            // our own server of a cluster says so now; see verdict
	denied            // a node that is up says that it did not take it
	acknowledged      // by some nodes
	answered          // the publisher has been told
	failed            // not sent
)

// isOpen reports whether nothing is certain yet of a message that was sent.
func (f fate) isOpen() bool { return f == unknown || f == absent || f == denied }

// wait is how long an open message waits to be acknowledged before it is cancelled.
func (f fate) wait() time.Duration {
	switch f {
	case absent:
		return 0
	case denied:
		return deniedWait
	}
	return ackWait
}

// batch is what was sent with one mark; its other fields are guarded by receipts.mu.
type batch struct {
	id     uint64
	begun  time.Time
	marked chan struct{} // closed when the mark is back

	isMarked bool
	fates    []fate
	nodes    []uint16       // that have acknowledged it, by message
	wires    []string       // by message; nil until the batch is written
	pending  []lane.Pending // by message; nil until the batch waits for acknowledgements
	left     int            // messages that are not answered, while it waits
	deadline time.Time      // for acknowledgements
	asked    time.Time      // when it was last asked about
	epoch    uint64         // 0 if an acknowledgement may have been lost
	dropped  int            // answers that nats.go had dropped when the batch was sent
}

// ref is one message of a batch.
type ref struct {
	b *batch
	i int
}

// answer is what a publisher is to be told.
type answer struct {
	lane.Pending
	reach broker.Reach
}

func newReceipts(b *Broker) *receipts {
	return &receipts{
		conn:      b.conn,
		link:      b.link,
		alive:     b.lanes.Alive,
		clustered: func() bool { return b.cluster.isClustered() },
		intact:    func(e epoch, since time.Time) bool { return b.cluster.intact(e, since, b.closed) },
		spawn:     b.spawn,
		inbox:     b.conn.NewInbox() + ".",
		wake:      make(chan struct{}, 1),
		open:      make(map[uint64]*batch),
	}
}

// start subscribes to the inbox and has loop run, once.
func (r *receipts) start(spawn func() bool) error {
	r.mu.Lock()
	if r.started {
		r.mu.Unlock()
		return nil
	}
	r.started = true
	r.in = make(chan *natsio.Msg, inboxQueue)
	r.mu.Unlock()

	sub, err := r.conn.ChanSubscribe(r.inbox+">", r.in)
	if err == nil && !spawn() {
		err = broker.ErrClosed
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sub = sub
	if err != nil {
		r.started = false
	}
	return err
}

// end gives the inbox back to the application's connection.
func (r *receipts) end() {
	r.mu.Lock()
	sub := r.sub
	r.mu.Unlock()
	if sub != nil {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
}

// begin opens a batch of n messages.
func (r *receipts) begin(n int) *batch {
	b := &batch{begun: time.Now(), marked: make(chan struct{}), fates: make([]fate, n), nodes: make([]uint16, n)}
	r.mu.Lock()
	defer r.mu.Unlock()
	b.id, b.dropped = r.numberLocked(), r.droppedLocked()
	r.open[b.id] = b
	return b
}

func (r *receipts) numberLocked() uint64 {
	r.last++
	return r.last
}

func (r *receipts) droppedLocked() int {
	if r.sub == nil {
		return 0
	}
	n, _ := r.sub.Dropped() // fails only if the subscription is closed
	return n
}

// forget drops a batch that nobody waits for.
func (r *receipts) forget(b *batch) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, b.id)
}

// mark publishes the mark of a batch.
func (r *receipts) mark(b *batch) error {
	return r.conn.Publish(r.inbox+strconv.FormatUint(b.id, 36), nil)
}

// replies returns what the reply subjects of a batch begin with.
func (r *receipts) replies(b *batch) string {
	return r.inbox + strconv.FormatUint(b.id, 36) + "."
}

// wrote says on what subjects of the server the messages of a batch were published.
func (r *receipts) wrote(b *batch, wires []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.wires = wires
}

// fail says that a message of a batch was not sent.
func (r *receipts) fail(b *batch, i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.fates[i] = failed
}

// settle answers the messages whose fate is known when the mark of their batch is back. If sent, the
// others wait for acknowledgements; else the lane fails them.
func (r *receipts) settle(b *batch, lb *lane.Batch, e epoch, sent bool) {
	n := len(b.fates)
	reach := make([]broker.Reach, n)
	known := make([]bool, n)
	r.mu.Lock()
	for i, f := range b.fates {
		switch {
		case f == nobody:
			known[i] = true
		case f == acknowledged:
			reach[i], known[i] = b.reach(i), true
		case f == unknown && sent:
			if b.pending == nil {
				b.pending = make([]lane.Pending, n)
			}
			b.pending[i] = lb.Later(i)
			b.left++
			continue
		}
		b.fates[i] = answered
	}
	first := false
	if b.left > 0 {
		b.deadline, b.epoch = time.Now().Add(ackWait), e.n
		first = len(r.waiting) == 0
		r.waiting = append(r.waiting, b)
	} else {
		delete(r.open, b.id)
	}
	r.mu.Unlock()

	for i := range known {
		if known[i] {
			lb.Took(i, reach[i])
		}
	}
	if first {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// age is how long a batch that waits has been with the server.
func (b *batch) age(now time.Time) time.Duration { return ackWait - b.deadline.Sub(now) }

// reach is what the acknowledgements of a message say.
func (b *batch) reach(i int) broker.Reach {
	return broker.Reach{Nodes: int(b.nodes[i]), Bound: broker.AtLeast}
}

// loop reads the inbox until gone.
func (r *receipts) loop(gone <-chan struct{}) {
	tick := time.NewTicker(askTick)
	tick.Stop()
	defer tick.Stop()
	for {
		select {
		case m := <-r.in:
			r.read(m)
			for range len(r.in) { // nobody else takes from it
				r.read(<-r.in)
			}
			r.beginRound()
		case <-r.wake:
			tick.Reset(askTick)
		case <-tick.C:
			if !r.look(time.Now()) {
				tick.Stop()
			}
		case <-gone:
			return
		}
		for _, a := range r.out {
			a.Took(a.reach)
		}
		clear(r.out)
		r.out = r.out[:0]
	}
}

func (r *receipts) read(m *natsio.Msg) {
	id, rest, isLonger := strings.Cut(m.Subject[len(r.inbox):], ".")
	switch {
	case id == "_":
		r.acknowledge(m.Data)
	case !isLonger && id == probe:
		r.alive()
	case !isLonger:
		r.marked(number(id))
	case id == roundMark:
		r.endRounds(number(rest))
	case id == verdictMark:
		r.alive()
		r.judge(number(rest))
	case string(m.Data) == denial:
		r.denied(number(id), rest)
	case len(m.Data) == 0 && m.Header.Get("Status") == "503":
		r.noResponders(number(id), rest)
	}
}

// number reads a number; 0, which is none, if there is something else.
func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 36, 64)
	if err != nil {
		return 0
	}
	return n
}

func (r *receipts) marked(id uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.open[id]; b != nil && !b.isMarked {
		b.isMarked = true
		close(b.marked)
		r.endRoundsLocked(id)
	}
}

// acknowledge reads pairs of batch and index. What makes no sense is left out: anybody may have sent it.
func (r *receipts) acknowledge(data []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(data) > 0 {
		id, n := binary.Uvarint(data)
		if n <= 0 {
			return
		}
		i, k := binary.Uvarint(data[n:])
		if k <= 0 {
			return
		}
		data = data[n+k:]
		if b := r.open[id]; b != nil && i < uint64(len(b.fates)) {
			r.acknowledgeLocked(ref{b, int(i)})
		}
	}
}

func (r *receipts) acknowledgeLocked(m ref) {
	b := m.b
	switch b.fates[m.i] {
	case unknown, absent, denied:
		b.fates[m.i], b.nodes[m.i] = acknowledged, 1
		if b.pending != nil {
			r.fresh = append(r.fresh, m)
		} // else settle will tell
	case acknowledged:
		if b.nodes[m.i] < 1<<16-1 {
			b.nodes[m.i]++
		}
	}
}

// answerLocked has the publisher of a message told, once, and forgets a batch without others.
func (r *receipts) answerLocked(m ref, reach broker.Reach) {
	b := m.b
	if b.pending == nil || b.fates[m.i] == answered || b.fates[m.i] == failed {
		return
	}
	b.fates[m.i] = answered
	r.out = append(r.out, answer{b.pending[m.i], reach})
	if b.left--; b.left == 0 {
		delete(r.open, b.id)
	}
}

const (
	probe       = "P"
	roundMark   = "R"
	verdictMark = "V"
)
