package cluster

import (
	"context"
	"encoding/binary"
	"slices"
	"sync/atomic"
	"time"

	"tether/internal/wire"
)

const (
	// maxMessage is what a message has of a page; a longer page is several messages.
	maxMessage = 60 << 10

	// window is how many messages of an answer may be on their way to an asker that has not taken them.
	window = 8

	maxRequests   = 1 << 16          // that are answered at a time; the asker of one too many asks again
	maxAnswered   = 1 << 16          // that are remembered
	maxRemembered = 512              // bytes of an answer that is sent again
	doubtTime     = 10 * time.Second // for which they are
	maxPatience   = time.Hour        // of an asker
	maxFailure    = 256              // bytes of an error that an asker is told
)

// Request is a question of another node's, or of this one.
type Request struct {
	Topic byte   // of the Question
	Body  []byte // of the Question

	node   *Node
	asker  string
	number uint64
	run    uint64 // of this node's answers
	end    context.CancelFunc

	granted atomic.Uint64 // messages that the asker has room for
	credit  chan struct{} // one token: there are more
	sent    atomic.Uint64 // messages so far

	// Owned by the goroutine that answers.
	held    []byte // the last page, which is sent once it is known whether there is another one
	holding bool
	first   []byte // the first message, if it is small
}

// Asker is the tag of the node that has asked.
func (r *Request) Asker() string { return r.asker }

// answered is an answer that has been given.
type answered struct {
	at   time.Time
	only []byte // the only message of it, to be sent again; nil if it was large, or there were more
}

// requestKey is a question, for whom it is put to.
type requestKey struct {
	asker  string
	number uint64
}

// Send adds a page to the answer. It may be of any size; an empty one is not passed on. Send waits while the asker does not
// take what it has been sent; the error is that of ctx, which Answer has got.
func (r *Request) Send(ctx context.Context, page []byte) error {
	if r.holding {
		if err := r.flush(ctx, 0); err != nil {
			return err
		}
	}
	r.held, r.holding = page, true
	return nil
}

// flush sends the page that is held, with flags on its last message.
func (r *Request) flush(ctx context.Context, flags pageFlags) error {
	page := r.held
	r.held, r.holding = nil, false
	for len(page) > maxMessage {
		if err := r.post(ctx, pageGoesOn, page[:maxMessage]); err != nil {
			return err
		}
		page = page[maxMessage:]
	}
	return r.post(ctx, flags, page)
}

// post sends one message of the answer, when the asker has room for it.
func (r *Request) post(ctx context.Context, flags pageFlags, body []byte) error {
	for r.sent.Load() >= r.granted.Load() {
		select {
		case <-r.credit:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	p := page{number: r.number, tag: r.node.o.Tag, run: r.run, index: r.sent.Load(), flags: flags, body: body}
	m := p.append(slices.Clone(r.node.o.Head))
	if p.index == 0 && len(m) <= maxRemembered {
		r.first = m
	}
	if err := r.node.post(ctx, r.asker, m); err != nil {
		return err
	}
	r.sent.Add(1)
	return nil
}

// answer answers, and says that this was all.
func (r *Request) answer(ctx context.Context) {
	var err error
	r.node.mu.Lock()
	answer := r.node.handlers[r.Topic]
	r.node.mu.Unlock()
	if answer == nil {
		answer = r.node.o.Answer
	}
	if answer != nil {
		err = answer(ctx, r)
	}
	flags := pageLast
	if ctx.Err() != nil {
		return
	}
	if err != nil {
		if r.holding && r.flush(ctx, 0) != nil {
			return
		}
		text := err.Error()
		r.held, r.holding, flags = []byte(text[:min(len(text), maxFailure)]), true, pageLast|pageFailure
	}
	_ = r.flush(ctx, flags) // an error is that the asker does not wait any more
}

// ask is a question on its way.
//
//	uvarint  number
//	text     tag of the asker
//	byte     topic
//	byte     flags
//	uvarint  milliseconds that the asker waits
//	uvarint  messages that the asker has of this node's answer already
//	uvarint  number of nodes that are not asked, and each one's tag as a text
//	rest     body
type ask struct {
	number   uint64
	asker    string
	topic    byte
	flags    askFlags
	patience time.Duration
	have     uint64
	except   []string
	body     []byte
}

type askFlags byte

// askOnce is for what must not be done twice.
const askOnce askFlags = 1

func (a *ask) append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, typeAsk), a.number)
	dst = append(wire.AppendText(dst, a.asker), a.topic, byte(a.flags))
	dst = binary.AppendUvarint(dst, uint64(a.patience/time.Millisecond))
	dst = binary.AppendUvarint(dst, a.have)
	dst = binary.AppendUvarint(dst, uint64(len(a.except)))
	for _, tag := range a.except {
		dst = wire.AppendText(dst, tag)
	}
	return append(dst, a.body...)
}

// takeAsk begins to answer. A question that is being answered is not answered again, nor is one that must not
// be and was: the asker is told how far it has come, what the answer was, or that it has missed something.
func (n *Node) takeAsk(r *reader) bool {
	a := ask{number: r.Uvarint(), asker: r.tag(), topic: r.Byte(), flags: askFlags(r.Byte())}
	a.patience = time.Duration(min(r.Uvarint(), uint64(maxPatience/time.Millisecond))) * time.Millisecond
	a.have = r.Uvarint()
	excepted := false
	for range min(r.Uvarint(), maxMembers) {
		if excepted = string(r.Bytes(maxTag)) == n.o.Tag || excepted; r.Bad {
			break
		}
	}
	if r.Bad {
		return false
	}
	if excepted || n.o.Self == nil {
		return true
	}
	a.body = r.Data
	key := requestKey{a.asker, a.number}
	n.mu.Lock()
	known := n.requests[key]
	past, was := n.answered[key]
	n.mu.Unlock()
	switch {
	case known != nil:
		n.tryPost(a.asker, known.working())
	case was && a.have == 0 && past.only != nil:
		n.tryPost(a.asker, past.only)
	case was || a.have > 0: // what is missing was sent
		p := page{number: a.number, tag: n.o.Tag, index: lostIndex, flags: pageLast}
		n.tryPost(a.asker, p.append(slices.Clone(n.o.Head)))
	default:
		n.begin(key, &a)
	}
	return true
}

// begin answers on a goroutine of its own. Deliver is the only caller, for one message of a subject at a
// time; the question may come on two subjects.
func (n *Node) begin(key requestKey, a *ask) {
	ctx, cancel := context.WithTimeout(n.answering, a.patience)
	r := &Request{
		Topic: a.topic, Body: a.body,
		node: n, asker: a.asker, number: a.number, end: cancel, credit: make(chan struct{}, 1),
	}
	r.granted.Store(window)
	n.mu.Lock()
	full := n.requests[key] != nil || len(n.requests) >= maxRequests || a.flags&askOnce != 0 && len(n.answered) >= maxAnswered
	if !full {
		n.runs++
		r.run = n.runs
		n.requests[key] = r
	}
	n.mu.Unlock()
	if full || !n.work.Go(func() { // Run waits for it
		defer cancel()
		r.answer(ctx)
		n.mu.Lock()
		defer n.mu.Unlock()
		delete(n.requests, key)
		if a.flags&askOnce != 0 {
			n.answered[key] = answered{at: time.Now()}
			if r.sent.Load() == 1 {
				n.answered[key] = answered{time.Now(), r.first}
			}
		}
	}) {
		cancel()
	}
}

func (r *Request) working() []byte {
	b := append(slices.Clone(r.node.o.Head), typeWorking)
	b = wire.AppendText(binary.AppendUvarint(b, r.number), r.node.o.Tag)
	b = binary.AppendUvarint(b, r.run)
	return binary.AppendUvarint(b, r.sent.Load())
}

// takeMore lets more messages of an answer be sent.
func (n *Node) takeMore(r *reader) bool {
	key := requestKey{number: r.Uvarint(), asker: r.tag()}
	granted := r.Uvarint()
	if !r.Done() {
		return false
	}
	n.mu.Lock()
	q := n.requests[key]
	n.mu.Unlock()
	if q != nil && granted > q.granted.Load() {
		q.granted.Store(granted)
		give(q.credit)
	}
	return true
}

// takeEnd ends an answer that nobody wants any more.
func (n *Node) takeEnd(r *reader) bool {
	key := requestKey{number: r.Uvarint(), asker: r.tag()}
	if !r.Done() {
		return false
	}
	n.mu.Lock()
	q := n.requests[key]
	n.mu.Unlock()
	if q != nil {
		q.end()
	}
	return true
}
