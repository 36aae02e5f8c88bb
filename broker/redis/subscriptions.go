package redis

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// subscriptions is what this node wants to be subscribed to. The calls of Subscribe and Unsubscribe, of which
// there is one at a time, say what is wanted; each server's [subscriber] sees to it that the server does it.
type subscriptions struct {
	channels *channels // immutable
	change   func()    // immutable; called, with mu held, when Run has something to tell; must not block

	mu      sync.Mutex
	all     map[string]*subscription // guarded by mu; by subject
	owner   []*subscriber            // guarded by mu; the server of a partition; nil: it is not known
	nobody  []time.Time              // guarded by mu; since when a partition has no owner
	missing int                      // guarded by mu; subscriptions with an outage
	back    []returned               // guarded by mu; those whose outage is over and has not been told
	lost    []returned               // guarded by mu; those that have been refused, likewise
}

// subscription is one subject. Its fields are guarded by the mu of subscriptions.
type subscription struct {
	name string      // immutable
	live atomic.Bool // what arrives is delivered; read without the lock
	part uint8       // immutable

	want    bool
	held    bool  // it was live since it is wanted
	told    bool  // the last command of this session was SUBSCRIBE
	unheard int32 // commands of this session that are not confirmed

	at   *subscriber // the server that is told; nil: none is known
	out  *outage     // since when messages may be missing; nil: none are
	call *call       // that waits for the server to do as it was told; nil: none
	err  error       // what that call has come to
}

// outage is a time in which subjects were not subscribed.
type outage struct {
	from  time.Time
	cause error
}

// returned is a subject that is subscribed again, or has been refused.
type returned struct {
	name string
	out  *outage
}

// call is one Subscribe or Unsubscribe.
type call struct {
	on   bool
	list []*subscription // in the order of the call; nil: there is nothing to do
	left int             // guarded by mu; subscriptions to wait for
	done chan struct{}   // closed when left is 0
}

func newSubscriptions(c *channels, change func()) *subscriptions {
	n := len(c.heads)
	return &subscriptions{
		channels: c, change: change, all: make(map[string]*subscription),
		owner: make([]*subscriber, n), nobody: make([]time.Time, n),
	}
}

// settled reports whether the server is known to have done what is wanted.
func (s *subscription) settled() bool { return s.unheard == 0 && s.told == s.want }

// begin begins a call, which finish ends.
func (t *subscriptions) begin(on bool, names []string) *call {
	c := &call{on: on, list: make([]*subscription, len(names)), done: make(chan struct{})}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, name := range names {
		if on {
			c.list[i] = t.wantLocked(c, name)
		} else {
			c.list[i] = t.unwantLocked(c, name)
		}
	}
	if c.left == 0 {
		close(c.done)
	}
	return c
}

func (t *subscriptions) wantLocked(c *call, name string) *subscription {
	s := t.all[name]
	if s == nil {
		s = &subscription{name: name, part: t.channels.partition(name)}
		s.at = t.owner[s.part]
		t.all[name] = s
	}
	if s.call == c {
		return s // it is twice in the call
	}
	s.want, s.err = true, nil
	s.live.Store(true)
	t.settleLocked(s) // an Unsubscribe that has not been sent yet
	if s.settled() {
		return s
	}
	if s.err = t.awayLocked(s); s.err == nil {
		t.waitLocked(c, s)
	}
	return s
}

// awayLocked says why nothing can be subscribed where s belongs, if that is known.
func (t *subscriptions) awayLocked(s *subscription) error {
	switch at := s.at; {
	case at != nil && at.down != nil:
		return at.down
	case at == nil && !t.nobody[s.part].IsZero() && time.Since(t.nobody[s.part]) > time.Second:
		return unavailable(errUncovered)
	}
	return nil
}

// unwantLocked ends a subscription. What arrives is delivered until the server has confirmed it.
func (t *subscriptions) unwantLocked(c *call, name string) *subscription {
	s := t.all[name]
	if s == nil || s.call == c {
		return s
	}
	if s.err = nil; s.want {
		t.dropLocked(s)
	}
	if t.all[name] == s {
		t.waitLocked(c, s)
	}
	return s
}

// finish ends a call, and returns an error for each subject, or nil. What still waits has failed with why:
// it is not subscribed, and nothing of it is delivered any more.
func (t *subscriptions) finish(c *call, why error) []error {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range c.list {
		if s != nil && s.call == c {
			s.call, s.err = nil, why
		}
	}
	var errs []error
	for i, s := range c.list {
		if s == nil || s.err == nil {
			continue
		}
		if errs == nil {
			errs = make([]error, len(c.list))
		}
		errs[i] = s.err
		switch {
		case !c.on:
			s.live.Store(false)
		case !s.held:
			t.removeLocked(s)
		}
	}
	return errs
}

func (t *subscriptions) waitLocked(c *call, s *subscription) {
	c.left++
	s.call = c
	t.markLocked(s)
}

// dropLocked ends the interest in s.
func (t *subscriptions) dropLocked(s *subscription) {
	s.want, s.held = false, false
	if s.out != nil {
		t.returnLocked(s)
	}
	t.markLocked(s)
	t.settleLocked(s)
}

// removeLocked ends the interest in s, of which nothing is delivered any more.
func (t *subscriptions) removeLocked(s *subscription) {
	s.live.Store(false)
	if s.want {
		t.dropLocked(s)
	}
}

// failLocked ends a subscription that cannot be. A call that waits for it fails with err; if none does, as
// it was live before, Run tells that it is lost.
func (t *subscriptions) failLocked(s *subscription, err error) {
	if s.held && s.out != nil {
		t.lost = append(t.lost, returned{s.name, &outage{s.out.from, err}})
		t.change()
	}
	t.wakeLocked(s, err)
	t.removeLocked(s)
}

// markLocked makes the writer of the subscription's server look at it.
func (t *subscriptions) markLocked(s *subscription) {
	if in := s.at; in != nil && in.up != nil && s.want != s.told {
		in.addLocked(s)
	}
}

// settleLocked is called after every change of s: it takes s to the server that owns it, wakes the call that
// waits for what has been reached, and forgets what nobody wants.
func (t *subscriptions) settleLocked(s *subscription) {
	t.assignLocked(s)
	if !s.settled() {
		return
	}
	s.held = s.want
	t.wakeLocked(s, nil)
	if s.out != nil {
		t.returnLocked(s)
	}
	if !s.want && t.all[s.name] == s {
		delete(t.all, s.name)
	}
}

// assignLocked gives s to the server that owns it, once the one that it is at has nothing of it.
func (t *subscriptions) assignLocked(s *subscription) {
	to := t.owner[s.part]
	if s.at == to || s.told || s.unheard > 0 {
		return
	}
	s.at = to
	if s.want {
		t.markLocked(s)
	}
}

// own says which server has each partition from now on.
func (t *subscriptions) own(owner []*subscriber) {
	t.mu.Lock()
	defer t.mu.Unlock()
	changed := make([]bool, len(owner))
	any := false
	for p := range owner {
		old := t.owner[p]
		changed[p] = old != owner[p]
		any = any || changed[p]
		if changed[p] && old != nil {
			old.leaves = true
		}
		if owner[p] != nil {
			t.nobody[p] = time.Time{}
		} else if t.nobody[p].IsZero() {
			t.nobody[p] = time.Now()
		}
	}
	copy(t.owner, owner)
	if !any {
		return
	}
	for _, s := range t.all {
		if changed[s.part] {
			t.assignLocked(s)
		}
	}
}

// missLocked records that messages of s may be missing.
func (t *subscriptions) missLocked(s *subscription, o *outage) {
	if s.held && s.out == nil {
		s.out = o
		t.missing++
	}
}

// returnLocked ends the outage of s.
func (t *subscriptions) returnLocked(s *subscription) {
	if s.want {
		t.back = append(t.back, returned{s.name, s.out})
	}
	s.out = nil
	t.missing--
	t.change()
}

// take returns what is to be told, by outage: the subjects that are back, and those that are lost. While
// some are missing it waits for them, unless late is set.
func (t *subscriptions) take(late bool) (back, lost map[*outage][]string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	byOutage := func(list *[]returned) map[*outage][]string {
		m := make(map[*outage][]string)
		for _, r := range *list {
			m[r.out] = append(m[r.out], r.name)
		}
		*list = nil
		return m
	}
	lost = byOutage(&t.lost)
	if t.missing == 0 || late {
		back = byOutage(&t.back)
	}
	return back, lost
}

func (t *subscriptions) wakeLocked(s *subscription, err error) {
	c := s.call
	if c == nil {
		return
	}
	s.call, s.err = nil, err
	if c.left--; c.left == 0 {
		close(c.done)
	}
}

// pass wakes the call that has waited for the end of s.
func (t *subscriptions) pass(s *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.wakeLocked(s, nil)
}

var errUncovered = errors.New("redis: a part of the Cluster's slots is not served")
