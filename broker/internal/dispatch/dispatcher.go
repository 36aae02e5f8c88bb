// Package dispatch delivers what few goroutines read from a backend on several, so that the order of
// each subject holds.
package dispatch

import (
	"hash/maphash"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"

	"tether/broker"
	"tether/broker/internal/beat"
)

const (
	maxBatch   = 256 // messages handed to a worker at once
	maxBatches = 4   // that wait for a worker before the reader does
	maxWorkers = 8
)

// Dispatcher has a worker for each processor, eight at most; a subject always has the same one. About
// 1,500 messages wait for a worker, so a Deliver that is slow pushes back on the readers, and through
// them on the connections to the backend. Each [Session] has one reader. Put, After, Flush and Abandon belong
// to the reader of their session, and to a goroutine that has waited for it; Close to one that has waited for all.
// Messages of one subject that two sessions have read are delivered in the order of their flushes.
type Dispatcher struct {
	deliver func(broker.Message)
	seed    maphash.Seed
	workers []worker
	running sync.WaitGroup
	stopped atomic.Bool
	free    sync.Pool // of *batch
}

type worker struct {
	batches chan *batch // capacity maxBatches

	mu      sync.Mutex
	pending []pending // guarded by mu; what was handed over, or is being, and is not done
}

// pending is a batch as others may see it.
type pending struct {
	session *Session
	stamp   beat.Stamp
}

type batch struct {
	session *Session
	stamp   beat.Stamp
	items   []item
}

type item struct {
	m     broker.Message
	live  *atomic.Bool
	after func() // not nil: there is no message
}

// Session is one connection of the reader.
type Session struct {
	// Pulse says which messages are fresh enough to be delivered.
	Pulse *beat.Pulse

	// Stale is told the stamp of the last good moment before a message that was too old to be
	// delivered, on the goroutine of a worker, for every batch that has one. The driver gives the
	// connection up and reports a gap from that moment at the latest.
	Stale func(beat.Stamp)

	// Done is closed when the connection has been given up. The driver then calls Abandon, and reports
	// a gap from the moment it returns at the latest.
	Done <-chan struct{}

	next [maxWorkers]*batch // owned by the reader; by worker; nil if empty
}

// New starts the workers; Close ends them.
func New(deliver func(broker.Message)) *Dispatcher {
	return start(deliver, min(runtime.GOMAXPROCS(0), maxWorkers))
}

// NewOrdered is New with one worker: all messages of a session are delivered in order.
func NewOrdered(deliver func(broker.Message)) *Dispatcher { return start(deliver, 1) }

func start(deliver func(broker.Message), workers int) *Dispatcher {
	d := &Dispatcher{
		deliver: deliver,
		seed:    maphash.MakeSeed(),
		workers: make([]worker, workers),
	}
	for i := range d.workers {
		w := &d.workers[i]
		w.batches = make(chan *batch, maxBatches)
		d.running.Go(func() { d.work(w) }) // Close waits for it
	}
	return d
}

// Put takes a message that the reader of s has read. It is delivered unless live has become false by
// then, no later than after the next Flush. It blocks while the worker is behind; false says that
// the session is done.
func (d *Dispatcher) Put(s *Session, m broker.Message, live *atomic.Bool) bool {
	return d.put(s, item{m: m, live: live})
}

// After has f called, once, when all that was put for the subject before is done: delivered, or given up
// with the session. It blocks as Put does. F must not block.
func (d *Dispatcher) After(s *Session, subject string, f func()) bool {
	it := item{m: broker.Message{Subject: subject}, after: f}
	if !d.put(s, it) {
		f()
		return false
	}
	return true
}

func (d *Dispatcher) put(s *Session, it item) bool {
	w := d.workerOf(it.m.Subject)
	stamp := s.Pulse.Last()
	if b := s.next[w]; b != nil && (len(b.items) == maxBatch || b.stamp != stamp) {
		if !d.hand(w, s) {
			return false
		}
	}
	b := s.next[w]
	if b == nil {
		b, _ = d.free.Get().(*batch)
		if b == nil {
			b = new(batch)
		}
		b.session, b.stamp = s, stamp
		s.next[w] = b
	}
	b.items = append(b.items, it)
	return true
}

func (d *Dispatcher) workerOf(subject string) uint64 {
	if len(d.workers) == 1 {
		return 0
	}
	return maphash.String(d.seed, subject) % uint64(len(d.workers))
}

// Flush hands over what Put has gathered: to be called before the reader waits for more. False says
// that the session is done.
func (d *Dispatcher) Flush(s *Session) bool {
	for i := range d.workers {
		if s.next[i] != nil && !d.hand(uint64(i), s) {
			return false
		}
	}
	return true
}

func (d *Dispatcher) hand(index uint64, s *Session) bool {
	w, b := &d.workers[index], s.next[index]
	p := pending{s, b.stamp}
	w.mu.Lock()
	w.pending = append(w.pending, p)
	w.mu.Unlock()
	select {
	case w.batches <- b:
		s.next[index] = nil
		return true
	case <-s.Done:
		w.done(p)
		return false
	}
}

// done takes p, or its equal, from what is pending.
func (w *worker) done(p pending) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if i := slices.Index(w.pending, p); i >= 0 {
		w.pending = slices.Delete(w.pending, i, i+1)
	}
}

// Abandon ends a session whose reader has returned. It returns the stamp of the oldest message that
// has been read and not been delivered, if there is one: such messages may still be delivered, or be
// dropped as too old, or have been dropped already.
func (d *Dispatcher) Abandon(s *Session) (oldest beat.Stamp, any bool) {
	see := func(of *Session, stamp beat.Stamp) {
		if of == s && (!any || stamp < oldest) {
			oldest, any = stamp, true
		}
	}
	for i := range d.workers {
		w := &d.workers[i]
		if b := s.next[i]; b != nil {
			see(s, b.stamp)
			s.next[i] = nil
			for _, it := range b.items {
				if it.after != nil {
					it.after()
				}
			}
		}
		w.mu.Lock()
		for _, p := range w.pending {
			see(p.session, p.stamp)
		}
		w.mu.Unlock()
	}
	return oldest, any
}

// Close ends the workers and waits for a Deliver in progress. What is waiting is not delivered.
func (d *Dispatcher) Close() {
	d.stopped.Store(true)
	for i := range d.workers {
		close(d.workers[i].batches)
	}
	d.running.Wait()
}

func (d *Dispatcher) work(w *worker) {
	for b := range w.batches {
		stale := false
		for i := range b.items {
			it := &b.items[i]
			switch {
			case it.after != nil:
				it.after()
			case d.stopped.Load() || !it.live.Load():
			case !b.session.Pulse.Fresh(b.stamp):
				stale = true
			default:
				d.deliver(it.m)
			}
		}
		if stale {
			b.session.Stale(b.stamp)
		}
		w.done(pending{b.session, b.stamp})
		clear(b.items)
		b.session, b.items = nil, b.items[:0]
		d.free.Put(b)
	}
}
