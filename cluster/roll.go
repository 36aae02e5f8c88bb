package cluster

import (
	"cmp"
	"errors"
	"slices"
	"strings"
	"time"
)

// The times of the list. A node that dies is off it after its lease and a look at most, counted from its
// last beat.
const (
	beatInterval = time.Second
	lease        = 5 * time.Second
	lookInterval = 250 * time.Millisecond
	proofLimit   = 2500 * time.Millisecond // two beats of our own, and how late one may be
	settleTime   = 1500 * time.Millisecond // by then everybody has said something
	remembrance  = time.Minute             // for which a late beat of a node that is off is known as late
	maxMembers   = 1 << 14                 // more are ignored
)

// The reasons why [Node.Members] may be wrong.
var (
	// ErrIncomplete says that this node has not been there for long enough to have heard all others.
	ErrIncomplete = errors.New("cluster: the list of nodes is not complete yet")

	// ErrStale says that this node does not hear itself through the broker. Then it cannot tell who
	// else is there, and keeps those whom it knew.
	ErrStale = errors.New("cluster: the list of nodes is old: the broker does not answer this node")
)

// roll is the list as one node sees it. It is a value that its owner locks.
//
// Silence of another node is a proof only while this node hears itself: its own beats come back through
// the broker, on the same subject. So when the broker is away, when a subscription has ended, and when
// this process was frozen, no lease ends, and all begin anew when its own beats are back.
type roll struct {
	tag     string
	entries map[string]*entry // by tag
	proof   time.Time         // when the last beat of our own came back; zero: none has
	settled time.Time         // when everybody has been heard, or must have been
	heard   int               // nodes that listen, to be heard before that; 0: it is not known

	standing Standing // without Err
}

// entry is a node that is on the list, or has been.
type entry struct {
	beat
	renewed time.Time
	off     bool // not on the list: only a later beat puts it there again
	left    bool // it has said that it ends: nothing puts it there again
}

func newRoll(tag string) roll { return roll{tag: tag, entries: make(map[string]*entry)} }

// take notes a beat down. It reports whether the list is another one now.
func (r *roll) take(b beat, now time.Time) (changed bool) {
	if b.Tag == r.tag {
		r.hearSelf(now)
		if b.flags&beatGuest != 0 {
			return false
		}
	}
	e := r.entries[b.Tag]
	if e == nil {
		if len(r.entries) >= maxMembers {
			return false
		}
		e = &entry{off: true}
		r.entries[b.Tag] = e
	}
	if b.number <= e.number || e.left {
		return false
	}
	was, wasOff := e.beat, e.off
	e.beat, e.renewed, e.off = b, now, false
	if b.flags&beatBye != 0 {
		e.off, e.left = true, true
	}
	r.settle(now)
	return e.off != wasOff || !e.off && (was.Draining != b.Draining || was.Address != b.Address || was.Name != b.Name || was.Topics != b.Topics || was.Peer != b.Peer)
}

func (r *roll) hearSelf(now time.Time) {
	if r.proof.IsZero() {
		r.settled = now.Add(settleTime)
	}
	if r.stale(now) { // what others have said meanwhile may have missed us
		if !r.proof.IsZero() {
			r.standing.Absences++
			r.standing.Absence = now.Sub(r.proof)
		}
		for _, e := range r.entries {
			if !e.off {
				e.renewed = now
			}
		}
	}
	r.proof = now
}

// expect notes how many nodes listen, guests perhaps included: when as many are on the list, it is complete.
func (r *roll) expect(listeners int, now time.Time) {
	r.heard = listeners
	r.settle(now)
}

func (r *roll) settle(now time.Time) {
	if r.heard > 0 && now.Before(r.settled) && r.len() >= r.heard {
		r.settled = now
	}
}

// stale reports whether this node does not hear itself.
func (r *roll) stale(now time.Time) bool { return now.Sub(r.proof) > proofLimit }

// expire ends the leases that have run out. It reports whether there were any.
func (r *roll) expire(now time.Time) (changed bool) {
	if r.stale(now) {
		return false
	}
	for tag, e := range r.entries {
		switch silent := now.Sub(e.renewed); {
		case !e.off && silent >= lease && tag != r.tag:
			e.off, changed = true, true
		case e.off && silent >= lease+remembrance:
			delete(r.entries, tag)
		}
	}
	return changed
}

// err says why the list may be wrong.
func (r *roll) err(now time.Time) error {
	switch {
	case r.proof.IsZero():
		return ErrIncomplete
	case r.stale(now):
		return ErrStale
	case now.Before(r.settled):
		return ErrIncomplete
	}
	return nil
}

func (r *roll) len() (n int) {
	for _, e := range r.entries {
		if !e.off {
			n++
		}
	}
	return n
}

// has reports whether a node is on the list.
func (r *roll) has(tag string) bool {
	e := r.entries[tag]
	return e != nil && !e.off
}

// goodbye is when a node has said that it ends, zero if it has not.
func (r *roll) goodbye(tag string) time.Time {
	if e := r.entries[tag]; e != nil && e.left {
		return e.renewed
	}
	return time.Time{}
}

// list is sorted by name.
func (r *roll) list() []Member {
	list := make([]Member, 0, len(r.entries))
	for _, e := range r.entries {
		if !e.off {
			list = append(list, e.Member)
		}
	}
	slices.SortFunc(list, compareMembers)
	return list
}

func compareMembers(a, b Member) int {
	return cmp.Or(strings.Compare(a.Name, b.Name), strings.Compare(a.Tag, b.Tag))
}
