package redis

import (
	"sync"
	"sync/atomic"
	"time"
)

// table is what this node wants to be subscribed to. The calls of Subscribe and Unsubscribe say what is
// wanted; each server's [interest] sees to it that the server does it.
type table struct {
	wire   *wire  // immutable
	keeps  bool   // immutable; outages are kept by subject
	change func() // immutable; called, with mu held, when a subject is back or given up; must not block

	mu       sync.Mutex
	subjects map[string]*subject // guarded by mu
	owner    []*interest         // guarded by mu; who serves a partition; nil: it is not known
	missing  int                 // guarded by mu; subjects with an outage
	back     []returned          // guarded by mu; subjects whose outage is over and has not been told
}

// subject is one subject. Its fields are guarded by the mu of the table.
type subject struct {
	name string      // immutable
	live atomic.Bool // what arrives is delivered; read without the lock
	part uint8       // immutable

	want    bool
	held    bool  // some Subscribe has returned without an error since it is wanted
	told    bool  // the last command of this session was SUBSCRIBE
	dirty   bool  // in the dirty list of at
	initial bool  // counted in the initial of at
	alone   bool  // to be sent in a command of its own
	calls   int32 // Subscribes in progress
	unheard int32 // commands of this session that are not confirmed

	at      *interest // the server that is told; nil: none is known
	out     *outage   // since when messages may be missing; nil: none are
	waiting []*waiter // for the server to do as it was told
}

// outage is a time in which subjects were not subscribed.
type outage struct {
	from  time.Time
	cause error
}

// returned is a subject that is subscribed again.
type returned struct {
	name string
	out  *outage
}

// waiter is one call of Subscribe or Unsubscribe.
type waiter struct {
	left     int           // guarded by mu
	err      error         // guarded by mu until done is closed
	done     chan struct{} // closed when left is 0
	subjects []*subject    // immutable; of an Unsubscribe
}

func newTable(w *wire) *table {
	return &table{wire: w, subjects: make(map[string]*subject), owner: make([]*interest, len(w.heads))}
}

// settled reports whether the server is known to have done what is wanted.
func (s *subject) settled() bool { return s.unheard == 0 && s.told == s.want }

// subscribe begins a call of Subscribe; finish ends it.
func (t *table) subscribe(names []string) (*waiter, []*subject) {
	w := &waiter{done: make(chan struct{})}
	var list []*subject
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		s := t.subjects[name]
		if s == nil {
			s = &subject{name: name, part: t.wire.partition(name)}
			s.at = t.owner[s.part]
			t.subjects[name] = s
		}
		if s.want && s.settled() && s.held {
			continue
		}
		if !s.want {
			t.wakeLocked(s, nil) // Unsubscribes that are overtaken
			s.want = true
			s.live.Store(true)
			t.settleLocked(s) // an Unsubscribe that has not been sent yet
		}
		s.calls++
		list = append(list, s)
		if !s.settled() {
			t.waitLocked(w, s)
		}
	}
	if w.left == 0 {
		close(w.done)
	}
	return w, list
}

// finish ends a call of Subscribe: with an error, what nobody else wants is no longer wanted.
func (t *table) finish(list []*subject, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range list {
		s.calls--
		if err == nil && s.want {
			s.held = true
		}
		if s.want && !s.held && s.calls == 0 {
			s.live.Store(false)
			t.dropLocked(s)
		}
	}
}

// unsubscribe begins a call of Unsubscribe. What arrives is delivered until the server has confirmed it.
func (t *table) unsubscribe(names []string) *waiter {
	w := &waiter{done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, name := range names {
		s := t.subjects[name]
		if s == nil {
			continue
		}
		w.subjects = append(w.subjects, s)
		if s.want {
			t.dropLocked(s)
		}
		if t.subjects[name] == s {
			t.waitLocked(w, s)
		}
	}
	if w.left == 0 {
		close(w.done)
	}
	return w
}

// silence ends a call of Unsubscribe that has failed: nothing is delivered from here on.
func (t *table) silence(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range w.subjects {
		if !s.want {
			s.live.Store(false)
		}
	}
}

func (t *table) waitLocked(w *waiter, s *subject) {
	w.left++
	s.waiting = append(s.waiting, w)
	t.markLocked(s)
}

// dropLocked ends the interest in s. Subscribes that wait for it are overtaken.
func (t *table) dropLocked(s *subject) {
	s.want, s.held = false, false
	t.wakeLocked(s, nil)
	if s.out != nil {
		t.returnLocked(s)
	}
	t.markLocked(s)
	t.settleLocked(s)
}

// markLocked makes the writer of the subject's server look at it.
func (t *table) markLocked(s *subject) {
	if in := s.at; in != nil && in.up != nil && !s.dirty {
		s.dirty = true
		in.addLocked(s)
	}
}

// settleLocked is called after every change of s: it takes s to the server that owns it, wakes who
// waits for what has been reached, and forgets subjects that nobody wants.
func (t *table) settleLocked(s *subject) {
	t.placeLocked(s)
	if !s.settled() {
		return
	}
	t.wakeLocked(s, nil)
	if s.initial {
		s.at.arrivedLocked(s)
	}
	if s.out != nil {
		t.returnLocked(s)
	}
	if !s.want && t.subjects[s.name] == s {
		delete(t.subjects, s.name)
	}
}

// placeLocked gives s to the server that owns it, once the one that it is at has nothing of it.
func (t *table) placeLocked(s *subject) {
	to := t.owner[s.part]
	if s.at == to || s.told || s.unheard > 0 {
		return
	}
	if s.initial {
		s.at.arrivedLocked(s)
	}
	s.dirty, s.alone = false, false // what is left of it in the old dirty list is passed over
	s.at = to
	if s.want {
		t.markLocked(s)
	}
}

// own says who serves each partition from now on.
func (t *table) own(owner []*interest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := make([]bool, len(owner))
	any := false
	for p := range owner {
		changed[p] = t.owner[p] != owner[p]
		any = any || changed[p]
		if old := t.owner[p]; changed[p] && old != nil {
			old.leaves = true
		}
	}
	copy(t.owner, owner)
	if !any {
		return
	}
	for _, s := range t.subjects {
		if changed[s.part] {
			t.placeLocked(s)
		}
	}
}

// missLocked records that messages of s may be missing, where outages are kept by subject.
func (t *table) missLocked(s *subject, o *outage) {
	if t.keeps && s.want && s.held && s.out == nil {
		s.out = o
		t.missing++
	}
}

// returnLocked ends the outage of s.
func (t *table) returnLocked(s *subject) {
	if s.want {
		t.back = append(t.back, returned{s.name, s.out})
	}
	s.out = nil
	t.missing--
	t.change()
}

// takeBack returns the subjects that are back, by outage, and how many are not.
func (t *table) takeBack() (back map[*outage][]string, missing int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.back) > 0 {
		back = make(map[*outage][]string)
		for _, r := range t.back {
			back[r.out] = append(back[r.out], r.name)
		}
		t.back = nil
	}
	return back, t.missing
}

// missed returns how many subjects have an outage that is not over, and how many are back.
func (t *table) missed() (missing, back int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.missing, len(t.back)
}

func (t *table) wakeLocked(s *subject, err error) {
	for _, w := range s.waiting {
		w.passLocked(err)
	}
	s.waiting = nil
}

// passLocked says that w waits for one subject less.
func (w *waiter) passLocked(err error) {
	if w.err == nil {
		w.err = err
	}
	if w.left--; w.left == 0 {
		close(w.done)
	}
}

// pass wakes those who have waited for the end of a subscription.
func (t *table) pass(waiting []*waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, w := range waiting {
		w.passLocked(nil)
	}
}
