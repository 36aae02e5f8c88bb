package simbroker

import (
	"errors"
	"maps"
	"slices"
	"time"

	"tether/broker"
)

// Stop ends the sessions of all nodes, which notice at once, and takes no new ones.
func (c *Cluster) Stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = false
	for _, p := range c.peers {
		p.breakLocked()
	}
}

// Start undoes Stop.
func (c *Cluster) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = true
	for _, p := range c.peers {
		p.changeLocked()
	}
}

// Silence lets nothing through to or from p any more; nobody is told.
func (p *Peer) Silence() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.silent.IsZero() {
		p.silent = time.Now()
		p.changeLocked()
	}
}

// Heal ends silence and slowness. What was held back too long has been lost.
func (p *Peer) Heal() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.slow = false
	if p.silent.IsZero() {
		return
	}
	if time.Since(p.silent) >= Patience || !p.session { // it has said that it is not well, or will
		p.sufferLocked()
		p.endSessionLocked()
	} else {
		for s := range p.subs {
			if !p.wanted[s] {
				delete(p.subs, s)
			}
		}
		p.tellUnheardLocked()
	}
	p.silent = time.Time{}
	p.changeLocked()
}

// Unreported is the trouble that p can no longer report because it has ended. Its To is zero if there
// is none.
func (p *Peer) Unreported() (g broker.Gap) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if !p.silent.IsZero() || !p.trouble.IsZero() {
		p.sufferLocked()
		g = broker.Gap{From: p.lastGood, To: time.Now()}
	}
	if from := p.revoked.Add(-beat - maxTravel - MaxSlow); time.Since(p.revoked) < maxRenewal && (g.To.IsZero() || from.Before(g.From)) {
		g = broker.Gap{From: from, To: time.Now()}
	}
	return g
}

// maxRenewal is how long what was revoked may stay away, with parts of the backend that ail.
const maxRenewal = 3 * time.Second

// Revoke has the backend end some subscriptions of p, which p notices a little later.
func (p *Peer) Revoke(most int) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if !p.session || !p.silent.IsZero() || p.ended || p.dead {
		return
	}
	var lost []string
	for _, s := range slices.Sorted(maps.Keys(p.wanted)) {
		if len(lost) < most && p.subs[s] && p.rng.IntN(3) == 0 {
			delete(p.subs, s)
			delete(p.wanted, s)
			lost = append(lost, s)
		}
	}
	if len(lost) == 0 {
		return
	}
	p.revoked = time.Now()
	g := broker.Gap{From: p.revoked.Add(-beat - maxTravel - MaxSlow), Subjects: lost, Cause: errRevoked}
	notice := time.Duration(p.rng.Int64N(int64(maxNotice)))
	p.telling.Go(func() { // Run waits for it
		time.Sleep(notice)
		p.handler.Lost(g)
	})
}

const maxNotice = 200 * time.Millisecond // until a node notices that a subscription has ended

var errRevoked = errors.New("simbroker: subscription revoked")

// Ail has a part of the backend take no new subscriptions; nil: it takes them again.
func (c *Cluster) Ail(part uint32, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause == nil {
		delete(c.ails, part)
	} else {
		c.ails[part] = cause
	}
}

// Cut ends the session of p, which notices at once and comes back.
func (p *Peer) Cut() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.breakLocked()
}

// SlowDown has p take its time for each message until Heal. With too many behind it, its session is ended.
func (p *Peer) SlowDown() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.slow = true
}

// Kill ends the node as a crash of its process would.
func (p *Peer) Kill() {
	p.c.mu.Lock()
	p.dead = true
	p.endSessionLocked()
	p.changeLocked()
	p.c.mu.Unlock()
	p.Close()
}

// Troubled says since when messages do not make the round trip; zero: they do.
func (p *Peer) Troubled() time.Time {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	switch {
	case !p.trouble.IsZero() && (p.silent.IsZero() || p.trouble.Before(p.silent)):
		return p.trouble
	}
	return p.silent
}

// Subscriptions are what the backend knows of the node.
func (p *Peer) Subscriptions() map[string]bool {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	all := make(map[string]bool, len(p.subs))
	for s := range p.subs {
		all[s] = true
	}
	return all
}

// Close implements [broker.Broker].
func (p *Peer) Close() error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if !p.isClosed {
		p.isClosed = true
		close(p.closed)
	}
	return nil
}
