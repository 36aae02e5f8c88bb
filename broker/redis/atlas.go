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
	staleTime   = 3 * refreshTime / 2   // after which Publish waits for a look
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

	view  atomic.Pointer[view] // where messages are published
	place atomic.Pointer[view] // where subjects are subscribed
	asked atomic.Int64         // when the last refresh began, ns since base
	base  time.Time
	trust trust

	mu     sync.Mutex
	shards map[string]*shard         // guarded by mu; by address
	others []string                  // guarded by mu; replicas and all else that was seen
	epoch  int64                     // guarded by mu; of view
	fresh  time.Time                 // guarded by mu; when an answer with this epoch, or a later one, came
	hinted [partitions]time.Time     // guarded by mu; when a redirection was believed
	losses [partitions]time.Duration // guarded by mu; when the owner said that it is none any more
	asking chan struct{}             // guarded by mu; closed when the refresh in progress is over; nil: none is
	again  bool                      // guarded by mu; there is to be one more
	err    error                     // guarded by mu; of the last refresh
}

func newAtlas(l *life, t target, o Options, tab *table, poke func()) *atlas {
	a := &atlas{
		life: l, opts: t.opts, o: o, table: tab, seeds: t.seeds, poke: poke,
		base: time.Now(), shards: make(map[string]*shard),
	}
	a.trust.clock = a.clock
	a.guide = newServer(l, t.opts, o, tab.wire)
	return a
}

// clock is the time since base.
func (a *atlas) clock() time.Duration { return time.Since(a.base) }

// await returns who serves what, after waiting for the first answer, and after a pause for a new one: what
// is no longer known to be true would make receipts uncertain.
func (a *atlas) await(ctx context.Context, patience time.Duration) (*view, error) {
	if v := a.view.Load(); v != nil {
		if a.clock()-time.Duration(a.asked.Load()) < staleTime {
			a.refreshIfDue()
			return v, nil
		}
		patience = min(patience, askTime)
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

// install makes a chart the view. said is what each shard says itself, since begin.
func (a *atlas) install(m *chart, said map[*shard]*chart, begin time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := time.Now()
	if m.epoch < a.epoch && now.Sub(a.fresh) < backTime {
		return // from a server that is cut off from the others
	}
	a.epoch, a.fresh, a.err, a.others = m.epoch, now, nil, m.all
	var was, where view
	if v := a.view.Load(); v != nil {
		was, where = *v, *a.place.Load()
	}
	var v, place view
	any := false
	for p := range v {
		o := opinionOf(p, m, said, a.shardLocked)
		age := a.trust.dispute(p, o)
		any = any || age > 0
		v[p] = o.decide(was[p], age < yieldTime)
		place[p] = o.decide(where[p], age < yieldTime+staleTime)
		if a.losses[p] >= begin {
			place[p] = where[p] // the servers may have been asked before
		}
		if v[p] != nil && v[p] == place[p] && o.agreed(v[p]) {
			a.trust.agree(p, begin)
		}
	}
	a.trust.disputed.Store(any)
	a.showLocked(&v, &place)
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
	s := &shard{server: newServer(a.life, &opts, a.o, a.table.wire), in: newInterest(a.table), addr: addr, idle: time.Now()}
	s.moved, s.certain, s.proof = a.moved, a.trust.certain, a.appendProof
	s.doubt = func(part uint8) { a.trust.doubt(int(part)) }
	s.lost = func(part uint8) { a.lost(s, int(part)) }
	s.left = func(part uint8) time.Time { return a.base.Add(a.trust.left(int(part))) }
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

// appendProof appends a command about a key in the slot of a subject.
func (a *atlas) appendProof(dst []byte, subject string) []byte {
	return appendCommand(dst, "ZSCORE", a.leaseKey(int(a.table.wire.partition(subject))), "")
}

// leaseKey is the key of the leases in a partition's slot.
func (a *atlas) leaseKey(p int) string {
	return a.o.Prefix + leaseKey + "{" + partitionTags()[p] + "}"
}

// showLocked makes v the view, and place where subjects go, and tells the table.
func (a *atlas) showLocked(v, place *view) {
	spans := make(map[*shard]*span)
	owner := make([]*interest, partitions)
	old, where := a.view.Load(), a.place.Load()
	for p := range v {
		if old != nil && (old[p] != v[p] || where[p] != place[p]) {
			a.trust.change(p)
		}
		s := place[p]
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
		if spans[s] != nil || slices.Contains(v[:], s) {
			s.idle = time.Time{}
		} else if s.idle.IsZero() {
			s.idle = time.Now()
		}
	}
	a.place.Store(place) // first, so that whoever finds a view finds a place
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
	a.trust.doubt(p)
	if !r.ask && partitionSlots()[p] == r.slot {
		a.hint(p, r.addr)
	}
	a.doubt()
}

// lost takes the partition from a server that has ended a subscription by itself. It is not asked to take
// it back, which it would do as a replica of the new owner, but the servers are asked who that is.
func (a *atlas) lost(s *shard, p int) {
	a.trust.doubt(p)
	a.mu.Lock()
	if a.asking != nil {
		a.again = true
	}
	if v := a.view.Load(); v != nil && a.place.Load()[p] == s {
		a.losses[p] = a.clock()
		place := *a.place.Load()
		place[p] = nil
		a.showLocked(v, &place)
	}
	a.mu.Unlock()
	a.refresh()
}

func (a *atlas) hint(p int, addr string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old := a.view.Load()
	if old == nil {
		return
	}
	v, place, now := *old, *a.place.Load(), time.Now()
	if v[p] != nil && v[p].addr == addr && place[p] == v[p] {
		return
	}
	if now.Sub(a.hinted[p]) < doubtTime {
		v[p] = nil
	} else {
		v[p] = a.shardLocked(addr)
	}
	place[p] = v[p]
	a.hinted[p] = now
	a.showLocked(&v, &place)
}

// leftBy is since when messages may have been published elsewhere that s once had.
func (a *atlas) leftBy(s *shard) time.Time {
	first := a.clock()
	place := a.place.Load()
	for p := range place {
		if place[p] != s {
			first = min(first, a.trust.left(p))
		}
	}
	return a.base.Add(first)
}

// health says why not all partitions are served, and whether that is known.
func (a *atlas) health() (known bool, err error) {
	v, place := a.view.Load(), a.place.Load()
	if v == nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if a.err == nil {
			return false, nil
		}
		return true, unavailable(a.err)
	}
	known = true
	for p, s := range place {
		if v[p] == nil {
			return true, unavailable(errUncovered)
		}
		if s == nil || p > 0 && s == place[p-1] {
			continue // on its way from one server to another, or looked at already
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
