package redis

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	goredis "github.com/redis/go-redis/v9"

	"tether/broker"
	"tether/broker/internal/dispatch"
	"tether/broker/internal/lane"
)

// driver is a broker.
type driver struct {
	opts *goredis.Options // immutable
	o    Options          // immutable; with defaults

	lanes      *lane.Lanes
	publishers []publisher // by lane
	failures   atomic.Int64
	lease      lease
	interest   *interest

	started chan struct{} // closed when Run begins
	ended   chan struct{} // closed when Run has ended
	closed  chan struct{} // closed by Close

	mu       sync.Mutex
	running  bool           // guarded by mu; Run was called
	isClosed bool           // guarded by mu
	next     int            // guarded by mu; key of release
	release  map[int]func() // guarded by mu; what Close ends
}

func newDriver(opts *goredis.Options, o Options) *driver {
	o = o.withDefaults()
	d := &driver{
		opts:       opts,
		o:          o,
		publishers: make([]publisher, o.Lanes),
		lease:      lease{log: o.Logger, base: time.Now()},
		interest:   newInterest(),
		started:    make(chan struct{}),
		ended:      make(chan struct{}),
		closed:     make(chan struct{}),
		release:    make(map[int]func()),
	}
	d.lanes = lane.New(lane.Options{Lanes: o.Lanes, Timeout: o.PublishTimeout, Check: d.check, Send: d.send})
	return d
}

// register leaves f to Close. The function that it returns takes f back. False: Close was called.
func (d *driver) register(f func()) (undo func(), ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.isClosed {
		return nil, false
	}
	key := d.next
	d.next++
	d.release[key] = f
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.release, key)
	}, true
}

// ping asks the server for an answer.
func (d *driver) ping(ctx context.Context) error {
	c, err := d.dial(ctx)
	if err != nil {
		return err
	}
	defer c.nc.Close()
	v, err := c.do("PING")
	if err != nil {
		return err
	}
	if refused, ok := v.(serverError); ok {
		return refused
	}
	return nil
}

func (d *driver) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Reach, error) {
	return d.lanes.Publish(ctx, msgs...)
}

// ready says why a call that needs Run can not be served, after waiting for Run if wait is set.
func (d *driver) ready(ctx context.Context, wait bool) error {
	select {
	case <-d.closed:
		return broker.ErrClosed
	default:
	}
	if err := ctx.Err(); err != nil || !wait {
		return err
	}
	select {
	case <-d.started:
	case <-d.closed:
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

// Subscribe waits through an outage, for [Options.SubscribeTimeout] at most. After Run it fails with
// [broker.ErrClosed].
func (d *driver) Subscribe(ctx context.Context, subjects ...string) error {
	if err := d.ready(ctx, true); err != nil {
		return err
	}
	w, list := d.interest.subscribe(subjects)
	err := d.await(ctx, w)
	d.interest.finish(list, err)
	return err
}

func (d *driver) Unsubscribe(ctx context.Context, subjects ...string) error {
	w := d.interest.unsubscribe(subjects)
	if err := d.ready(ctx, false); err != nil {
		return err
	}
	return d.await(ctx, w)
}

func (d *driver) await(ctx context.Context, w *waiter) error {
	select {
	case <-w.done:
		return w.err // also if the broker has ended meanwhile
	default:
	}
	timeout := time.NewTimer(d.o.SubscribeTimeout)
	defer timeout.Stop()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	case <-d.closed:
		return broker.ErrClosed
	case <-d.ended:
		return broker.ErrClosed
	case <-timeout.C:
		return unavailable(errors.New("no confirmation"))
	}
}

// Run implements [broker.Broker.Run]. Gap and State are called one at a time.
func (d *driver) Run(ctx context.Context, h broker.Handler) error {
	if h.Deliver == nil {
		return errors.New("redis: Run without Deliver")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	undo, ok := d.register(cancel)
	if !ok {
		return broker.ErrClosed
	}
	defer undo()
	d.mu.Lock()
	again := d.running
	d.running = true
	d.mu.Unlock()
	if again {
		return errors.New("redis: Run was called before")
	}

	workers := dispatch.New(h.Deliver)
	close(d.started)
	d.run(ctx, h, workers)
	workers.Close()
	close(d.ended)
	return nil
}

// run keeps a session until ctx is done.
func (d *driver) run(ctx context.Context, h broker.Handler, workers *dispatch.Dispatcher) {
	var (
		state state
		since time.Time // messages may be missing from here on; zero: no session was up yet
		cause error
		old   clientID
		wait  backoff
	)
	for ctx.Err() == nil {
		s, err := d.open(ctx, workers, old)
		if err == nil {
			wasUp, from := false, time.Time{}
			err, from = s.serve(ctx, func() {
				wasUp = true
				wait = backoff{}
				if !since.IsZero() && h.Gap != nil {
					h.Gap(broker.Gap{From: since, To: time.Now(), Cause: cause})
				}
				state.tell(h.State, nil)
			})
			old = s.c.client
			if wasUp {
				since, cause = from, unavailable(err)
			}
		}
		if ctx.Err() != nil {
			return
		}
		d.failures.Add(1)
		state.tell(h.State, unavailable(err))
		wait.sleep(ctx)
	}
}

// state tells changes only.
type state struct{ last *bool }

func (s *state) tell(f func(error), err error) {
	up := err == nil
	if s.last != nil && *s.last == up {
		return
	}
	s.last = &up
	if f != nil {
		f(err)
	}
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

// Close ends everything and waits for what is publishing; Run ends by itself.
func (d *driver) Close() error {
	d.mu.Lock()
	if d.isClosed {
		d.mu.Unlock()
		return nil
	}
	d.isClosed = true
	close(d.closed)
	var end []func()
	for _, f := range d.release {
		end = append(end, f)
	}
	d.mu.Unlock()
	d.lanes.Close()
	for _, f := range end {
		f()
	}
	d.lanes.Wait()
	for i := range d.publishers {
		if p := &d.publishers[i]; p.c != nil {
			d.discard(p)
		}
	}
	return nil
}
