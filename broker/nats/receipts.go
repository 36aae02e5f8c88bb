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

const (
	// ackWait is how long a publisher waits for an acknowledgement after the server has taken the
	// message. A receiver delivers a message at most 3 seconds after that (beat.Fresh), and
	// acknowledges it before it delivers.
	ackWait = 3500 * time.Millisecond

	// ackTick is the time between two looks at who has waited too long.
	ackTick = 100 * time.Millisecond

	// askAfter is how long a message may stay unacknowledged before its publisher asks the server
	// whether anybody is subscribed still: whoever has unsubscribed in the meantime will not answer.
	askAfter = 100 * time.Millisecond

	maxAsked = 1024 // questions at a time

	inboxQueue = 1 << 15 // answers that nats.go has read and we have not
)

// receipts reads what comes back for what we published. It has one inbox, and everything about one
// batch of messages has the batch's number in base 36:
//
//	inbox.BATCH          the mark that we publish behind the batch: the server has taken all of it
//	inbox.BATCH.INDEX    the reply subject of one message, for the server's "no responders"
//	inbox.BATCH.INDEX._  the same of a question, which is an empty message that nobody delivers
//	inbox._              acknowledgements of receivers, as pairs of uvarints
type receipts struct {
	conn  *natsio.Conn
	link  *link
	alive func() // tells the lanes that publishers wait for other nodes, not for the backend
	inbox string // with the dot at its end
	in    chan *natsio.Msg
	wake  chan struct{}     // capacity 1; the first batch has begun to wait
	spawn func(func()) bool // runs a goroutine that Close waits for; false after Close
	busy  atomic.Bool       // questions are being sent

	mu      sync.Mutex
	started bool                 // guarded by mu
	sub     *natsio.Subscription // guarded by mu; nil before start
	last    uint64               // guarded by mu; number of the last batch
	open    map[uint64]*batch    // guarded by mu; those that something is still missing of
	waiting []*batch             // guarded by mu; for acknowledgements, by deadline
}

// fate is what is known of one message.
type fate uint8

const (
	unknown fate = iota
	nobody       // the server said so
	acknowledged
	failed // not sent
)

// batch is what was sent with one mark; its other fields are guarded by receipts.mu.
type batch struct {
	id     uint64
	marked chan struct{} // closed when the mark is back

	isMarked bool
	fates    []fate
	wires    []string       // by message; nil until the batch is written
	pending  []lane.Pending // by message; nil until the batch waits for acknowledgements
	left     int            // unknown fates, while it waits
	asked    bool
	deadline time.Time
	epoch    uint64
	dropped  int // answers that nats.go had dropped when the batch was sent
}

func newReceipts(conn *natsio.Conn, l *link, alive func(), spawn func(func()) bool) *receipts {
	return &receipts{
		conn:  conn,
		link:  l,
		alive: alive,
		inbox: conn.NewInbox() + ".",
		wake:  make(chan struct{}, 1),
		spawn: spawn,
		open:  make(map[uint64]*batch),
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
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last++
	b := &batch{id: r.last, marked: make(chan struct{}), fates: make([]fate, n), dropped: r.droppedLocked()}
	r.open[b.id] = b
	return b
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

// settle answers the messages whose fate is known. If sent, the others wait for acknowledgements;
// else the lane fails them.
func (r *receipts) settle(b *batch, lb *lane.Batch, e epoch, sent bool) {
	r.mu.Lock()
	fates := append([]fate(nil), b.fates...)
	for i, f := range fates {
		if f == unknown && sent {
			if b.pending == nil {
				b.pending = make([]lane.Pending, len(fates))
			}
			b.pending[i] = lb.Later(i)
			b.left++
		}
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

	for i, f := range fates {
		switch f {
		case nobody:
			lb.Took(i, broker.Reach{})
		case acknowledged:
			lb.Took(i, broker.Reach{Nodes: 1, Bound: broker.AtLeast})
		}
	}
	if first {
		select {
		case r.wake <- struct{}{}:
		default:
		}
	}
}

// fail says that a message of a batch was not sent.
func (r *receipts) fail(b *batch, i int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	b.fates[i] = failed
}

// loop reads the inbox until gone.
func (r *receipts) loop(gone <-chan struct{}) {
	tick := time.NewTicker(ackTick)
	tick.Stop()
	defer tick.Stop()
	for {
		select {
		case m := <-r.in:
			r.read(m)
		case <-r.wake:
			tick.Reset(ackTick)
		case <-tick.C:
			if !r.expire(time.Now()) {
				tick.Stop()
			}
		case <-gone:
			return
		}
	}
}

func (r *receipts) read(m *natsio.Msg) {
	id, index, isReply := strings.Cut(m.Subject[len(r.inbox):], ".")
	switch {
	case id == "_":
		r.acknowledge(m.Data)
	case isReply:
		if len(m.Data) == 0 && m.Header.Get("Status") == "503" {
			if i, err := strconv.ParseUint(strings.TrimSuffix(index, question), 36, 31); err == nil {
				r.learn(id, int(i), nobody)
			}
		}
	default:
		r.marked(id)
	}
}

func (r *receipts) marked(id string) {
	n, err := strconv.ParseUint(id, 36, 64)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.open[n]; b != nil && !b.isMarked {
		b.isMarked = true
		close(b.marked)
	}
}

func (r *receipts) learn(id string, i int, f fate) {
	if n, err := strconv.ParseUint(id, 36, 64); err == nil {
		r.set(n, i, f)
	}
}

// acknowledge reads pairs of batch and index. What makes no sense is left out: anybody may have sent it.
func (r *receipts) acknowledge(data []byte) {
	for len(data) > 0 {
		id, n := binary.Uvarint(data)
		if n <= 0 {
			return
		}
		i, k := binary.Uvarint(data[n:])
		if k <= 0 || i > 1<<31 {
			return
		}
		r.set(id, int(i), acknowledged)
		data = data[n+k:]
	}
}

// set records the first thing that is learned of a message.
func (r *receipts) set(id uint64, i int, f fate) {
	r.mu.Lock()
	b := r.open[id]
	if b == nil || i >= len(b.fates) || b.fates[i] != unknown {
		r.mu.Unlock()
		return
	}
	b.fates[i] = f
	if b.pending == nil {
		r.mu.Unlock()
		return // settle will tell
	}
	p := b.pending[i]
	if b.left--; b.left == 0 {
		delete(r.open, id)
	}
	r.mu.Unlock()
	if f == nobody {
		p.Took(broker.Reach{})
	} else {
		p.Took(broker.Reach{Nodes: 1, Bound: broker.AtLeast})
	}
}

// expire answers those that nobody has acknowledged in time, and reports whether others wait. Where an
// acknowledgement may have been lost with the connection, nothing is known.
func (r *receipts) expire(now time.Time) bool {
	e := r.link.current()
	up := !e.ended()
	r.mu.Lock()
	dropped := r.droppedLocked()
	var due []*batch
	keep := r.waiting[:0]
	for _, b := range r.waiting {
		lost := !up || b.epoch != e.n || b.dropped != dropped
		switch {
		case b.left == 0:
		case lost || now.After(b.deadline):
			delete(r.open, b.id)
			if lost {
				b.epoch = 0
			}
			due = append(due, b)
		default:
			keep = append(keep, b)
		}
	}
	clear(r.waiting[len(keep):])
	r.waiting = keep
	more := len(keep) > 0
	asks := r.asksLocked(now)
	r.mu.Unlock()
	if len(asks) > 0 && !r.spawn(func() { r.ask(asks) }) { // it may block
		r.busy.Store(false)
	}

	for _, b := range due { // ours alone: set no longer finds them
		reach := broker.Reach{Bound: broker.Exact}
		if b.epoch == 0 {
			reach.Bound = broker.Unknown
		}
		for i, f := range b.fates {
			if f == unknown {
				b.pending[i].Took(reach)
			}
		}
	}
	if more {
		r.alive()
	}
	return more
}

// question is the end of a question's reply subject.
const question = "._"

// ask is a question to the server: is anybody subscribed? If it says no before an acknowledgement has
// come, no node took the message: a node acknowledges before it delivers, on the connection on which it
// unsubscribes later.
type ask struct{ wire, reply string }

func isQuestion(reply string) bool { return strings.HasSuffix(reply, question) }

// asksLocked returns questions about what has not been acknowledged for long, each once, and sets busy
// if there are any.
func (r *receipts) asksLocked(now time.Time) []ask {
	if r.busy.Load() {
		return nil // next time
	}
	var asks []ask
	for _, b := range r.waiting {
		if b.asked || b.deadline.Sub(now) > ackWait-askAfter {
			continue
		}
		if len(asks) >= maxAsked {
			break
		}
		b.asked = true
		replies := r.replies(b)
		for i, f := range b.fates {
			if f == unknown {
				asks = append(asks, ask{b.wires[i], replies + strconv.FormatUint(uint64(i), 36) + question})
			}
		}
	}
	r.busy.Store(len(asks) > 0)
	return asks
}

// ask sends questions. One goroutine does at a time.
func (r *receipts) ask(asks []ask) {
	defer r.busy.Store(false)
	for _, a := range asks {
		if r.conn.PublishRequest(a.wire, a.reply, nil) != nil {
			return // no more will be known of these than without
		}
	}
}
