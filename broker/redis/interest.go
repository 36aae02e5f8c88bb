package redis

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
)

const (
	maxCommand      = 1000      // subjects in one SUBSCRIBE
	maxCommandBytes = 256 << 10 // likewise, unless it is one alone
)

// interest is what this node wants to be subscribed to, and what the server has been told. The calls
// of Subscribe and Unsubscribe say what is wanted; the writer of a session tells the server what
// differs; the confirmations, which come in the order of the commands, wake the calls.
type interest struct {
	poke chan struct{} // wakes the writer; capacity 1

	mu       sync.Mutex
	subjects map[string]*subject // guarded by mu
	dirty    []*subject          // guarded by mu; what the writer must look at
	commands []command           // guarded by mu; sent and not yet confirmed, in order
	initial  int                 // guarded by mu; subjects to confirm before the session is up
	up       chan struct{}       // guarded by mu; closed when initial becomes 0; nil: no session
}

// subject is one subject. Its fields are guarded by the mu of the interest.
type subject struct {
	name string      // immutable
	live atomic.Bool // wanted; read without the lock

	want    bool
	held    bool // some Subscribe has returned without an error since it is wanted
	calls   int  // Subscribes in progress
	told    bool // the last command of this session was SUBSCRIBE
	unheard int  // commands of this session that are not confirmed
	dirty   bool // in interest.dirty
	initial bool // counted in interest.initial
	alone   bool // to be sent in a command of its own

	waiting []*waiter // for the server to do as it was told
}

// waiter is one call of Subscribe or Unsubscribe.
type waiter struct {
	left int           // guarded by mu
	err  error         // guarded by mu until done is closed
	done chan struct{} // closed when left is 0
}

// command is one SUBSCRIBE or UNSUBSCRIBE on its way.
type command struct {
	on       bool
	subjects []*subject
	next     int // the first that is not confirmed
}

func newInterest() *interest {
	return &interest{poke: make(chan struct{}, 1), subjects: make(map[string]*subject)}
}

// settled reports whether the server is known to have done what is wanted.
func (s *subject) settled() bool { return s.unheard == 0 && s.told == s.want }

// subscribe begins a call of Subscribe; finish ends it.
func (in *interest) subscribe(names []string) (*waiter, []*subject) {
	w := &waiter{done: make(chan struct{})}
	var list []*subject
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, name := range names {
		s := in.subjects[name]
		if s == nil {
			s = &subject{name: name}
			in.subjects[name] = s
		}
		if s.want && s.settled() && s.held {
			continue
		}
		if !s.want {
			in.wakeLocked(s, nil) // Unsubscribes that are overtaken
			s.want = true
			s.live.Store(true)
		}
		s.calls++
		list = append(list, s)
		if !s.settled() {
			in.waitLocked(w, s)
		}
	}
	if w.left == 0 {
		close(w.done)
	}
	return w, list
}

// finish ends a call of Subscribe: with an error, what nobody else wants is no longer wanted.
func (in *interest) finish(list []*subject, err error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, s := range list {
		s.calls--
		if err == nil && s.want {
			s.held = true
		}
		if s.want && !s.held && s.calls == 0 {
			in.dropLocked(s)
		}
	}
}

// unsubscribe begins a call of Unsubscribe. Nothing is delivered from here on.
func (in *interest) unsubscribe(names []string) *waiter {
	w := &waiter{done: make(chan struct{})}
	in.mu.Lock()
	defer in.mu.Unlock()
	for _, name := range names {
		s := in.subjects[name]
		if s == nil {
			continue
		}
		if s.want {
			in.dropLocked(s)
		}
		if in.subjects[name] == s {
			in.waitLocked(w, s)
		}
	}
	if w.left == 0 {
		close(w.done)
	}
	return w
}

func (in *interest) waitLocked(w *waiter, s *subject) {
	w.left++
	s.waiting = append(s.waiting, w)
	in.markLocked(s)
}

// dropLocked ends the interest in s. Subscribes that wait for it are overtaken.
func (in *interest) dropLocked(s *subject) {
	s.want, s.held = false, false
	s.live.Store(false)
	in.wakeLocked(s, nil)
	in.markLocked(s)
	in.settleLocked(s)
}

func (in *interest) markLocked(s *subject) {
	if !s.dirty && in.up != nil {
		s.dirty = true
		in.dirty = append(in.dirty, s)
		select {
		case in.poke <- struct{}{}:
		default:
		}
	}
}

// settleLocked is called after every change of s: it wakes who waits for what has been reached, and
// forgets subjects that nobody wants.
func (in *interest) settleLocked(s *subject) {
	if !s.settled() {
		return
	}
	in.wakeLocked(s, nil)
	if s.initial {
		s.initial = false
		if in.initial--; in.initial == 0 {
			close(in.up)
		}
	}
	if !s.want && in.subjects[s.name] == s {
		delete(in.subjects, s.name)
	}
}

func (in *interest) wakeLocked(s *subject, err error) {
	for _, w := range s.waiting {
		if w.err == nil {
			w.err = err
		}
		if w.left--; w.left == 0 {
			close(w.done)
		}
	}
	s.waiting = nil
}

// begin starts a session, of which the server knows nothing yet. The channel is closed when all that
// is wanted now has been confirmed.
func (in *interest) begin() <-chan struct{} {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.up = make(chan struct{})
	for _, s := range in.subjects {
		s.initial = true
		in.initial++
		in.markLocked(s)
	}
	if in.initial == 0 {
		close(in.up)
	}
	return in.up
}

// end forgets a session: without its connection there are no subscriptions.
func (in *interest) end() {
	in.mu.Lock()
	defer in.mu.Unlock()
	in.up, in.initial, in.dirty, in.commands = nil, 0, nil, nil
	for _, s := range in.subjects {
		s.told, s.unheard, s.dirty, s.initial, s.alone = false, 0, false, false, false
		in.settleLocked(s)
	}
}

// appendCommands appends what the server must be told now, at most one command of each kind. more
// says that there is more.
func (in *interest) appendCommands(dst []byte) (_ []byte, more bool) {
	in.mu.Lock()
	defer in.mu.Unlock()
	var batch [2]command
	batch[1].on = true
	bytes, n := 0, 0
	for _, s := range in.dirty {
		b := &batch[0]
		if s.want {
			b = &batch[1]
		}
		if s.want != s.told {
			full := len(b.subjects) == maxCommand || bytes > maxCommandBytes || s.alone
			if full && len(b.subjects) > 0 {
				more = true
				break
			}
			b.subjects = append(b.subjects, s)
			bytes += len(s.name)
			s.told = s.want
			s.unheard++
		}
		n++
		s.dirty = false
		if s.alone {
			s.alone = false
			more = n < len(in.dirty)
			break
		}
	}
	clear(in.dirty[:n])
	if in.dirty = in.dirty[n:]; len(in.dirty) == 0 {
		in.dirty = nil
	}
	for i, name := range [2]string{"UNSUBSCRIBE", "SUBSCRIBE"} {
		b := batch[i]
		if len(b.subjects) == 0 {
			continue
		}
		dst = appendHeader(dst, '*', 1+len(b.subjects))
		dst = appendBulk(dst, name)
		for _, s := range b.subjects {
			dst = appendBulk(dst, s.name)
		}
		in.commands = append(in.commands, b)
	}
	return dst, more
}

var errUnasked = errors.New("redis: a confirmation that nobody asked for")

// confirm records that the server has done the next thing that it was told.
func (in *interest) confirm(on bool, name []byte) (*subject, error) {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.commands) == 0 {
		return nil, errUnasked
	}
	c := &in.commands[0]
	s := c.subjects[c.next]
	if c.on != on || s.name != string(name) {
		return nil, errUnasked
	}
	c.subjects[c.next] = nil
	if c.next++; c.next == len(c.subjects) {
		in.commands = in.commands[1:]
	}
	s.unheard--
	in.settleLocked(s)
	return s, nil
}

// refuse records that the server refused the next command, all of it. Of several subjects each is
// tried alone; one alone fails its calls. A subject that was held is an error: the session cannot
// be what this node is believed to have.
func (in *interest) refuse(why serverError) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if len(in.commands) == 0 || in.commands[0].next > 0 {
		return why
	}
	c := in.commands[0]
	in.commands = in.commands[1:]
	for _, s := range c.subjects {
		s.unheard--
		switch {
		case !c.on || len(c.subjects) == 1 && s.held:
			return fmt.Errorf("subscribe: %w", why)
		case len(c.subjects) > 1:
			s.alone = true
			s.told = false
			in.markLocked(s)
		default:
			s.told = false
			in.wakeLocked(s, unavailable(why))
			if s.want {
				in.dropLocked(s)
			}
		}
		in.settleLocked(s)
	}
	return nil
}
