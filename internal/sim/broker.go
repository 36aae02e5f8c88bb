package sim

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"tether/broker"
)

// The times of the simulated broker. They are those that package broker allows.
const (
	lanes            = 4                       // of deliveries to one node, each in order
	maxTravel        = 5 * time.Millisecond    // of a message, one way
	maxSlow          = 400 * time.Millisecond  // that a slow node takes for a message
	backlog          = 48                      // messages for a slow node, past which it is cut off
	patience         = 2 * time.Second         // until a node notices that its link is silent
	publishFails     = 1500 * time.Millisecond // until Publish gives up on a silent link
	unsubscribeFails = 2 * patience            // until Unsubscribe does
	unsubscribeLook  = 50 * time.Millisecond   // between two looks at whether it goes on
	minReap          = 3 * time.Second         // until the others no longer count a silent node
	maxReap          = 5 * time.Second
	maxReconnect     = 250 * time.Millisecond
	beat             = 500 * time.Millisecond // between two signs of life, so how much older a gap may begin
)

var errSilent = errors.New("sim: link is silent")

// cluster is the backend of a simulated broker, and the network to it.
type cluster struct {
	seed  uint64
	bound broker.Bound // of its receipts

	mu    sync.Mutex
	ails  map[uint32]error // guarded by mu; parts of the backend that take no new subscriptions, and why
	up    bool             // guarded by mu
	peers []*peer          // guarded by mu
	calls map[string]int64 // guarded by mu; counts subscriptions for the report
}

func newCluster(seed uint64, bound broker.Bound) *cluster {
	return &cluster{seed: seed, bound: bound, up: true, ails: make(map[uint32]error), calls: make(map[string]int64)}
}

// peer is one node's broker.Broker. The fields below are guarded by the cluster's mu.
type peer struct {
	c       *cluster
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
	missed   uint64 // messages that were lost on the way, for the report

	revoked time.Time      // when subscriptions were ended last
	telling sync.WaitGroup // of Handler.Lost
}

// parcel is a message on its way.
type parcel struct {
	m   broker.Message
	due time.Time
}

func (c *cluster) open(name string) *peer {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := &peer{
		c: c, name: name,
		rng:     rand.New(rand.NewPCG(c.seed, uint64(len(c.peers))+1)),
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

func (p *peer) changeLocked() {
	close(p.changed)
	p.changed = make(chan struct{})
}

func (p *peer) travel() time.Duration {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	return p.travelLocked()
}

func (p *peer) travelLocked() time.Duration {
	if p.rng.IntN(4) == 0 {
		return 0
	}
	return time.Duration(p.rng.Int64N(int64(maxTravel)))
}

// through waits until something that p sends has reached the backend, and fails when it cannot.
func (p *peer) through(ctx context.Context, limit time.Duration) error {
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

func (p *peer) sleep(ctx context.Context, d time.Duration) error {
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

func (p *peer) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	reach := make([]broker.Receipt, len(msgs))
	for i := range reach {
		reach[i].Bound = broker.Unknown
	}
	if err := p.through(ctx, publishFails); err != nil {
		return reach, err
	}
	taken := make([]broker.Receipt, len(msgs))
	p.c.mu.Lock()
	for i, m := range msgs {
		taken[i] = p.c.passLocked(m)
	}
	p.c.mu.Unlock()
	if err := p.sleep(ctx, p.travel()); err != nil {
		return reach, err // taken, but who knows
	}
	p.c.mu.Lock()
	lost := !p.c.up || !p.silent.IsZero()
	p.c.mu.Unlock()
	if lost {
		return reach, fmt.Errorf("%w: no answer", broker.ErrUnavailable)
	}
	return taken, nil
}

// passLocked is the backend: one message to every node that it knows to be subscribed.
func (c *cluster) passLocked(m broker.Message) broker.Receipt {
	n := 0
	for _, p := range c.peers {
		if !p.session || !p.subs[m.Subject] {
			continue
		}
		n++
		p.queueLocked(m)
	}
	switch c.bound {
	case broker.Unknown:
		return broker.Receipt{Bound: broker.Unknown}
	case broker.AtLeast:
		return broker.Receipt{Nodes: min(n, 1), Bound: broker.AtLeast}
	}
	return broker.Receipt{Nodes: n}
}

func (p *peer) queueLocked(m broker.Message) {
	if p.slow && p.queued >= backlog {
		p.breakLocked()
		return
	}
	d := p.travelLocked()
	if p.slow {
		d += time.Duration(p.rng.Int64N(int64(maxSlow)))
	}
	lane := crc32.ChecksumIEEE([]byte(m.Subject)) % lanes
	p.lanes[lane] = append(p.lanes[lane], parcel{m, time.Now().Add(d)})
	p.queued++
	select {
	case p.arrived[lane] <- struct{}{}:
	default:
	}
}

func (p *peer) Subscribe(ctx context.Context, subjects ...string) []error {
	errs := make([]error, len(subjects))
	var healthy []string
	p.c.mu.Lock()
	for i, s := range subjects {
		if errs[i] = p.c.ails[part(s)]; errs[i] == nil {
			healthy = append(healthy, s)
		}
	}
	p.c.mu.Unlock()
	err := p.subscribe(ctx, healthy)
	for i := range errs {
		errs[i] = cmp.Or(errs[i], err)
	}
	return errs
}

const parts = 3 // of the backend, in which it may ail

// part is where a subject is.
func part(subject string) uint32 { return crc32.ChecksumIEEE([]byte(subject)) / lanes % parts }

func (p *peer) subscribe(ctx context.Context, subjects []string) error {
	select {
	case <-p.started:
	case <-p.closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	deadline := time.Now().Add(publishFails)
	for {
		if err := p.through(ctx, time.Until(deadline)); err != nil {
			return err
		}
		p.c.mu.Lock()
		if p.ended || p.isClosed {
			p.c.mu.Unlock()
			return broker.ErrClosed
		}
		if p.session {
			for _, s := range subjects {
				p.wanted[s], p.subs[s] = true, true
			}
			p.c.calls["subscribe"]++
			p.c.mu.Unlock()
			break
		}
		changed := p.changed
		p.c.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			return fmt.Errorf("%w: no session", broker.ErrUnavailable)
		case <-p.closed:
			return broker.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := p.sleep(ctx, p.travel()); err != nil {
		p.forget(subjects)
		return err
	}
	p.c.mu.Lock()
	lost := !p.session || !p.silent.IsZero()
	p.c.mu.Unlock()
	if lost {
		p.forget(subjects)
		return fmt.Errorf("%w: no confirmation", broker.ErrUnavailable)
	}
	return nil
}

func (p *peer) forget(subjects []string) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for _, s := range subjects {
		delete(p.wanted, s)
		delete(p.leaving, s)
		if p.session && p.silent.IsZero() {
			delete(p.subs, s)
		}
	}
}

// Unsubscribe fails later than Publish, as drivers do: a link that is silent for as long has been reported.
func (p *peer) Unsubscribe(ctx context.Context, subjects ...string) []error {
	return broker.Each(len(subjects), p.unsubscribe(ctx, subjects))
}

func (p *peer) unsubscribe(ctx context.Context, subjects []string) error {
	err := p.through(ctx, unsubscribeLook)
	for end := time.Now().Add(unsubscribeFails); errors.Is(err, errSilent) && time.Now().Before(end); {
		err = p.through(ctx, unsubscribeLook)
	}
	if err == nil {
		p.c.mu.Lock()
		p.c.calls["unsubscribe"]++
		for _, s := range subjects {
			delete(p.subs, s)
			delete(p.wanted, s) // a new session does not bring it back
			p.leaving[s] = true
		}
		p.c.mu.Unlock()
		for err == nil && p.expects(subjects) {
			err = p.sleep(ctx, time.Millisecond)
		}
	}
	p.forget(subjects)
	return err
}

// expects reports whether messages of the subjects are on their way to p.
func (p *peer) expects(subjects []string) bool {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for i := range p.lanes {
		if slices.Contains(subjects, p.current[i]) {
			return true
		}
		for _, k := range p.lanes[i] {
			if slices.Contains(subjects, k.m.Subject) {
				return true
			}
		}
	}
	return false
}

func (p *peer) Run(ctx context.Context, h broker.Handler) error {
	p.c.mu.Lock()
	if p.running || p.isClosed {
		p.c.mu.Unlock()
		return broker.ErrClosed
	}
	p.running, p.handler = true, h
	p.trouble = time.Now()
	p.lastGood = p.trouble
	p.reported = true // the hub begins with not being ready
	p.c.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i := range lanes {
		wg.Go(func() { p.carry(ctx, i) })
	}
	p.keep(ctx)
	p.c.mu.Lock()
	p.ended = true
	p.c.mu.Unlock()
	p.telling.Wait()
	p.c.mu.Lock()
	p.endSessionLocked()
	p.changeLocked()
	p.c.mu.Unlock()
	cancel()
	wg.Wait()
	return nil
}

// carry delivers what comes in one lane.
func (p *peer) carry(ctx context.Context, lane int) {
	for {
		p.c.mu.Lock()
		var next parcel
		there := len(p.lanes[lane]) > 0
		if there {
			next = p.lanes[lane][0]
		}
		changed, held := p.changed, !p.silent.IsZero()
		p.c.mu.Unlock()
		var due <-chan time.Time
		switch {
		case there && !held && time.Now().Before(next.due):
			due = time.After(time.Until(next.due))
			changed = nil
		case there && !held:
			p.c.mu.Lock()
			ok := len(p.lanes[lane]) > 0 && !p.dead && p.silent.IsZero()
			if ok {
				next = p.lanes[lane][0]
				p.lanes[lane] = p.lanes[lane][1:]
				p.queued--
				ok = p.wanted[next.m.Subject] || p.leaving[next.m.Subject]
				p.current[lane] = next.m.Subject
			}
			p.c.mu.Unlock()
			if ok {
				p.handler.Deliver(next.m)
			}
			p.c.mu.Lock()
			p.current[lane] = ""
			p.c.mu.Unlock()
			continue
		}
		select {
		case <-due:
		case <-changed:
		case <-p.arrived[lane]:
		case <-ctx.Done():
			return
		case <-p.closed:
			return
		}
	}
}

// keep keeps the session: it notices silence, reconnects, and says so, until ctx is done.
func (p *peer) keep(ctx context.Context) {
	started := false
	for {
		p.c.mu.Lock()
		now := time.Now()
		var wait <-chan time.Time
		switch {
		case p.dead:
		case !p.silent.IsZero():
			switch since := now.Sub(p.silent); {
			case since >= patience && !p.reported:
				p.reported = true
				p.c.mu.Unlock()
				p.handler.State(errSilent)
				continue
			case p.session && since >= minReap+time.Duration(p.c.seed%uint64(maxReap-minReap)):
				p.endSessionLocked()
				p.c.mu.Unlock()
				continue
			case since < patience:
				wait = time.After(patience - since)
			default:
				wait = time.After(100 * time.Millisecond)
				if !p.session {
					wait = nil
				}
			}
		case !p.trouble.IsZero() && !p.reported:
			p.reported = true
			p.c.mu.Unlock()
			p.handler.State(fmt.Errorf("%w: connection lost", broker.ErrUnavailable))
			continue
		case !p.trouble.IsZero() && p.c.up:
			d := time.Duration(p.rng.Int64N(int64(maxReconnect)))
			p.c.mu.Unlock()
			p.reconnect(ctx, d, &started)
			if ctx.Err() != nil || p.done() {
				return
			}
			continue
		}
		changed := p.changed
		p.c.mu.Unlock()
		select {
		case <-wait:
		case <-changed:
		case <-ctx.Done():
			return
		case <-p.closed:
			return
		}
	}
}

func (p *peer) done() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// reconnect gets a session again and subscribes to everything that is wanted.
func (p *peer) reconnect(ctx context.Context, d time.Duration, started *bool) {
	if p.sleep(ctx, d) != nil {
		return
	}
	p.c.mu.Lock()
	if !p.c.up || !p.silent.IsZero() || p.dead {
		p.c.mu.Unlock()
		return
	}
	p.session = true
	p.subs = make(map[string]bool, len(p.wanted))
	for s := range p.wanted {
		p.subs[s] = true
	}
	gap := broker.Gap{From: p.lastGood, To: time.Now(), Cause: errors.New("sim: session lost")}
	p.trouble, p.reported = time.Time{}, false
	p.changeLocked()
	p.c.mu.Unlock()
	if *started {
		p.handler.Gap(gap)
	} else {
		*started = true
		close(p.started)
	}
	p.handler.State(nil)
}

// endSessionLocked ends what the backend knows of the node. What is on its way is lost.
func (p *peer) endSessionLocked() {
	p.session, p.subs = false, nil
	p.missed += uint64(p.queued)
	p.queued = 0
	for i := range p.lanes {
		p.lanes[i] = nil
	}
}

// breakLocked ends the session so that the node notices at once.
func (p *peer) breakLocked() {
	if !p.running || p.ended || p.dead {
		return
	}
	p.sufferLocked()
	p.endSessionLocked()
	p.changeLocked()
}

// sufferLocked notes that trouble has begun.
func (p *peer) sufferLocked() {
	if !p.trouble.IsZero() {
		return
	}
	p.trouble = time.Now()
	if !p.silent.IsZero() {
		p.trouble = p.silent
	}
	p.lastGood = p.trouble.Add(-beat - maxTravel - maxSlow) // what was sent before has been delivered
}

// The faults.

func (c *cluster) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = false
	for _, p := range c.peers {
		p.breakLocked()
	}
}

func (c *cluster) start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up = true
	for _, p := range c.peers {
		p.changeLocked()
	}
}

// silence lets nothing through to or from p any more; nobody is told.
func (p *peer) silence() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.silent.IsZero() {
		p.silent = time.Now()
		p.changeLocked()
	}
}

// heal ends silence and slowness. What was held back too long has been lost.
func (p *peer) heal() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.slow = false
	if p.silent.IsZero() {
		return
	}
	if time.Since(p.silent) >= patience || !p.session { // it has said that it is not well, or will
		p.sufferLocked()
		p.endSessionLocked()
	} else {
		for s := range p.subs {
			if !p.wanted[s] {
				delete(p.subs, s)
			}
		}
	}
	p.silent = time.Time{}
	p.changeLocked()
}

// unreported is the trouble that p can no longer report because it has ended. Its To is zero if there
// is none.
func (p *peer) unreported() (g broker.Gap) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if !p.silent.IsZero() || !p.trouble.IsZero() {
		p.sufferLocked()
		g = broker.Gap{From: p.lastGood, To: time.Now()}
	}
	if from := p.revoked.Add(-beat - maxTravel - maxSlow); time.Since(p.revoked) < maxRenewal && (g.To.IsZero() || from.Before(g.From)) {
		g = broker.Gap{From: from, To: time.Now()}
	}
	return g
}

// maxRenewal is how long what was revoked may stay away, with parts of the backend that ail.
const maxRenewal = 3 * time.Second

// revoke has the backend end some subscriptions of p, which p notices a little later.
func (p *peer) revoke(most int) {
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
	g := broker.Gap{From: p.revoked.Add(-beat - maxTravel - maxSlow), Subjects: lost, Cause: errRevoked}
	notice := time.Duration(p.rng.Int64N(int64(maxNotice)))
	p.telling.Go(func() { // Run waits for it
		time.Sleep(notice)
		p.handler.Lost(g)
	})
}

const maxNotice = 200 * time.Millisecond // until a node notices that a subscription has ended

var errRevoked = errors.New("sim: subscription revoked")

// ail has a part of the backend take no new subscriptions; nil: it takes them again.
func (c *cluster) ail(part uint32, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if cause == nil {
		delete(c.ails, part)
	} else {
		c.ails[part] = cause
	}
}

func (p *peer) cut() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.breakLocked()
}

func (p *peer) slowDown() {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	p.slow = true
}

// kill ends the node as a crash of its process would.
func (p *peer) kill() {
	p.c.mu.Lock()
	p.dead = true
	p.endSessionLocked()
	p.changeLocked()
	p.c.mu.Unlock()
	p.Close()
}

// troubled says since when messages do not make the round trip; zero: they do.
func (p *peer) troubled() time.Time {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	switch {
	case !p.trouble.IsZero() && (p.silent.IsZero() || p.trouble.Before(p.silent)):
		return p.trouble
	}
	return p.silent
}

// subscriptions are what the backend knows of the node.
func (p *peer) subscriptions() map[string]bool {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	all := make(map[string]bool, len(p.subs))
	for s := range p.subs {
		all[s] = true
	}
	return all
}

func (p *peer) Close() error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if !p.isClosed {
		p.isClosed = true
		close(p.closed)
	}
	return nil
}
