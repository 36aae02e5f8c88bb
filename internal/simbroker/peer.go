package simbroker

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"tether/broker"
)

// Peer is one node's broker.Broker. The fields below are guarded by the Cluster's mu.
type Peer struct {
	c       *Cluster
	name    string
	rng     *rand.Rand
	started chan struct{}
	closed  chan struct{}
	changed chan struct{} // closed and replaced when something below changes
	handler broker.Handler

	isClosed bool
	running  bool
	ended    bool
	dead     bool            // the process has been killed: nothing happens any more
	session  bool            // the backend knows this node
	subs     map[string]bool // at the backend; while it has a session
	wanted   map[string]bool // by the hub
	leaving  map[string]bool // not wanted any more, but what the backend has passed on is still delivered
	silent   time.Time       // since when nothing gets through; zero: it does
	slow     bool
	lastGood time.Time // before the trouble that is going on
	trouble  time.Time // since when there is no good session; zero: there is one
	reported bool      // State has been told of it
	lanes    [lanes][]parcel
	arrived  [lanes]chan struct{}
	current  [lanes]string // the subject that is being delivered
	queued   int

	counted time.Time      // since when the backend counts p for what it could not subscribe; zero: it does not
	revoked time.Time      // when subscriptions were ended last
	telling sync.WaitGroup // of Handler.Lost and Gap
}

// parcel is a message on its way.
type parcel struct {
	m   broker.Message
	due time.Time
}

// Open returns the broker of one more node, or of a program that only publishes. The caller closes it.
func (c *Cluster) Open(name string) *Peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &Peer{
		c: c, name: name,
		rng:     rand.New(rand.NewPCG(c.options.Seed, uint64(len(c.peers))+1)),
		started: make(chan struct{}),
		closed:  make(chan struct{}),
		changed: make(chan struct{}),
		wanted:  make(map[string]bool),
		leaving: make(map[string]bool),
	}
	for i := range p.arrived {
		p.arrived[i] = make(chan struct{}, 1)
	}
	c.peers = append(c.peers, p)
	return p
}

func (p *Peer) changeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *Peer) travel() time.Duration {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.travelLocked()
}

func (p *Peer) travelLocked() time.Duration {
	if p.c.options.Calm || p.rng.IntN(4) == 0 {
		return 0
	}
	return time.Duration(p.rng.Int64N(int64(maxTravel)))
}

// reconnectsInLocked is how long p takes to come back.
func (p *Peer) reconnectsInLocked() time.Duration {
	if p.c.options.Calm {
		return 0
	}
	return time.Duration(p.rng.Int64N(int64(maxReconnect)))
}

// through waits until something that p sends has reached the backend, and fails when it cannot.
func (p *Peer) through(ctx context.Context, limit time.Duration) error {
	if err := p.sleep(ctx, p.travel()); err != nil {
		return err
	}
	p.c.mu.Lock()
	up, silent, closed := p.c.up, !p.silent.IsZero(), p.isClosed || p.dead
	p.c.mu.Unlock()
	switch {
	case closed:
		return broker.ErrClosed
	case !up:
		return fmt.Errorf("%w: connection refused", broker.ErrUnavailable)
	case silent:
		if err := p.sleep(ctx, limit); err != nil {
			return err
		}
		return fmt.Errorf("%w: %w", broker.ErrUnavailable, errSilent)
	}
	return nil
}

func (p *Peer) sleep(ctx context.Context, d time.Duration) error {
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		case <-p.closed:
		}
	}
	select {
	case <-p.closed:
		return broker.ErrClosed
	default:
		return ctx.Err()
	}
}

// endSessionLocked ends what the backend knows of the node. What is on its way is lost.
func (p *Peer) endSessionLocked() {
	p.session, p.subs = false, nil
	p.queued, p.counted = 0, time.Time{}
	for i := range p.lanes {
		p.lanes[i] = nil
	}
}

// breakLocked ends the session so that the node notices at once.
func (p *Peer) breakLocked() {
	if !p.running || p.ended || p.dead {
		return
	}
	p.sufferLocked()
	p.endSessionLocked()
	p.changeLocked()
}

// sufferLocked notes that trouble has begun.
func (p *Peer) sufferLocked() {
	if !p.trouble.IsZero() {
		return
	}
	p.trouble = time.Now()
	if !p.silent.IsZero() {
		p.trouble = p.silent
	}
	p.lastGood = p.trouble.Add(-beat - maxTravel - MaxSlow) // what was sent before has been delivered
}
