package redis

import (
	"context"
	"errors"
	"sync"
	"time"

	"tether/broker"
	"tether/broker/internal/dispatch"
)

// cluster is a broker on a Redis Cluster: a subject belongs to a partition, a partition to a slot, a slot
// to a master. Each master that has partitions is a shard, with connections of its own.
type cluster struct {
	core
	atlas *atlas

	changed chan struct{} // capacity 1; wakes Run
}

func newCluster(t target, o Options) *cluster {
	o = o.withDefaults()
	tab := newTable(newShardedWire(o.Prefix))
	c := &cluster{core: newCore(o, tab), changed: make(chan struct{}, 1)}
	tab.keeps, tab.change = true, c.poke
	c.atlas = newAtlas(c.life, t, o, tab, c.poke)
	return c
}

// poke wakes Run.
func (c *cluster) poke() {
	select {
	case c.changed <- struct{}{}:
	default:
	}
}

// ping asks the Cluster who serves what.
func (c *cluster) ping(ctx context.Context) error {
	v, err := c.atlas.await(ctx, c.o.DialTimeout+askTime)
	if err != nil {
		return err
	}
	for _, s := range v {
		if s != nil {
			return nil
		}
	}
	return errUncovered
}

var (
	errUncovered = errors.New("redis: a part of the Cluster's slots is not served")
	errDeposed   = errors.New("redis: the slot has another owner, and the server does not say so")
)

// Publish sends the messages of each shard as the one shard's lanes do, all at the same time.
func (c *cluster) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Reach, error) {
	select {
	case <-c.closed:
		return unknown(len(msgs)), broker.ErrClosed
	default:
	}
	if err := ctx.Err(); err != nil {
		return unknown(len(msgs)), err
	}
	if len(msgs) == 0 {
		return nil, nil
	}
	v, err := c.atlas.await(ctx, c.o.PublishTimeout)
	if err != nil {
		return unknown(len(msgs)), err
	}
	first := v[c.table.wire.partition(msgs[0].Subject)]
	if len(msgs) == 1 {
		return c.publish(ctx, first, msgs)
	}
	return c.publishParts(ctx, v, msgs)
}

func unknown(n int) []broker.Reach {
	reach := make([]broker.Reach, n)
	for i := range reach {
		reach[i].Bound = broker.Unknown
	}
	return reach
}

// part is what one shard gets of a call.
type part struct {
	msgs  []broker.Message
	of    []int // their places in the call
	reach []broker.Reach
	err   error
}

func (c *cluster) publishParts(ctx context.Context, v *view, msgs []broker.Message) ([]broker.Reach, error) {
	parts := make(map[*shard]*part)
	for i, m := range msgs {
		s := v[c.table.wire.partition(m.Subject)]
		p := parts[s]
		if p == nil {
			p = &part{}
			parts[s] = p
		}
		p.msgs, p.of = append(p.msgs, m), append(p.of, i)
	}
	var group sync.WaitGroup
	for s, p := range parts {
		group.Go(func() { p.reach, p.err = c.publish(ctx, s, p.msgs) }) // waited for below
	}
	group.Wait()
	reach := make([]broker.Reach, len(msgs))
	var err error
	for _, p := range parts {
		for k, i := range p.of {
			reach[i] = p.reach[k]
		}
		if err == nil {
			err = p.err
		}
	}
	return reach, err
}

// publish sends messages to one shard, or to none if there is none.
func (c *cluster) publish(ctx context.Context, s *shard, msgs []broker.Message) ([]broker.Reach, error) {
	if s == nil {
		c.atlas.doubt()
		return unknown(len(msgs)), unavailable(errUncovered)
	}
	reach, err := s.lanes.Publish(ctx, msgs...)
	if err == nil {
		return reach, nil
	}
	if errors.Is(err, broker.ErrClosed) {
		select {
		case <-c.closed:
		default: // the shard is closed, not the broker
			err = unavailable(errDeparted)
		}
	}
	if errors.Is(err, broker.ErrUnavailable) {
		c.atlas.doubt()
	}
	return reach, err
}

// errDeparted says that the server that a message was for has left the Cluster.
var errDeparted = errors.New("redis: the server has left the Cluster")

// Run implements [broker.Broker.Run]. Gap and State are called one at a time.
func (c *cluster) Run(ctx context.Context, h broker.Handler) error {
	ctx, end, err := c.begin(ctx, h)
	if err != nil {
		return err
	}
	defer end()
	r := &run{c: c, h: h, workers: dispatch.New(h.Deliver), links: make(map[*shard]*link)}
	close(c.started)
	r.run(ctx)
	r.workers.Close()
	close(c.ended)
	return nil
}

// Close ends everything and waits for what is publishing; Run ends by itself.
func (c *cluster) Close() error {
	if c.close(c.atlas.closeLanes) {
		c.wait()
		c.atlas.close()
	}
	return nil
}

// watchTime is between two looks at what nobody says by himself.
const watchTime = 100 * time.Millisecond

// run is one Run. It belongs to its goroutine.
type run struct {
	c       *cluster
	h       broker.Handler
	workers *dispatch.Dispatcher
	links   map[*shard]*link
	state   state
}

// link is the goroutine that keeps a session with a shard.
type link struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
	odd    time.Time     // since when the shard serves what it does not own; zero: it does not
}

func (r *run) run(ctx context.Context) {
	watch := time.NewTicker(watchTime)
	defer watch.Stop()
	r.c.atlas.refresh()
	for ctx.Err() == nil {
		r.connect(ctx)
		r.tell(false)
		select {
		case <-ctx.Done():
		case <-r.c.changed:
		case <-watch.C:
			r.c.atlas.refreshIfDue()
			r.depose()
			r.tell(true)
		}
	}
	for _, l := range r.links {
		<-l.done
	}
}

// connect sees to a link with every shard that has partitions, and to no other.
func (r *run) connect(ctx context.Context) {
	wanted := make(map[*shard]bool)
	if v := r.c.atlas.place.Load(); v != nil {
		for _, s := range v {
			if s != nil {
				wanted[s] = true
			}
		}
	}
	for s := range wanted {
		if r.links[s] == nil {
			ctx, cancel := context.WithCancel(ctx)
			l := &link{cancel: cancel, done: make(chan struct{})}
			r.links[s] = l
			go func() { // run waits for it, or connect does
				defer close(l.done)
				r.keep(ctx, s)
			}()
		}
	}
	for s, l := range r.links {
		if !wanted[s] && !s.in.lingering() {
			l.cancel()
			<-l.done
			delete(r.links, s)
		}
	}
}

// keep keeps a session with s until ctx is done.
func (r *run) keep(ctx context.Context, s *shard) {
	var (
		old  clientID
		wait backoff
	)
	for ctx.Err() == nil {
		session, err := s.open(ctx, s.in, r.workers, old)
		if err == nil {
			s.session.Store(session)
			_, err = session.serve(ctx, func() {
				wait = backoff{}
				s.health.Store(&health{})
				r.c.poke()
			})
			s.session.Store(nil)
			old = session.c.client
		}
		if ctx.Err() != nil {
			return
		}
		s.fail()
		s.health.Store(&health{unavailable(err)})
		r.c.atlas.doubt()
		r.c.poke()
		wait.sleep(ctx)
	}
}

// depose ends sessions with shards that go on serving what belongs to others: cut off from the rest of
// the Cluster, they do not know that they have been replaced.
func (r *run) depose() {
	for s, l := range r.links {
		switch {
		case !s.in.lingering():
			l.odd = time.Time{}
		case l.odd.IsZero():
			l.odd = time.Now()
		case time.Since(l.odd) > 5*watchTime:
			if session := s.session.Load(); session != nil {
				session.failFrom(errDeposed, r.c.atlas.leftBy(s))
			}
		}
	}
}

// tell tells of the subjects that are back, and of the state. While some are missing it waits for them
// until late is set.
func (r *run) tell(late bool) {
	if missing, back := r.c.table.missed(); back > 0 && (missing == 0 || late) {
		list, _ := r.c.table.takeBack()
		for out, names := range list {
			if r.h.Gap != nil {
				r.h.Gap(broker.Gap{From: out.from, To: time.Now(), Subjects: names, Cause: out.cause})
			}
		}
	}
	known, err := r.c.atlas.health()
	if known {
		r.state.tell(r.h.State, err)
	}
}
