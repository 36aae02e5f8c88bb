package hub

import (
	"sync"
	"sync/atomic"
	"time"
)

// deadlines is a set of things with a time each, and a heap of these times. One sweeper looks at it
// for all; a timer for each thing would cost more than the thing.
type deadlines[K comparable] struct {
	count atomic.Int32 // of the heap; where it is 0, nothing is to be removed and no lock is taken

	mu   sync.Mutex
	heap []deadline[K] // guarded by mu; the earliest first
	at   map[K]int     // guarded by mu; where in the heap a thing is
}

type deadline[K comparable] struct {
	when time.Time
	what K
}

// set gives what a deadline, or another one.
func (d *deadlines[K]) set(what K, when time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.setLocked(what, when)
}

func (d *deadlines[K]) setLocked(what K, when time.Time) {
	if i, ok := d.at[what]; ok {
		d.heap[i].when = when
		d.fixLocked(i)
		return
	}
	if d.at == nil {
		d.at = make(map[K]int)
	}
	d.heap = append(d.heap, deadline[K]{when, what})
	d.at[what] = len(d.heap) - 1
	d.count.Add(1)
	d.fixLocked(len(d.heap) - 1)
}

// add is set for what has no deadline; it changes none that is there.
func (d *deadlines[K]) add(what K, when time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, ok := d.at[what]; !ok {
		d.setLocked(what, when)
	}
}

// unset removes what, if it is there.
func (d *deadlines[K]) unset(what K) {
	if d.count.Load() == 0 {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.at[what]; ok {
		d.removeLocked(i)
	}
}

// when is the deadline of what, if it has one.
func (d *deadlines[K]) when(what K) (when time.Time, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if i, ok := d.at[what]; ok {
		return d.heap[i].when, true
	}
	return when, false
}

// len is how many there are.
func (d *deadlines[K]) len() int { return int(d.count.Load()) }

// first is what comes next, nil if there is nothing.
func (d *deadlines[K]) first() (what K) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.heap) > 0 {
		what = d.heap[0].what
	}
	return what
}

// passed removes and returns what had to happen before now.
func (d *deadlines[K]) passed(now time.Time) []K {
	if d.count.Load() == 0 {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var due []K
	for len(d.heap) > 0 && !d.heap[0].when.After(now) {
		due = append(due, d.heap[0].what)
		d.removeLocked(0)
	}
	return due
}

func (d *deadlines[K]) removeLocked(i int) {
	last := len(d.heap) - 1
	delete(d.at, d.heap[i].what)
	moved := d.heap[last]
	d.heap[last] = deadline[K]{}
	d.heap = d.heap[:last]
	d.count.Add(-1)
	if i < last {
		d.heap[i] = moved
		d.at[moved.what] = i
		d.fixLocked(i)
	}
	if last == 0 { // give a burst's memory back
		d.heap, d.at = nil, nil
	}
}

// fixLocked moves the entry at i to where it belongs.
func (d *deadlines[K]) fixLocked(i int) {
	for i > 0 && d.heap[i].when.Before(d.heap[(i-1)/2].when) {
		d.swapLocked(i, (i-1)/2)
		i = (i - 1) / 2
	}
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(d.heap); child++ {
			if d.heap[child].when.Before(d.heap[least].when) {
				least = child
			}
		}
		if least == i {
			return
		}
		d.swapLocked(i, least)
		i = least
	}
}

func (d *deadlines[K]) swapLocked(i, j int) {
	d.heap[i], d.heap[j] = d.heap[j], d.heap[i]
	d.at[d.heap[i].what], d.at[d.heap[j].what] = i, j
}

// waiting is deadlines of clients in several parts, because each connection comes by.
type waiting [16]deadlines[*client]

func (w *waiting) of(c *client) *deadlines[*client] { return &w[c.place%uint32(len(w))] }

func (w *waiting) set(c *client, when time.Time) { w.of(c).set(c, when) }
func (w *waiting) add(c *client, when time.Time) { w.of(c).add(c, when) }
func (w *waiting) unset(c *client)               { w.of(c).unset(c) }

func (w *waiting) passed(now time.Time) (due []*client) {
	for i := range w {
		due = append(due, w[i].passed(now)...)
	}
	return due
}
