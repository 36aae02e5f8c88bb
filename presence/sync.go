package presence

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// An owner decides about its users only while it knows all that any node knows of them. So when its view of the
// members changes it stops, and asks all of them. A node answers when it has the same view; from then on it
// does not decide by an older one. So when all have answered, or are off the list, no other node decides about
// these users, and what was known of them is known here.
//
// A node that did not hear itself for a while may have been given up by the others. It begins anew: what it knows
// counts for what its version is worth.

const (
	pullTimeout  = 10 * time.Second
	hookPatience = 5 * time.Second // that an answer to a pull waits for hooks under way
	maxPast      = 16              // views that are remembered

	// newTime is for how long a node that begins to hear itself does not decide, if none has before: others may be about
	// to come back to the broker, and would be on the list within their lease.
	newTime = 5 * time.Second

	// lastWords is for how long a node does not decide after another has gone: what that one has answered just
	// before may still be on its way.
	lastWords = 250 * time.Millisecond
)

var errMalformed = errors.New("presence: a question cannot be read")

// follow keeps the view up to date until ctx is done, and pulls after each change of it.
func (p *Presence) follow(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for joined := false; ; {
		changed := p.node.Changed()
		if !joined && p.node.Standing().Err == nil {
			joined = true
			p.join()
		}
		if v, turned := p.look(); turned && v.owns(p.tag) {
			wg.Go(func() { p.pull(ctx, v) })
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
		case <-ticker.C:
		}
	}
}

// look takes the list of members. It reports whether the view is another one, or this node may have been given
// up meanwhile.
func (p *Presence) look() (v *view, turned bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sweepLocked()
	now := p.node.Standing()
	if now.Err != nil || p.view != nil && now == p.standing {
		return p.view, false
	}
	list, err := p.node.Members()
	if err != nil || p.node.Standing() != now {
		return p.view, false // it is looked at again soon
	}
	absent := now.Absences != p.standing.Absences
	if absent || p.view == nil {
		p.heard = time.Now()
	}
	if absent {
		p.base, p.past, p.active = nil, nil, false
		if now.Absence > remembrance {
			p.forgetLocked()
		}
	}
	p.standing = now
	v = newView(list)
	if p.view != nil && p.view.hash == v.hash && !absent {
		p.turnLocked() // some may wait until this has been looked at
		for _, r := range p.records {
			if p.ownedLocked(r) {
				p.evaluateLocked(r) // it was not until now: a grace may have ended, or a hook
			}
		}
		return p.view, false
	}
	if p.view != nil && p.view.loses(v) {
		p.lost = time.Now()
	}
	if p.view != nil && !p.active {
		p.base = nil // there was a view with which this node has not been active
	}
	p.view, p.active, p.pulled = v, false, make(map[string]time.Time)
	if p.past = append(p.past, v); len(p.past) > maxPast {
		p.past = slices.Delete(p.past, 0, 1)
	}
	for _, h := range p.holdings {
		if h.dirty() {
			p.pushWordLocked(h)
		}
	}
	for _, r := range p.records {
		r.stopTimer()
		p.idleLocked(r)
	}
	p.viewedLocked(absent)
	p.turnLocked()
	p.log.Debug("presence has another view", "view", v.hash, "nodes", len(v.nodes), "owners", len(v.owners), "absent", absent)
	return v, true
}

// forgetLocked drops what this node was told by others.
func (p *Presence) forgetLocked() {
	p.log.Warn("this node was cut off for so long that it forgets who was online", "for", p.node.Standing().Absence)
	for _, r := range p.records {
		r.stopTimer()
	}
	clear(p.records)
	for _, h := range p.holdings {
		h.known = change{}
	}
}

// What a pull is answered with begins with one of these bytes.
const (
	pullOther byte = iota // this node has another view
	pullPart              // a part of what it knows
)

// In a part, before each user.
const (
	pullWord   byte = iota // what the node holds
	pullRecord             // what it knows as an owner or a deputy
)
