package cluster

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"tether/broker"
	"tether/internal/wire"
)

// Question is what nodes are asked.
type Question struct {
	Topic byte   // what it is about; for the caller
	Body  []byte // for the caller

	// Subject is where it is published: all that are subscribed to it have to answer. "": all members.
	Subject string

	// To is the tag of the one node that is asked; the subject is its own then.
	To string

	// Others leaves out this node, where all members are asked.
	Others bool

	// Again is how often nodes that have not answered are asked whether they still do: long for an answer that
	// takes its time. 0: twice a second.
	Again time.Duration

	// Once is for what must not be done twice: a node that has answered and is asked again, because its
	// answer was lost, gives the same answer if it was a short one, and else is missing.
	Once bool

	// Trace goes with the question where it is published at first: see [broker.Message].
	Trace *broker.Trace
}

// Missing is a node that has not answered, or not to the end.
type Missing struct {
	Node Member // with a Tag only, or not even that, where no more is known
	Why  error  // ErrGone, ErrLate, ErrLost, ErrUnreadable, or what the node has said
}

// Why a node is missing.
var (
	// ErrGone says that the node has ended, or that its lease has.
	ErrGone = errors.New("cluster: the node is gone")

	// ErrLate says that the context was done before the node had answered.
	ErrLate = errors.New("cluster: the node has not answered in time")

	// ErrLost says that a part of the node's answer has not arrived.
	ErrLost = errors.New("cluster: a part of the node's answer is lost")

	// ErrUnreadable says that the asker cannot read what the node has answered: another version of it may run there.
	ErrUnreadable = errors.New("cluster: the node's answer cannot be read")
)

const (
	// DefaultPatience is how long a question takes at most whose context has no deadline.
	DefaultPatience = 30 * time.Second

	countedTime = 200 * time.Millisecond  // that the nodes that were counted may take, before members are asked
	boundedTime = 50 * time.Millisecond   // the same where the broker cannot count
	againTime   = 500 * time.Millisecond  // after which they are asked again
	silentTime  = 2500 * time.Millisecond // without a beat, of one whom nobody hears either
	lastWords   = 250 * time.Millisecond  // that an answer may come behind the goodbye of its node
	maxPage     = 32 << 20                // bytes
)

// Asking is a question that has been put. One goroutine uses it.
//
// The question is published, and the receipt says how many nodes have it: when as many have answered, that
// is all. Where the receipt is not exact, or answers stay away, the members that have not answered are
// asked to say something, be it that they have nothing; then each of them answers, or goes off the list.
type Asking struct {
	node    *Node
	q       Question
	number  uint64
	ctx     context.Context // of Ask: an Asking lives in one call of its caller's
	cancel  context.CancelFunc
	err     error
	begun   time.Time         // zero: not yet
	ended   bool              // all have answered, or are missing
	counted int               // nodes that have to answer; -1: the broker cannot tell, or members have been asked since
	least   int               // of them, where it cannot tell
	next    time.Time         // when members are asked
	asked   map[string]Member // members that have been; nil: not yet
	missing []Missing

	news chan struct{} // one token: something has come

	mu    sync.Mutex
	parts map[string]*part // guarded by mu; by tag
	ready []arrived        // guarded by mu; no more than the windows of all nodes
	done  int              // guarded by mu; nodes that have answered to the end
}

// part is the answer of one node.
type part struct {
	run     uint64 // of the messages that have come
	next    uint64 // the message that comes next
	granted uint64
	taken   uint64 // by the caller, with those of pages that were put together
	buf     []byte // a page whose rest is still to come
	bufs    uint64 // messages that are in it
	done    bool
	why     error // why it is missing, although it is done, or will be
}

// arrived is a page, and how many messages it came in.
type arrived struct {
	tag      string
	page     []byte
	messages uint64
}

// Ask puts a question when Pages is first called. Ctx bounds the whole; one without a deadline ends after
// DefaultPatience.
func (n *Node) Ask(ctx context.Context, q Question) *Asking {
	if q.To != "" {
		q.Subject = NodeSubject(n.o.Prefix, q.To)
	}
	a := &Asking{
		node: n, q: q, counted: -1,
		news:  make(chan struct{}, 1),
		parts: make(map[string]*part),
	}
	if _, bounded := ctx.Deadline(); bounded {
		a.ctx, a.cancel = context.WithCancel(ctx)
	} else {
		a.ctx, a.cancel = context.WithTimeout(ctx, DefaultPatience)
	}
	return a
}

// Pages yields what comes, with the tag of the node that it is from: the pages of one node in order. It ends
// when all have come, and may be called once. A caller that stops ends the question.
func (a *Asking) Pages(yield func(tag string, page []byte) bool) {
	defer a.cancel()
	if !a.begun.IsZero() {
		return
	}
	a.begun = time.Now()
	if a.err = a.put(); a.err != nil {
		a.node.outcomes.failed.Add(1)
		return
	}
	defer a.count()
	defer a.end()
	for {
		for p, ok := a.take(); ok; p, ok = a.take() {
			if !yield(p.tag, p.page) {
				return
			}
			a.taken(p)
		}
		if a.complete() {
			a.ended = true
			return
		}
		if !a.wait() {
			a.giveUp()
			return
		}
	}
}

// Err is why the question could not be put. What nodes have not answered is no error: see Missing.
func (a *Asking) Err() error { return a.err }

// Missing are the nodes that have not answered, or not to the end, once Pages has ended.
func (a *Asking) Missing() []Missing { return a.missing }

// Unreadable makes a node missing, with ErrUnreadable, although it answers. It is for the loop over Pages, with the tag of
// a page that the caller cannot read to its end.
func (a *Asking) Unreadable(tag string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.partLocked(tag).why = ErrUnreadable
}

// Answered are the nodes that have answered to the end, sorted by name.
func (a *Asking) Answered() []Member {
	a.mu.Lock()
	defer a.mu.Unlock()
	var nodes []Member
	for tag, p := range a.parts {
		if p.done && p.why == nil {
			nodes = append(nodes, a.Member(tag))
		}
	}
	slices.SortFunc(nodes, compareMembers)
	return nodes
}

// put publishes the question.
func (a *Asking) put() error {
	n := a.node
	if !n.running.Load() {
		return ErrNotRunning
	}
	n.mu.Lock()
	n.asked++
	a.number = n.asked
	n.asking[a.number] = a
	n.mu.Unlock()
	a.next = time.Now()
	if a.q.Subject == "" {
		return nil // all members are asked, at once
	}
	receipts, err := n.broker.Publish(a.ctx, broker.Message{Subject: a.q.Subject, Data: a.message(0, nil), Trace: a.q.Trace})
	if err != nil {
		a.forget()
		return fmt.Errorf("cluster: ask: %w", err)
	}
	switch r := receipts[0]; {
	case r.Nobody():
		a.counted = 0
	case r.Bound == broker.Exact:
		a.counted = r.Nodes
		a.next = a.next.Add(countedTime)
	case a.q.To != "": // nobody else has that subject
		a.counted = 1
		a.next = a.next.Add(boundedTime)
	default:
		a.least = r.Nodes
		a.next = a.next.Add(boundedTime)
	}
	return nil
}

func (a *Asking) message(have uint64, except []string) []byte {
	deadline, _ := a.ctx.Deadline()
	m := ask{
		number: a.number, asker: a.node.o.Tag, topic: a.q.Topic, have: have, except: except, body: a.q.Body,
		patience: max(time.Until(deadline), time.Millisecond),
	}
	if a.q.Once {
		m.flags |= askOnce
	}
	return m.append(slices.Clone(a.node.o.Head))
}

// forget has what comes from now on ignored.
func (a *Asking) forget() {
	a.node.mu.Lock()
	defer a.node.mu.Unlock()
	delete(a.node.asking, a.number)
}

// end tells the nodes that still answer that nobody listens.
func (a *Asking) end() {
	a.forget()
	if a.ended {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), publishTimeout)
	defer cancel()
	m := broker.Message{Subject: a.q.Subject, Data: a.node.endOf(a.number)}
	if m.Subject == "" {
		m.Subject = MembersSubject(a.node.o.Prefix)
	}
	_, _ = a.node.broker.Publish(ctx, m) // their patience ends too
}

// take is the next page.
func (a *Asking) take() (p arrived, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.ready) == 0 {
		a.ready = nil
		return p, false
	}
	p, a.ready = a.ready[0], a.ready[1:]
	return p, true
}

// taken makes room for what comes after a page.
func (a *Asking) taken(p arrived) {
	a.mu.Lock()
	a.parts[p.tag].taken += p.messages
	a.mu.Unlock()
	a.grant()
}

// grant lets nodes send more that have room for half a window: beside what the caller has not taken there
// may be one page that is not complete.
func (a *Asking) grant() {
	var msgs []broker.Message
	a.mu.Lock()
	for tag, p := range a.parts {
		used := p.taken + p.bufs
		if p.done || p.granted-used > window/2 {
			continue
		}
		p.granted = used + window
		msgs = append(msgs, a.grantedLocked(tag))
	}
	a.mu.Unlock()
	if len(msgs) > 0 {
		_, _ = a.node.broker.Publish(a.ctx, msgs...) // one that is lost is sent again with the question
	}
}

// grantedLocked is a message that says how much a node may send.
func (a *Asking) grantedLocked(tag string) broker.Message {
	b := binary.AppendUvarint(append(slices.Clone(a.node.o.Head), typeMore), a.number)
	b = binary.AppendUvarint(wire.AppendText(b, a.node.o.Tag), a.parts[tag].granted)
	return broker.Message{Subject: NodeSubject(a.node.o.Prefix, tag), Data: b}
}

// complete reports whether all have answered, or are missing.
func (a *Asking) complete() bool {
	if a.asked == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if len(a.ready) > 0 || a.counted < 0 || a.done < a.counted {
			return false
		}
		a.missingLocked()
		return true
	}
	gone := a.gone()
	a.mu.Lock()
	defer a.mu.Unlock()
	for tag := range a.asked {
		if p := a.parts[tag]; p != nil && p.done {
			continue
		}
		if !gone[tag] {
			return false
		}
		a.loseLocked(tag, ErrGone)
	}
	if len(a.ready) > 0 {
		return false
	}
	a.missingLocked()
	return true
}

// gone are the nodes that were asked and will not answer any more. What a node has sent before it ended may still
// be on its way: it is waited for a little.
func (a *Asking) gone() map[string]bool {
	a.node.mu.Lock()
	defer a.node.mu.Unlock()
	gone := make(map[string]bool)
	for tag := range a.asked {
		switch left := a.node.roll.goodbye(tag); {
		case a.node.roll.has(tag):
		case left.After(a.begun) && time.Since(left) < lastWords:
			if until := left.Add(lastWords); until.Before(a.next) {
				a.next = until
			}
		default:
			gone[tag] = true
		}
	}
	return gone
}

// loseLocked gives the answer of a node up.
func (a *Asking) loseLocked(tag string, why error) {
	p := a.partLocked(tag)
	if !p.done {
		p.done, p.why = true, why
		p.buf = nil
		a.done++
	}
}

func (a *Asking) partLocked(tag string) *part {
	p := a.parts[tag]
	if p == nil {
		p = &part{granted: window}
		a.parts[tag] = p
	}
	return p
}

// missingLocked makes the list of missing nodes.
func (a *Asking) missingLocked() {
	for tag, p := range a.parts {
		if p.why != nil {
			a.missing = append(a.missing, Missing{a.Member(tag), p.why})
		}
	}
	slices.SortFunc(a.missing, func(x, y Missing) int { return compareMembers(x.Node, y.Node) })
}

// Member is the node with the given tag, as far as it is known.
func (a *Asking) Member(tag string) Member {
	if m, ok := a.asked[tag]; ok {
		return m
	}
	a.node.mu.Lock()
	defer a.node.mu.Unlock()
	if e := a.node.roll.entries[tag]; e != nil {
		return e.Member
	}
	return Member{Tag: tag}
}
