package redis

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/broker/internal/dispatch"
)

// driver is the broker, on any topology.
type driver struct {
	*life
	o        Options // immutable; with defaults
	subs     *subscriptions
	topology topology

	ran     atomic.Bool   // Run was called
	started chan struct{} // closed when Run begins
	ended   chan struct{} // closed when Run has ended
	changed chan struct{} // capacity 1; wakes Run

	logConns chan struct{} // capacity maxLogConns; a token for each connection in use
	idle     idle          // of those
}

func newDriver(t target, o Options) *driver {
	o = o.withDefaults()
	d := &driver{
		life: newLife(), o: o,
		started: make(chan struct{}), ended: make(chan struct{}), changed: make(chan struct{}, 1),
		logConns: make(chan struct{}, maxLogConns),
	}
	names := newChannels(o.Prefix)
	if t.seeds != nil {
		names = newShardedChannels(o.Prefix)
	}
	if o.Log.Age > 0 {
		names.log = newKeeping(o.Log, names)
	}
	d.subs = newSubscriptions(names, d.poke)
	if t.files != nil {
		t.files.Log = o.Logger
	}
	dial := dialer{life: d.life, opts: t.opts, o: o, files: t.files}
	switch {
	case t.seeds != nil:
		d.topology = newCluster(dial, d.subs, t.seeds, d.poke)
	case t.sentinels != nil:
		d.topology = newSentinels(dial, d.subs, t)
	default:
		d.topology = newFixed(dial, d.subs)
	}
	return d
}

// poke wakes Run.
func (d *driver) poke() {
	select {
	case d.changed <- struct{}{}:
	default:
	}
}

// ping tries to connect.
func (d *driver) ping(ctx context.Context) error {
	r, err := d.topology.fresh(ctx)
	if err != nil {
		return err
	}
	err = errUncovered
	for _, s := range r.publish {
		if s == nil {
			continue
		}
		var c *conn
		if c, err = d.topology.dial(ctx, s); err != nil {
			continue
		}
		if k := d.subs.channels.log; k != nil {
			err = k.begin(c)
		}
		c.nc.Close()
		return err
	}
	return err
}

// Publish sends each server its messages, all at the same time.
func (d *driver) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	err := d.ready(ctx, false)
	if err != nil || len(msgs) == 0 {
		return unknown(len(msgs)), err
	}
	r, err := d.topology.fresh(ctx)
	if err != nil {
		return unknown(len(msgs)), err
	}
	if len(msgs) == 1 || len(r.publish) == 1 {
		return d.publishAt(ctx, r.publish[d.subs.channels.partition(msgs[0].Subject)], msgs)
	}
	shares := make(map[*server]*share)
	for i, m := range msgs {
		s := r.publish[d.subs.channels.partition(m.Subject)]
		if shares[s] == nil {
			shares[s] = &share{}
		}
		shares[s].msgs, shares[s].of = append(shares[s].msgs, m), append(shares[s].of, i)
	}
	var group sync.WaitGroup
	for s, p := range shares {
		group.Go(func() { p.receipts, p.err = d.publishAt(ctx, s, p.msgs) }) // waited for below
	}
	group.Wait()
	receipts := make([]broker.Receipt, len(msgs))
	for _, p := range shares {
		for k, i := range p.of {
			receipts[i] = p.receipts[k]
		}
		if err == nil {
			err = p.err
		}
	}
	return receipts, err
}

// share is what one server gets of a Publish.
type share struct {
	msgs     []broker.Message
	of       []int // their places in the call
	receipts []broker.Receipt
	err      error
}

func unknown(n int) []broker.Receipt {
	receipts := make([]broker.Receipt, n)
	for i := range receipts {
		receipts[i].Bound = broker.Unknown
	}
	return receipts
}

// errDeparted says that the server that a message was for has left the Cluster.
var errDeparted = errors.New("redis: the server has left the Cluster")

// publishAt publishes messages at one server, and looks for another if there is none.
func (d *driver) publishAt(ctx context.Context, s *server, msgs []broker.Message) ([]broker.Receipt, error) {
	receipts, err := s.publishAll(ctx, msgs)
	if errors.Is(err, broker.ErrUnavailable) {
		d.topology.recheck()
	}
	return receipts, err
}

// ready says why a call can not be served, after waiting for Run if wait is set.
func (d *driver) ready(ctx context.Context, wait bool) error {
	if d.closing() {
		return broker.ErrClosed
	}
	if err := ctx.Err(); err != nil || !wait {
		return err
	}
	select {
	case <-d.started:
	case <-d.Closing():
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-d.ended:
		return broker.ErrClosed
	default:
		return nil
	}
}

// Subscribe waits for [Options.SubscribeTimeout] at most. After Run it fails with [broker.ErrClosed].
func (d *driver) Subscribe(ctx context.Context, subjects ...string) []error {
	if err := d.ready(ctx, true); err != nil {
		return broker.Each(len(subjects), err)
	}
	return d.finish(ctx, d.subs.begin(true, subjects))
}

func (d *driver) Unsubscribe(ctx context.Context, subjects ...string) []error {
	c := d.subs.begin(false, subjects)
	if err := d.ready(ctx, false); err != nil {
		d.subs.finish(c, err)
		return broker.Each(len(subjects), err)
	}
	return d.finish(ctx, c)
}

// finish waits for a call, and ends it.
func (d *driver) finish(ctx context.Context, c *call) []error {
	errs := d.subs.finish(c, d.await(ctx, c))
	if d.closing() { // what has ended has ended because of that
		return broker.Each(len(c.list), broker.ErrClosed)
	}
	return errs
}

func (d *driver) await(ctx context.Context, c *call) error {
	select {
	case <-c.done:
		return nil // also if the broker has ended meanwhile
	default:
	}
	timeout := time.NewTimer(d.o.SubscribeTimeout)
	defer timeout.Stop()
	select {
	case <-c.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-d.Closing():
		return broker.ErrClosed
	case <-d.ended:
		return broker.ErrClosed
	case <-timeout.C:
		return unavailable(errors.New("no confirmation"))
	}
}

// Run implements [broker.Broker.Run]. Gap, Lost and State are called one at a time.
func (d *driver) Run(ctx context.Context, h broker.Handler) error {
	if h.Deliver == nil {
		return errors.New("redis: Run without Deliver")
	}
	if d.closing() {
		return broker.ErrClosed
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer d.onEnd(cancel)()
	if d.ran.Swap(true) {
		return errors.New("redis: Run was called before")
	}
	r := &run{d: d, h: h, workers: newWorkers(h.Deliver, d.subs.channels.log != nil), links: make(map[*server]*link)}
	close(d.started)
	r.run(ctx)
	r.workers.Close()
	close(d.ended)
	return nil
}

// newWorkers returns what delivers: with a log in one order.
func newWorkers(deliver func(broker.Message), log bool) *dispatch.Dispatcher {
	if log {
		return dispatch.NewOrdered(deliver)
	}
	return dispatch.New(deliver)
}

// Close ends everything and waits for what is publishing; Run ends by itself.
func (d *driver) Close() error {
	if d.life.Close() {
		d.topology.close()
		d.end()
		d.Wait()
		d.topology.wait()
	}
	return nil
}

// backoff grows from 10 to 250 ms, each drawn between a half and the whole.
type backoff struct{ last time.Duration }

func (b *backoff) sleep(ctx context.Context) {
	b.last = min(max(2*b.last, 10*time.Millisecond), 250*time.Millisecond)
	timer := time.NewTimer(b.last/2 + rand.N(b.last/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
