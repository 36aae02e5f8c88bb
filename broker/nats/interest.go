package nats

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

// interest is what the node is subscribed to. One goroutine changes it, tend, so that the calls of
// nats.go, which may block, hold up nobody whose context ends, and calls that come together share
// one confirmation.
type interest struct {
	wake chan struct{} // capacity 1; ops is not empty

	mu      sync.RWMutex
	subs    map[string]*subscription               // guarded by mu; by wire subject; changed by tend only
	leaving map[*natsio.Subscription]*subscription // guarded by mu; that have ended, and of which messages are on their way
	fences  map[*natsio.Msg][]*op                  // guarded by mu; behind those messages
	ops     []*op                                  // guarded by mu; to be done in this order
	ended   bool                                   // guarded by mu; Run is over
}

type subscription struct {
	subject string      // immutable
	live    atomic.Bool // delivered

	sub  *natsio.Subscription // immutable
	keep bool                 // guarded by interest.mu; somebody who subscribed it has been told so
}

// op is one call of Subscribe or Unsubscribe.
type op struct {
	subjects []string
	remove   bool
	state    atomic.Uint32 // opWaiting, then one of the others
	done     chan error    // capacity 1

	added   []*subscription // guarded by interest.mu; those that it has made live
	removed []*subscription // guarded by interest.mu; those that it has ended
	begun   bool            // guarded by interest.mu; it has ended them
	err     error           // owned by tend
}

const (
	opWaiting   = iota
	opCommitted // its result is on its way
	opAbandoned // the caller has gone
)

func newInterest() *interest {
	return &interest{
		wake:    make(chan struct{}, 1),
		subs:    make(map[string]*subscription),
		leaving: make(map[*natsio.Subscription]*subscription),
		fences:  make(map[*natsio.Msg][]*op),
	}
}

// of returns the subscription that m came for, if its messages are still delivered; nil otherwise.
func (in *interest) of(m *natsio.Msg) *subscription {
	in.mu.RLock()
	defer in.mu.RUnlock()
	s := in.subs[m.Subject]
	if s == nil || s.sub != m.Sub {
		s = in.leaving[m.Sub]
	}
	if s == nil || !s.live.Load() {
		return nil
	}
	return s
}

func (in *interest) lookup(wire string) *subscription {
	in.mu.RLock()
	defer in.mu.RUnlock()
	return in.subs[wire]
}

// put queues an op, and reports false if Run is over.
func (in *interest) put(o *op) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	if in.ended {
		return false
	}
	in.ops = append(in.ops, o)
	select {
	case in.wake <- struct{}{}:
	default:
	}
	return true
}

func (in *interest) take() []*op {
	in.mu.Lock()
	defer in.mu.Unlock()
	ops := in.ops
	in.ops = nil
	return ops
}

// Subscribe implements [broker.Broker]. It waits for Run, and fails with [broker.ErrClosed] after it.
func (b *Broker) Subscribe(ctx context.Context, subjects ...string) []error {
	return broker.Each(len(subjects), b.subscribe(ctx, subjects))
}

func (b *Broker) subscribe(ctx context.Context, subjects []string) error {
	if err := b.ready(ctx); err != nil {
		return err
	}
	for _, s := range subjects {
		if s == "" {
			return errEmptySubject
		}
	}
	select {
	case <-b.started:
	case <-b.closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	return b.change(ctx, &op{subjects: subjects, done: make(chan error, 1)})
}

// Unsubscribe implements [broker.Broker].
func (b *Broker) Unsubscribe(ctx context.Context, subjects ...string) []error {
	return broker.Each(len(subjects), b.unsubscribe(ctx, subjects))
}

func (b *Broker) unsubscribe(ctx context.Context, subjects []string) error {
	o := &op{subjects: subjects, remove: true, done: make(chan error, 1)}
	select {
	case <-b.started:
	default:
		return b.ready(ctx)
	}
	// Also with a context that is done: the server is to be told.
	err := b.change(ctx, o)
	if err != nil {
		b.silenceRemoved(o)
	}
	if errors.Is(err, broker.ErrClosed) && !b.isDone() {
		return nil // Run is over, and so are all subscriptions
	}
	return err
}

// silenceRemoved makes sure that nothing is delivered after an Unsubscribe that returns an error, whether
// tend has got to it or not.
func (b *Broker) silenceRemoved(o *op) {
	b.interest.mu.Lock()
	defer b.interest.mu.Unlock()
	for _, s := range o.removed {
		s.live.Store(false)
	}
	if o.begun {
		return
	}
	for _, subject := range o.subjects {
		wire, _ := b.names.wire(subject)
		if s := b.interest.subs[wire]; s != nil {
			s.live.Store(false)
		}
	}
}

func (b *Broker) ready(ctx context.Context) error {
	if b.isDone() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

// change has an op done and waits for its end.
func (b *Broker) change(ctx context.Context, o *op) error {
	if !b.interest.put(o) {
		return broker.ErrClosed
	}
	var err error
	select {
	case err := <-o.done:
		return err
	case <-ctx.Done():
		err = ctx.Err()
	case <-b.closed:
		err = broker.ErrClosed
	case <-b.stopped:
		err = broker.ErrClosed
	}
	if !o.state.CompareAndSwap(opWaiting, opAbandoned) {
		return <-o.done
	}
	if !o.remove {
		b.silence(o)
	}
	return err
}

// silence makes sure that nothing is delivered for a Subscribe that returns an error before tend has
// taken it back. tend holds the lock while it makes subscriptions live for an op that is not abandoned.
func (b *Broker) silence(o *op) {
	b.interest.mu.Lock()
	defer b.interest.mu.Unlock()
	for _, s := range o.added {
		if !s.keep {
			s.live.Store(false)
		}
	}
}

// leaveTimeout is how long Run waits at its end for the server to confirm that nothing is subscribed.
const leaveTimeout = 500 * time.Millisecond

// endInterest ends every subscription, and every call that waits, at the end of Run. On a connection
// that works it waits for the server, so that whoever publishes after Run hears at once that nobody
// is there.
func (b *Broker) endInterest() {
	in := b.interest
	in.mu.Lock()
	in.ended = true
	subs := in.subs
	in.subs = make(map[string]*subscription)
	ops := in.ops
	in.ops = nil
	in.mu.Unlock()
	for _, o := range ops {
		if o.state.CompareAndSwap(opWaiting, opCommitted) {
			o.done <- broker.ErrClosed
		}
	}
	for _, s := range subs {
		s.live.Store(false)
	}
	if b.owned && b.isDone() && !b.up.Load() {
		return // the connection goes too
	}
	for _, s := range subs {
		_ = s.sub.Unsubscribe() // fails only if the connection is closed
	}
	if e := b.link.current(); b.up.Load() && !e.ended() {
		_ = b.confirmIn(e, time.Now().Add(leaveTimeout), nil) // then the server will find out
	}
}
