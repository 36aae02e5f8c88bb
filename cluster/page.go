package cluster

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"

	"tether/internal/wire"
)

// page is a message of an answer.
//
//	uvarint  number of the question
//	text     tag of the node that answers
//	uvarint  run: the answers that a node makes are numbered
//	uvarint  index of the message in the answer
//	byte     flags
//	rest     body
type page struct {
	number uint64
	tag    string
	run    uint64
	index  uint64
	flags  pageFlags
	body   []byte
}

type pageFlags byte

const (
	pageLast    pageFlags = 1 << iota // the answer ends with it
	pageGoesOn                        // the next message has more of the same page
	pageFailure                       // the body says why there is no more
)

// lostIndex is the index of a last message that says that those before it were sent, and are not any more.
const lostIndex = math.MaxUint64

func (p *page) append(dst []byte) []byte {
	dst = binary.AppendUvarint(append(dst, typePage), p.number)
	dst = binary.AppendUvarint(wire.AppendText(dst, p.tag), p.run)
	dst = binary.AppendUvarint(dst, p.index)
	return append(append(dst, byte(p.flags)), p.body...)
}

func (n *Node) takePage(r *reader) bool {
	p := page{number: r.Uvarint(), tag: r.tag(), run: r.Uvarint(), index: r.Uvarint(), flags: pageFlags(r.Byte()), body: r.Data}
	if r.Bad {
		return false
	}
	if a := n.question(p.number); a != nil {
		a.takePage(&p)
	} else if p.flags&pageLast == 0 { // it would wait for room
		n.tryPost(p.tag, n.endOf(p.number))
	}
	return true
}

// endOf is a message that ends an answer to this node.
func (n *Node) endOf(number uint64) []byte {
	b := binary.AppendUvarint(append(slices.Clone(n.o.Head), typeEnd), number)
	return wire.AppendText(b, n.o.Tag)
}

// question is the one with the given number, nil if nobody waits for its answers any more.
func (n *Node) question(number uint64) *Asking {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.asking[number]
}

// takePage notes down what has come. Messages of one run count, once, in their order; when one is missing,
// the rest is as good as lost.
func (a *Asking) takePage(p *page) {
	a.mu.Lock()
	defer a.mu.Unlock()
	at := a.partLocked(p.tag)
	if at.done || p.index < at.next || at.next > 0 && p.run != at.run && p.index != lostIndex {
		return
	}
	defer give(a.news)
	if p.index > at.next || p.index >= at.granted || len(at.buf)+len(p.body) > maxPage {
		a.loseLocked(p.tag, ErrLost)
		return
	}
	at.next++
	at.run = p.run
	if p.flags&pageFailure != 0 {
		a.loseLocked(p.tag, errors.New(string(p.body)))
		return
	}
	body := p.body
	if p.flags&pageGoesOn != 0 || at.bufs > 0 {
		at.buf = append(at.buf, body...)
		body = at.buf
	}
	at.bufs++
	if p.flags&pageGoesOn != 0 {
		return
	}
	if len(body) > 0 {
		a.ready = append(a.ready, arrived{p.tag, body, at.bufs})
	} else {
		at.taken += at.bufs
	}
	at.buf, at.bufs = nil, 0
	if p.flags&pageLast != 0 {
		at.done = true
		a.done++
	}
}

// takeWorking notes that a node is at it: what it has sent before, or in another run, is lost if it has not
// come.
func (n *Node) takeWorking(r *reader) bool {
	number, tag, run, sent := r.Uvarint(), r.tag(), r.Uvarint(), r.Uvarint()
	if !r.Done() {
		return false
	}
	if a := n.question(number); a != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if p := a.partLocked(tag); sent > p.next || p.next > 0 && run != p.run {
			a.loseLocked(tag, ErrLost)
			give(a.news)
		}
	}
	return true
}
