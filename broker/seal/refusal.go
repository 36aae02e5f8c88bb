package seal

import (
	"sync"
	"sync/atomic"
	"time"
)

// reason is why a message is refused.
type reason int

const (
	accepted reason = iota
	noKey
	otherKey
	late
	forged
	repeated
	unreadable
	reasons
)

// texts say what is wrong, and what an operator can do.
var texts = [reasons]struct{ why, do string }{
	noKey: {
		"they have no key, and this node has one",
		"give all nodes and workers the same key; a cluster that gets its first key takes the steps in docs/trust.md",
	},
	otherKey: {
		"they have a key that this node does not have",
		"give all nodes and workers the same keys; a new key has to be accepted everywhere before it is used",
	},
	late: {
		"their time is more than a minute from the clock of this node",
		"set the clocks of all hosts by NTP; if they are right, somebody plays old messages again",
	},
	forged: {
		"they were changed on their way, or come from another subject",
		"look for who else can publish at the broker",
	},
	repeated: {
		"they have come before",
		"look for who else can publish at the broker",
	},
	unreadable: {
		"they are of a version that this node does not know, or cut off",
		"run the same version on all nodes, and look for who else can publish at the broker",
	},
}

const (
	tellEvery  = time.Minute
	beginTime  = 10 * time.Second // after which a node has begun: its members have been heard by then
	silentTime = 5 * time.Second  // members say more than once a second that they are there
)

// refusals counts what is refused.
type refusals struct {
	total atomic.Uint64

	mu    sync.Mutex
	begun time.Time // guarded by mu
	last  time.Time // guarded by mu; when something was refused that a node at work may send
	early reason    // guarded by mu; of the first such message, if it came while the node began
	told  [reasons]struct {
		at    time.Time
		count uint64 // since
	} // guarded by mu
}

func (r *refusals) begin() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.begun = time.Now()
}

// add counts a message. It reports whether the log is to hear of it, and then how many there were.
func (r *refusals) add(why reason) (count uint64, tell bool) {
	r.total.Add(1)
	now := time.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	if why == noKey || why == otherKey || why == late {
		if r.early == accepted && now.Sub(r.begun) < beginTime {
			r.early = why
		}
		r.last = now
	}
	t := &r.told[why]
	t.count++
	if !t.at.IsZero() && now.Sub(t.at) < tellEvery {
		return 0, false
	}
	count, t.count, t.at = t.count, 0, now
	return count, true
}

// stranger reports whether this node has refused what came since it began, and why.
func (r *refusals) stranger() (reason, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.early, r.early != accepted && time.Since(r.last) < silentTime
}
