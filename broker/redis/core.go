package redis

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"tether/broker"
)

// core is what the brokers of this package have in common: their life, and the calls that wait for Run.
type core struct {
	*life
	o     Options // immutable; with defaults
	table *table

	ran     atomic.Bool   // Run was called
	started chan struct{} // closed when Run begins
	ended   chan struct{} // closed when Run has ended
}

func newCore(o Options, t *table) core {
	return core{life: newLife(), o: o, table: t, started: make(chan struct{}), ended: make(chan struct{})}
}

// ready says why a call that needs Run can not be served, after waiting for Run if wait is set.
func (c *core) ready(ctx context.Context, wait bool) error {
	select {
	case <-c.closed:
		return broker.ErrClosed
	default:
	}
	if err := ctx.Err(); err != nil || !wait {
		return err
	}
	select {
	case <-c.started:
	case <-c.closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	select {
	case <-c.ended:
		return broker.ErrClosed
	default:
		return nil
	}
}

// Subscribe waits through an outage, for [Options.SubscribeTimeout] at most. After Run it fails with
// [broker.ErrClosed].
func (c *core) Subscribe(ctx context.Context, subjects ...string) []error {
	return broker.Each(len(subjects), c.subscribe(ctx, subjects))
}

func (c *core) subscribe(ctx context.Context, subjects []string) error {
	if err := c.ready(ctx, true); err != nil {
		return err
	}
	w, list := c.table.subscribe(subjects)
	err := c.await(ctx, w)
	c.table.finish(list, err)
	return err
}

func (c *core) Unsubscribe(ctx context.Context, subjects ...string) []error {
	return broker.Each(len(subjects), c.unsubscribe(ctx, subjects))
}

func (c *core) unsubscribe(ctx context.Context, subjects []string) error {
	w := c.table.unsubscribe(subjects)
	err := c.ready(ctx, false)
	if err == nil {
		err = c.await(ctx, w)
	}
	if err != nil {
		c.table.silence(w)
	}
	return err
}

func (c *core) await(ctx context.Context, w *waiter) error {
	select {
	case <-w.done:
		return w.err // also if the broker has ended meanwhile
	default:
	}
	timeout := time.NewTimer(c.o.SubscribeTimeout)
	defer timeout.Stop()
	select {
	case <-w.done:
		return w.err
	case <-ctx.Done():
		return ctx.Err()
	case <-c.closed:
		return broker.ErrClosed
	case <-c.ended:
		return broker.ErrClosed
	case <-timeout.C:
		return unavailable(errors.New("no confirmation"))
	}
}

// begin checks that Run may run; the context that it returns ends with the broker, too.
func (c *core) begin(ctx context.Context, h broker.Handler) (context.Context, func(), error) {
	if h.Deliver == nil {
		return nil, nil, errors.New("redis: Run without Deliver")
	}
	ctx, cancel := context.WithCancel(ctx)
	undo, ok := c.register(cancel)
	if !ok {
		cancel()
		return nil, nil, broker.ErrClosed
	}
	end := func() { undo(); cancel() }
	if c.ran.Swap(true) {
		end()
		return nil, nil, errors.New("redis: Run was called before")
	}
	return ctx, end, nil
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
