package redis

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	refreshTime = time.Second      // between two looks at which server has what
	retireTime  = 5 * time.Second  // how long a server without partitions is kept
	backTime    = 10 * time.Second // after which answers that are older than the last are believed
)

// cluster is the topology of a Cluster: a subject belongs to a partition, a partition to a slot, a slot to a
// master. It asks all masters once a second while the broker is used, and at once when one redirects or
// fails; it believes the one that has seen the latest epoch.
type cluster struct {
	dialer
	subs  *subscriptions // immutable
	seeds []string       // immutable
	poke  func()         // immutable; called after every change

	routed    atomic.Pointer[routes] // nil: nothing is known
	inquiry   inquiry
	agreement agreement

	mu      sync.Mutex
	members map[string]*member        // guarded by mu; masters that have partitions, or had some lately, by address
	others  []string                  // guarded by mu; replicas and all else that was seen
	epoch   int64                     // guarded by mu; of the routes
	known   time.Time                 // guarded by mu; when an answer with this epoch, or a later one, came
	losses  [partitions]time.Duration // guarded by mu; when the owner said that it is none any more
	err     error                     // guarded by mu; of the last inquiry
}

// member is a master of the Cluster.
type member struct {
	*server
	asker *conn     // owned by the inquiry in progress, then by retire; nil: none
	idle  time.Time // guarded by the mu of the cluster; since when it has no partition; zero: it has

	first, last atomic.Int32 // the lowest and the highest partition that is subscribed there; -1: none is
}

func newCluster(d dialer, subs *subscriptions, seeds []string, poke func()) *cluster {
	c := &cluster{dialer: d, subs: subs, seeds: seeds, poke: poke, members: make(map[string]*member)}
	c.inquiry = inquiry{life: d.life, ask: c.ask, base: time.Now()}
	c.agreement.clock = c.inquiry.clock
	return c
}

func (c *cluster) now() (*routes, error) {
	if r := c.routed.Load(); r != nil {
		return r, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return nil, c.err
}

// fresh waits for the first answer, and after a pause for a new one: what is no longer known to be true would
// make receipts uncertain.
func (c *cluster) fresh(ctx context.Context) (*routes, error) {
	patience := c.o.PublishTimeout
	if r := c.routed.Load(); r != nil {
		if c.inquiry.age() < staleTime {
			c.refresh()
			return r, nil
		}
		patience = askTime
	}
	if err := c.inquiry.await(ctx, patience); err != nil {
		return nil, err
	}
	r, err := c.now()
	switch {
	case r != nil:
		return r, nil
	case err == nil:
		err = errors.New("redis: no answer")
	}
	return nil, unavailable(err)
}

func (c *cluster) refresh() {
	if c.agreement.disputed.Load() {
		c.inquiry.after(2 * doubtTime)
		return
	}
	c.inquiry.after(refreshTime)
}

func (c *cluster) recheck() { c.inquiry.after(doubtTime) }

func (c *cluster) dial(ctx context.Context, s *server) (*conn, error) {
	return c.dialTo(ctx, s.addr, true)
}

func (c *cluster) left(*conn) (since time.Time, why error) { return time.Time{}, nil }

func (c *cluster) sure(_ *conn, part uint8) bool { return c.agreement.certain(part) }

func (c *cluster) leftSince(part uint8) time.Time {
	return c.inquiry.base.Add(c.agreement.left(int(part)))
}

// leaseKeys are two, in the first and the last partition of a server, so that one is left when slots leave at
// either end.
func (c *cluster) leaseKeys(s *server) []string {
	c.mu.Lock()
	m := c.members[s.addr]
	c.mu.Unlock()
	if m == nil || m.first.Load() < 0 {
		return nil
	}
	tags := partitionTags()
	key := func(p int32) string { return c.o.Prefix + leaseKey + "{" + tags[p] + "}" }
	return slices.Compact([]string{key(m.first.Load()), key(m.last.Load())})
}

// ask asks all masters, and if none answers everybody else, and believes the latest epoch. Masters that it
// hears of are asked, too, so that it is known if several serve the same.
func (c *cluster) ask() {
	begin := c.inquiry.clock()
	c.mu.Lock()
	others := slices.Clone(c.others)
	known := slices.Collect(maps.Values(c.members))
	c.mu.Unlock()
	answers := gather(len(known), func(i int) (*slotMap, error) { return c.askMember(known[i]) })
	best, err := latest(answers)
	if best == nil {
		for _, seed := range c.seeds {
			if !slices.Contains(others, seed) {
				others = append(others, seed)
			}
		}
		best, err = latest(gather(len(others), func(i int) (*slotMap, error) { return c.askOther(others[i]) }))
	}
	if best == nil {
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		return
	}
	if more := c.unasked(best, known); len(more) > 0 {
		heard := gather(len(more), func(i int) (*slotMap, error) { return c.askMember(more[i]) })
		known, answers = append(known, more...), append(answers, heard...)
		best, _ = latest(append(heard, asked{slots: best}))
	}
	said := make(map[*server]*slotMap)
	for i, m := range known {
		if s := answers[i].slots; s != nil {
			said[m.server] = s
		}
	}
	c.install(best, said, begin)
	c.poke()
}

// unasked returns the masters of a slot map that are not known yet.
func (c *cluster) unasked(s *slotMap, known []*member) (more []*member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, addr := range s.owner {
		if addr == "" {
			continue
		}
		if m := c.memberLocked(addr); !slices.Contains(known, m) && !slices.Contains(more, m) {
			more = append(more, m)
		}
	}
	return more
}

func (c *cluster) askMember(m *member) (*slotMap, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if m.asker == nil {
		asker, err := c.dialTo(ctx, m.addr, true)
		if err != nil {
			return nil, err
		}
		asker.timeout = askTime
		m.asker = asker
	}
	s, err := m.asker.slotMap()
	if err != nil {
		m.asker.nc.Close()
		m.asker = nil
		m.fail()
	}
	return s, err
}

func (c *cluster) askOther(addr string) (*slotMap, error) {
	ctx, cancel := context.WithTimeout(context.Background(), c.o.DialTimeout)
	defer cancel()
	asker, err := c.dialTo(ctx, addr, true)
	if err != nil {
		return nil, err
	}
	defer asker.nc.Close()
	return asker.slotMap()
}

// current returns copies of the routes.
func (c *cluster) current() routes {
	if r := c.routed.Load(); r != nil {
		return routes{slices.Clone(r.publish), slices.Clone(r.subscribe)}
	}
	return routes{make([]*server, partitions), make([]*server, partitions)}
}

// install makes routes of a slot map. said is what each server says itself, since begin.
func (c *cluster) install(s *slotMap, said map[*server]*slotMap, begin time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if s.epoch < c.epoch && now.Sub(c.known) < backTime {
		return // from a server that is cut off from the others
	}
	c.epoch, c.known, c.err, c.others = s.epoch, now, nil, s.all
	was, next := c.current(), c.current()
	disputed := false
	serverAt := func(addr string) *server { return c.memberLocked(addr).server }
	for p := range next.publish {
		o := opinionOf(p, s, said, serverAt)
		age := c.agreement.dispute(p, o)
		disputed = disputed || age > 0
		next.publish[p] = o.decide(was.publish[p], age < yieldTime)
		if c.losses[p] == 0 || c.losses[p] < begin { // else the servers may have been asked before
			next.subscribe[p] = o.decide(was.subscribe[p], age < yieldTime+staleTime)
		}
		if at := next.publish[p]; at != nil && at == next.subscribe[p] && o.agreed(at) {
			c.agreement.agree(p, begin)
		}
	}
	c.agreement.disputed.Store(disputed)
	c.showLocked(&next)
	for addr, m := range c.members { // those that have had no partition for long
		if !m.idle.IsZero() && time.Since(m.idle) > retireTime && m.session.Load() == nil && c.life.Go(m.retire) {
			delete(c.members, addr)
		}
	}
}

// memberLocked returns the master at an address.
func (c *cluster) memberLocked(addr string) *member {
	if m := c.members[addr]; m != nil {
		return m
	}
	m := &member{server: newServer(c, c.dialer, c.subs, addr), idle: time.Now()}
	m.first.Store(-1)
	c.members[addr] = m
	return m
}

// showLocked makes r the routes, and tells the subscriptions.
func (c *cluster) showLocked(r *routes) {
	old := c.routed.Load()
	owner := make([]*subscriber, partitions)
	for _, m := range c.members {
		first, last := slices.Index(r.subscribe, m.server), -1
		for p, s := range r.subscribe {
			if s == m.server {
				last = p
			}
		}
		m.first.Store(int32(first))
		m.last.Store(int32(last))
		switch used := first >= 0 || slices.Contains(r.publish, m.server); {
		case used:
			m.idle = time.Time{}
		case m.idle.IsZero():
			m.idle = time.Now()
		}
	}
	for p, s := range r.subscribe {
		if old != nil && (old.publish[p] != r.publish[p] || old.subscribe[p] != s) {
			c.agreement.change(p)
		}
		if s != nil {
			owner[p] = s.in
		}
	}
	c.routed.Store(r)
	c.subs.own(owner)
	c.poke()
}

// retire closes the connections of a server that has been taken off.
func (m *member) retire() {
	m.server.close()
	m.keeper.stop()
	if m.asker != nil {
		m.asker.nc.Close()
	}
}

func (c *cluster) moved(ctx context.Context, parts ...uint8) *routes {
	for _, p := range parts {
		c.agreement.doubt(int(p))
	}
	c.inquiry.restart()
	_ = c.inquiry.await(ctx, c.o.PublishTimeout)
	r := c.current()
	return &r
}

// ended takes the partition from a server that has ended a subscription by itself. It is not asked to take
// it back, which it would do as a replica of the new owner, but the servers are asked which one that is.
func (c *cluster) ended(s *server, part uint8) {
	c.agreement.doubt(int(part))
	c.mu.Lock()
	if c.routed.Load() != nil {
		if r := c.current(); r.subscribe[part] == s {
			c.losses[part] = c.inquiry.clock()
			r.subscribe[part] = nil
			c.showLocked(&r)
		}
	}
	c.mu.Unlock()
	c.inquiry.restart()
}

// close makes every Publish return.
func (c *cluster) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.members {
		m.lanes.Close()
	}
}

// wait closes the servers, when no inquiry is left.
func (c *cluster) wait() {
	c.mu.Lock()
	members := slices.Collect(maps.Values(c.members))
	c.mu.Unlock()
	for _, m := range members {
		m.server.close()
	}
}
