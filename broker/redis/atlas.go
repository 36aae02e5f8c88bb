package redis

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
)

const (
	refreshTime = time.Second           // between two looks at who serves what
	doubtTime   = 50 * time.Millisecond // likewise, at least, when there is reason for doubt
	retireTime  = 5 * time.Second       // how long a shard without partitions is kept
	backTime    = 10 * time.Second      // after which answers that are older than the last are believed
)

// view says who serves each partition; nil: nobody.
type view [partitions]*shard

// shard is a master that has partitions, or had some lately.
type shard struct {
	*server
	in   *interest
	addr string // immutable

	span    atomic.Pointer[span]   // nil: it has no partition
	health  atomic.Pointer[health] // of the session; nil: there was none
	session atomic.Pointer[session]

	asker *conn     // owned by the refresh in progress, then by retire; nil: none
	idle  time.Time // guarded by the mu of the atlas; since when it has no partition; zero: it has
}

// span is the lowest and the highest partition of a shard.
type span struct{ first, last int }

// health is nil inside while a session is up.
type health struct{ err error }

// atlas knows which servers there are and what they serve. It asks all of them once a second while the
// broker is used, and at once when one redirects or fails; it believes who has seen the latest epoch.
type atlas struct {
	life  *life
	opts  *goredis.Options // immutable
	o     Options          // immutable
	table *table           // immutable
	seeds []string         // immutable
	poke  func()           // immutable; called after every change
	guide *server          // immutable; to dial what is no shard

	view  atomic.Pointer[view]
	asked atomic.Int64 // when the last refresh began, ns since base
	base  time.Time

	mu     sync.Mutex
	shards map[string]*shard     // guarded by mu; by address
	others []string              // guarded by mu; replicas and all else that was seen
	epoch  int64                 // guarded by mu; of view
	fresh  time.Time             // guarded by mu; when an answer with this epoch, or a later one, came
	hinted [partitions]time.Time // guarded by mu; when a redirection was believed
	asking chan struct{}         // guarded by mu; closed when the refresh in progress is over; nil: none is
	err    error                 // guarded by mu; of the last refresh
}

func newAtlas(l *life, t target, o Options, tab *table, poke func()) *atlas {
	a := &atlas{
		life: l, opts: t.opts, o: o, table: tab, seeds: t.seeds, poke: poke,
		base: time.Now(), shards: make(map[string]*shard),
	}
	a.guide = newServer(l, t.opts, o, tab.wire)
	return a
}

// await returns who serves what, after waiting for the first answer.
func (a *atlas) await(ctx context.Context, patience time.Duration) (*view, error) {
	if v := a.view.Load(); v != nil {
		a.refreshIfDue()
		return v, nil
	}
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-a.refresh():
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-a.life.closed:
		return nil, broker.ErrClosed
	case <-timeout.C:
	}
	if v := a.view.Load(); v != nil {
		return v, nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err == nil {
		return nil, unavailable(errors.New("redis: no answer"))
	}
	return nil, unavailable(a.err)
}

// refreshIfDue starts a refresh if the last one is old.
func (a *atlas) refreshIfDue() { a.refreshAfter(refreshTime) }

// doubt starts a refresh unless one has begun just now.
func (a *atlas) doubt() { a.refreshAfter(doubtTime) }

func (a *atlas) refreshAfter(d time.Duration) {
	if int64(time.Since(a.base))-a.asked.Load() >= int64(d) {
		a.refresh()
	}
}

// refresh asks the servers, unless that is being done. The channel is closed when it is over.
func (a *atlas) refresh() <-chan struct{} {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.asking != nil {
		return a.asking
	}
	done := make(chan struct{})
	a.asked.Store(int64(time.Since(a.base)))
	if !a.life.spawn(func() { // the life waits for it
		a.survey()
		a.mu.Lock()
		a.asking = nil
		a.mu.Unlock()
		close(done)
		a.poke()
	}) {
		close(done)
		return done
	}
	a.asking = done
	return done
}

// survey asks all shards, and if none answers everybody else, and believes the latest epoch.
func (a *atlas) survey() {
	a.mu.Lock()
	var known []*shard
	others := slices.Clone(a.others)
	for _, s := range a.shards {
		known = append(known, s)
	}
	a.mu.Unlock()
	charts := gather(len(known), func(i int) (*chart, error) { return a.askShard(known[i]) })
	best, err := latest(charts)
	if best == nil {
		for _, seed := range a.seeds {
			if !slices.Contains(others, seed) {
				others = append(others, seed)
			}
		}
		best, err = latest(gather(len(others), func(i int) (*chart, error) { return a.askOther(others[i]) }))
	}
	if best == nil {
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
		return
	}
	a.install(best)
}

func (a *atlas) askShard(s *shard) (*chart, error) {
	ctx, cancel := context.WithTimeout(context.Background(), askTime)
	defer cancel()
	if s.asker == nil {
		c, err := s.dialTo(ctx, s.addr)
		if err != nil {
			return nil, err
		}
		c.timeout = askTime
		s.asker = c
	}
	m, err := s.asker.chart()
	if err != nil {
		s.asker.nc.Close()
		s.asker = nil
	}
	return m, err
}

func (a *atlas) askOther(addr string) (*chart, error) {
	ctx, cancel := context.WithTimeout(context.Background(), a.o.DialTimeout)
	defer cancel()
	c, err := a.guide.dialTo(ctx, addr)
	if err != nil {
		return nil, err
	}
	defer c.nc.Close()
	return c.chart()
}

// install makes a chart the view.
func (a *atlas) install(m *chart) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if m.epoch < a.epoch && now.Sub(a.fresh) < backTime {
		return // from a server that is cut off from the others
	}
	a.epoch, a.fresh, a.err, a.others = m.epoch, now, nil, m.all
	var v view
	for p, addr := range m.owner {
		if addr != "" {
			v[p] = a.shardLocked(addr)
		}
	}
	a.showLocked(&v)
	for addr, s := range a.shards { // those that have had no partition for long
		if !s.idle.IsZero() && time.Since(s.idle) > retireTime && s.session.Load() == nil && a.life.spawn(s.retire) {
			delete(a.shards, addr)
		}
	}
}

// shardLocked returns the shard at an address.
func (a *atlas) shardLocked(addr string) *shard {
	if s := a.shards[addr]; s != nil {
		return s
	}
	opts := *a.opts
	opts.Addr = addr
	s := &shard{server: newServer(a.life, &opts, a.o, a.table.wire), in: newInterest(a.table), addr: addr}
	s.moved = a.moved
	s.lease.sharded = true
	s.lease.keys = func() []string {
		at := s.span.Load()
		if at == nil {
			return nil
		}
		keys := []string{a.leaseKey(at.first), a.leaseKey(at.last)}
		return slices.Compact(keys)
	}
	a.shards[addr] = s
	return s
}

// leaseKey is the key of the leases in a partition's slot.
func (a *atlas) leaseKey(p int) string {
	return a.o.Prefix + leaseKey + "{" + partitionTags()[p] + "}"
}

// showLocked makes v the view and tells the table.
func (a *atlas) showLocked(v *view) {
	spans := make(map[*shard]*span)
	owner := make([]*interest, partitions)
	for p, s := range v {
		if s == nil {
			continue
		}
		owner[p] = s.in
		if at := spans[s]; at == nil {
			spans[s] = &span{p, p}
		} else {
			at.last = p
		}
	}
	for _, s := range a.shards {
		if old, at := s.span.Swap(spans[s]), spans[s]; old != nil && at != nil && *old != *at {
			s.lease.beWary()
		}
		if spans[s] != nil {
			s.idle = time.Time{}
		} else if s.idle.IsZero() {
			s.idle = time.Now()
		}
	}
	a.view.Store(v)
	a.table.own(owner)
	a.poke()
}

// retire closes the connections of a shard that has been taken off.
func (s *shard) retire() {
	s.close()
	if s.asker != nil {
		s.asker.nc.Close()
	}
}

// moved believes a redirection, unless the servers have just sent somewhere else: then the partition has
// no owner until they have been asked.
func (a *atlas) moved(r redirection, from string) {
	p := r.slot / (slots / partitions)
	if !r.ask && partitionSlots()[p] == r.slot {
		a.hint(p, r.addr)
	}
	a.doubt()
}

func (a *atlas) hint(p int, addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.view.Load()
	if old == nil || old[p] != nil && old[p].addr == addr {
		return
	}
	v, now := *old, time.Now()
	if now.Sub(a.hinted[p]) < doubtTime {
		v[p] = nil
	} else {
		v[p] = a.shardLocked(addr)
	}
	a.hinted[p] = now
	a.showLocked(&v)
}

// health says why not all partitions are served, and whether that is known.
func (a *atlas) health() (known bool, err error) {
	v := a.view.Load()
	if v == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.err == nil {
			return false, nil
		}
		return true, unavailable(a.err)
	}
	known = true
	for p, s := range v {
		if s == nil {
			return true, unavailable(errUncovered)
		}
		if p > 0 && s == v[p-1] {
			continue
		}
		switch h := s.health.Load(); {
		case h == nil:
			known = false
		case h.err != nil:
			return true, h.err
		}
	}
	return known, nil
}

// closeLanes makes every Publish return.
func (a *atlas) closeLanes() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.shards {
		s.lanes.Close()
	}
}

// close closes the shards, when no refresh is left.
func (a *atlas) close() {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.shards {
		s.close()
	}
}
