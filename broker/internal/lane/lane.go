package lane

import (
	"context"
	"errors"
	"runtime"
	"sync"

	"tether/broker"
)

// lane is one ordered queue.
type lane struct {
	all   *Lanes
	index int

	mu      sync.Mutex
	queue   []entry       // guarded by mu; from head on
	head    int           // guarded by mu
	running bool          // guarded by mu; a worker lives
	room    chan struct{} // guarded by mu; closed when there is room again; nil: nobody waits

	batch Batch // owned by the worker

	_ [64]byte // a cache line between the locks
}

// entry is one message of one call.
type entry struct {
	m    broker.Message
	call *call
	i    int32
}

// put appends those of msgs that belong to this lane: all of them if of is nil.
func (ln *lane) put(ctx context.Context, c *call, msgs []broker.Message, of []uint8) error {
	ln.mu.Lock()
	for i := range msgs {
		if of != nil && of[i] != uint8(ln.index) {
			continue
		}
		for len(ln.queue)-ln.head >= ln.all.o.MaxQueue {
			if err := ln.waitLocked(ctx, c); err != nil {
				ln.mu.Unlock()
				return err
			}
		}
		ln.queue = append(ln.queue, entry{msgs[i].Own(), c, int32(i)})
		if ln.running {
			continue
		}
		if !ln.all.start(ln) {
			ln.mu.Unlock()
			return broker.ErrClosed
		}
		ln.running = true
	}
	ln.mu.Unlock()
	return nil
}

// waitLocked waits for room. It releases the lock meanwhile.
func (ln *lane) waitLocked(ctx context.Context, c *call) error {
	if ln.room == nil {
		ln.room = make(chan struct{})
	}
	room := ln.room
	ln.mu.Unlock()
	defer ln.mu.Lock()
	return ln.all.await(ctx, c, room)
}

// work sends until the queue is empty.
func (ln *lane) work() {
	b := &ln.batch
	b.all = ln.all
	// Callers that are about to publish go first: answers wake many at a time, and what they send then leaves in one
	// batch. When nobody else is there this costs next to nothing.
	for runtime.Gosched(); ln.fill(b); runtime.Gosched() {
		err := ln.send(b)
		if err == nil {
			err = errUnanswered
		}
		for i := range b.entries {
			if !b.resolved[i] {
				b.Fail(i, err)
			}
		}
		b.reset()
	}
}

var errUnanswered = errors.New("broker: the backend's answer lacks a message")

func (ln *lane) send(b *Batch) error {
	if len(b.entries) == 0 {
		return nil // all of their callers have gone
	}
	select {
	case <-ln.all.closed:
		return broker.ErrClosed
	default:
		return ln.all.o.Send(ln.index, b)
	}
}

// fill takes the next batch from the queue. It reports false, and the worker ends, when there is none.
func (ln *lane) fill(b *Batch) bool {
	ln.mu.Lock()
	defer ln.mu.Unlock()
	if ln.head == len(ln.queue) {
		ln.running = false
		return false
	}
	bytes, n := 0, 0
	for _, e := range ln.queue[ln.head:] {
		size := len(e.m.Subject) + len(e.m.Data)
		if len(b.entries) == ln.all.o.MaxMessages || len(b.entries) > 0 && bytes+size > ln.all.o.MaxBytes {
			break
		}
		n++
		if e.call.take(e.i) {
			b.add(e)
			bytes += size
		}
	}
	clear(ln.queue[ln.head : ln.head+n])
	ln.head += n
	if ln.head == len(ln.queue) {
		ln.queue, ln.head = ln.queue[:0], 0
	} else if ln.head >= ln.all.o.MaxQueue {
		rest := copy(ln.queue, ln.queue[ln.head:])
		clear(ln.queue[rest:])
		ln.queue, ln.head = ln.queue[:rest], 0
	}
	if ln.room != nil {
		close(ln.room)
		ln.room = nil
	}
	return true
}

// aliveEvery is after how many answers the clock is read.
const aliveEvery = 32

// Batch is what one pipeline carries. It is valid until Send returns.
type Batch struct {
	all      *Lanes
	entries  []entry
	resolved []bool
}

func (b *Batch) add(e entry) {
	b.entries = append(b.entries, e)
	b.resolved = append(b.resolved, false)
}

func (b *Batch) reset() {
	clear(b.entries)
	b.entries, b.resolved = b.entries[:0], b.resolved[:0]
}

// Len is the number of messages, 1 at least.
func (b *Batch) Len() int { return len(b.entries) }

// Message returns the i-th message.
func (b *Batch) Message(i int) broker.Message { return b.entries[i].m }

// Alive says that the backend is at work on the batch, though it may not have answered a message
// lately: Timeout begins anew.
func (b *Batch) Alive() { b.all.Alive() }

// Took says how many nodes took message i.
func (b *Batch) Took(i int, r broker.Receipt) {
	if i%aliveEvery == 0 || i == len(b.entries)-1 {
		b.all.Alive()
	}
	b.resolved[i] = true
	e := &b.entries[i]
	e.call.answer(int(e.i), r, nil)
}

// Fail says that message i alone failed.
func (b *Batch) Fail(i int, err error) {
	b.resolved[i] = true
	e := &b.entries[i]
	e.call.answer(int(e.i), broker.Receipt{Bound: broker.Unknown}, err)
}

// Later hands message i over to the driver, which answers it, or fails it, after Send has returned:
// in time, and exactly once.
func (b *Batch) Later(i int) Pending {
	b.resolved[i] = true
	e := &b.entries[i]
	return Pending{e.call, e.i}
}

// Pending is one message that is answered after its pipeline.
type Pending struct {
	call *call
	i    int32
}

// Took says how many nodes took the message. It is no sign of life by itself: see Lanes.Alive.
func (p Pending) Took(r broker.Receipt) {
	p.call.answer(int(p.i), r, nil)
}

// Fail says that the message failed.
func (p Pending) Fail(err error) {
	p.call.answer(int(p.i), broker.Receipt{Bound: broker.Unknown}, err)
}
