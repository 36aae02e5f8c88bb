package nats

import (
	"hash/maphash"
	"runtime"
	"sync"
	"sync/atomic"

	"tether/broker"
)

const maxWorkers = 8

// workers deliver what the reader has taken, one for each processor, eight at most, and with a log a single one. A
// subject always has the same one. What waits for them is bounded in bytes; the reader does not wait.
type workers struct {
	deliver func(broker.Message)
	max     int64
	held    atomic.Int64 // bytes that wait, or are being delivered
	seed    maphash.Seed
	all     []worker
	done    <-chan struct{} // closed when nothing is to be delivered any more
	running sync.WaitGroup
}

type worker struct {
	next []item        // owned by the reader; handed over by flush
	wake chan struct{} // capacity 1; the queue is not empty

	mu    sync.Mutex
	queue []item // guarded by mu
}

// item is a message, or a function to call when all before it has been delivered.
type item struct {
	room  *room
	place uint64
	data  []byte
	after func()
}

func newWorkers(deliver func(broker.Message), maxBytes, most int, done <-chan struct{}) *workers {
	w := &workers{
		deliver: deliver,
		max:     int64(maxBytes),
		seed:    maphash.MakeSeed(),
		all:     make([]worker, max(1, min(runtime.GOMAXPROCS(0)-1, most))),
		done:    done,
	}
	for i := range w.all {
		w.all[i].wake = make(chan struct{}, 1)
		w.running.Go(func() { w.work(&w.all[i]) }) // wait waits for it
	}
	return w
}

// of returns the worker of a subject.
func (w *workers) of(subject string) *worker {
	return &w.all[maphash.String(w.seed, subject)%uint64(len(w.all))]
}

// cost is what a message counts for: its bytes and about what nats.go needs besides.
func cost(r *room, data []byte) int64 { return int64(len(r.wire) + len(data) + 256) }

// put takes a message, and reports false if there is no room.
func (w *workers) put(r *room, place uint64, data []byte) bool {
	n := cost(r, data)
	if w.held.Load()+n > w.max {
		return false
	}
	w.held.Add(n)
	r.worker.next = append(r.worker.next, item{room: r, place: place, data: data})
	return true
}

// flush hands over what put has gathered.
func (w *workers) flush() {
	for i := range w.all {
		if k := &w.all[i]; len(k.next) > 0 {
			k.hand(k.next)
			clear(k.next)
			k.next = k.next[:0]
		}
	}
}

func (k *worker) hand(items []item) {
	k.mu.Lock()
	idle := len(k.queue) == 0
	k.queue = append(k.queue, items...)
	k.mu.Unlock()
	if idle {
		signal(k.wake)
	}
}

// after has f called when all that was flushed before has been delivered, or given up. F must not block.
func (w *workers) after(f func()) {
	var left atomic.Int32
	left.Store(int32(len(w.all)))
	for i := range w.all {
		w.all[i].hand([]item{{after: func() {
			if left.Add(-1) == 0 {
				f()
			}
		}}})
	}
}

func (w *workers) work(k *worker) {
	var items []item
	for {
		select {
		case <-k.wake:
		case <-w.done:
			return
		}
		k.mu.Lock()
		items, k.queue = k.queue, items[:0]
		k.mu.Unlock()
		for i := range items {
			if w.isDone() {
				return
			}
			w.do(&items[i])
		}
		clear(items)
	}
}

func (w *workers) do(it *item) {
	if it.after != nil {
		it.after()
		return
	}
	if it.room.live.Load() {
		w.deliver(broker.Message{Subject: it.room.subject, Data: it.data, Place: it.place})
	}
	w.held.Add(-cost(it.room, it.data))
}

func (w *workers) isDone() bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// wait returns when nothing is being delivered any more, after done.
func (w *workers) wait() { w.running.Wait() }
