package transport

import (
	"math"
	"sync"
	"time"
)

// wheel keeps the deadlines of all sessions of a handler: one goroutine and one timer, and for each
// session two links. The goroutine sleeps until the next slot that has a session in it.
type wheel struct {
	grain int64        // nanoseconds a slot
	now   func() int64 // the clock, in nanoseconds

	mu      sync.Mutex
	slots   []*session // guarded by mu: the session in each slot that was added last
	at      int64      // guarded by mu: the tick up to which everything was called
	wakes   int64      // guarded by mu: the tick at which the goroutine wakes; noTick: when poked
	n       int        // guarded by mu: sessions
	running bool       // guarded by mu
	stopped bool       // guarded by mu

	poke chan struct{} // of one: something is due before wakes, or stop
	done sync.WaitGroup
}

const (
	noTick = math.MaxInt64
	noSlot = -1

	minGrain = 5 * time.Millisecond
	maxGrain = 50 * time.Millisecond
)

// init makes a wheel for deadlines that are mostly between shortest and longest away. A longer one
// works: it costs a needless tick each time that the wheel has gone round.
func (w *wheel) init(shortest, longest time.Duration, now func() int64) {
	w.grain = int64(min(max(shortest/32, minGrain), maxGrain))
	w.now = now
	w.slots = make([]*session, int64(longest)/w.grain+2)
	w.wakes = noTick
	w.poke = make(chan struct{}, 1)
}

// set has s.tick called at due or up to a grain later. It replaces an earlier set.
func (w *wheel) set(s *session, due int64) {
	tick := (due + w.grain - 1) / w.grain
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return
	}
	w.unlinkLocked(s)
	// Nothing is due before wakes, so the wheel may be taken to have got there.
	w.at = max(w.at, min(w.now()/w.grain, w.wakes)-1)
	tick = min(max(tick, w.at+1), w.at+int64(len(w.slots)))
	i := tick % int64(len(w.slots))
	s.slot = int32(i)
	s.prev, s.next = nil, w.slots[i]
	if s.next != nil {
		s.next.prev = s
	}
	w.slots[i] = s
	w.n++
	if !w.running {
		w.running = true
		w.done.Add(1)
		go w.run() // stop waits for it
	}
	if tick < w.wakes {
		w.wakes = tick
		w.pokeLocked()
	}
}

// remove undoes set. A call of tick that is on its way still comes.
func (w *wheel) remove(s *session) {
	w.mu.Lock()
	w.unlinkLocked(s)
	w.mu.Unlock()
}

func (w *wheel) unlinkLocked(s *session) {
	if s.slot == noSlot {
		return
	}
	if s.prev != nil {
		s.prev.next = s.next
	} else {
		w.slots[s.slot] = s.next
	}
	if s.next != nil {
		s.next.prev = s.prev
	}
	s.prev, s.next, s.slot = nil, nil, noSlot
	w.n--
}

func (w *wheel) pokeLocked() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}

func (w *wheel) run() {
	defer w.done.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	var due []*session
	for {
		wait, ok := w.plan()
		if !ok {
			return
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-w.poke:
		}
		due = w.advance(due[:0])
		for _, s := range due {
			s.tick()
		}
		clear(due)
	}
}

// plan says how long the goroutine may sleep, and false after stop.
func (w *wheel) plan() (time.Duration, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stopped {
		return 0, false
	}
	w.wakes = noTick
	if w.n == 0 {
		return time.Hour, true
	}
	for tick := w.at + 1; ; tick++ {
		if w.slots[tick%int64(len(w.slots))] != nil {
			w.wakes = tick
			return time.Duration(tick*w.grain - w.now()), true
		}
	}
}

// advance turns the wheel to the present and appends what is due to list.
func (w *wheel) advance(list []*session) []*session {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now() / w.grain
	if now-w.at > int64(len(w.slots)) { // the process was stopped: once round is all of it
		w.at = now - int64(len(w.slots))
	}
	for w.at < now {
		w.at++
		i := w.at % int64(len(w.slots))
		for s := w.slots[i]; s != nil; s = w.slots[i] {
			w.unlinkLocked(s)
			list = append(list, s)
		}
	}
	return list
}

func (w *wheel) stop() {
	w.mu.Lock()
	w.stopped = true
	w.pokeLocked()
	w.mu.Unlock()
	w.done.Wait()
}
