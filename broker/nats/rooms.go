package nats

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

// room is one subject that is subscribed.
type room struct {
	subject string      // immutable
	wire    string      // immutable; the subject of the server
	worker  *worker     // immutable; delivers
	live    atomic.Bool // messages are delivered
	heard   atomic.Bool // a question to ourselves has come back

	sub *natsio.Subscription // guarded by rooms.mu; nil while there is none
}

// rooms are the subscriptions of one Run. One goroutine changes them, keep, so that the calls of nats.go,
// which may block, hold up nobody whose context ends.
type rooms struct {
	wake chan struct{} // capacity 1; there are changes

	mu      sync.RWMutex
	byWire  map[string]*room // guarded by mu
	changes []*change        // guarded by mu; to be done in this order
	over    bool             // guarded by mu; Run has ended
}

// change is one call of Subscribe or Unsubscribe.
type change struct {
	subjects []string
	remove   bool
	done     chan struct{} // closed when it is done
	errs     []error       // valid when done is closed

	// Guarded by rooms.mu.
	abandoned bool    // the caller has gone
	decided   bool    // the caller will be told errs
	rooms     []*room // that it has added
}

func newRooms() *rooms {
	return &rooms{wake: make(chan struct{}, 1), byWire: make(map[string]*room)}
}

// of returns the room that m came for, nil if it is not subscribed any more.
func (rs *rooms) of(m *natsio.Msg) *room {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	r := rs.byWire[m.Subject]
	if r == nil || r.sub != nil && r.sub != m.Sub {
		return nil
	}
	return r
}

// all returns every room.
func (rs *rooms) all() []*room {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	all := make([]*room, 0, len(rs.byWire))
	for _, r := range rs.byWire {
		all = append(all, r)
	}
	return all
}

// some returns n rooms by chance, or all if there are fewer.
func (rs *rooms) some(n int) []*room {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	var some []*room
	for _, r := range rs.byWire {
		if len(some) >= n {
			break
		}
		some = append(some, r)
	}
	return some
}

// add adds a room for a change, unless its caller has gone or Run is over. It returns nil then, and the room
// that there is if the subject is subscribed.
func (rs *rooms) add(c *change, r *room) *room {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if known := rs.byWire[r.wire]; known != nil {
		return known
	}
	if c.abandoned || rs.over {
		return nil
	}
	rs.byWire[r.wire] = r
	r.live.Store(true)
	c.rooms = append(c.rooms, r)
	return r
}

// attach says what a room's subscription is.
func (rs *rooms) attach(r *room, sub *natsio.Subscription) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	r.sub = sub
}

func (rs *rooms) isAttached(r *room) bool {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return r.sub != nil
}

// detach takes a room's subscription from it. What has come through it is still the room's.
func (rs *rooms) detach(r *room) *natsio.Subscription {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	sub := r.sub
	r.sub = nil
	return sub
}

// at returns the room of a subject of the server, nil if there is none.
func (rs *rooms) at(wire string) *room {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.byWire[wire]
}

func (rs *rooms) count() int {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return len(rs.byWire)
}

// drop ends rooms: nothing of theirs is delivered any more. It returns their subscriptions, for the server.
func (rs *rooms) drop(gone []*room) (subs []*natsio.Subscription) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	for _, r := range gone {
		r.live.Store(false)
		if rs.byWire[r.wire] == r {
			delete(rs.byWire, r.wire)
		}
		if r.sub != nil {
			subs = append(subs, r.sub)
			r.sub = nil
		}
	}
	return subs
}

// end ends all rooms and all changes, and returns the subscriptions.
func (rs *rooms) end() []*natsio.Subscription {
	all := rs.all()
	rs.mu.Lock()
	rs.over = true
	rs.mu.Unlock()
	return rs.drop(all)
}

func (rs *rooms) take() []*change {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	changes := rs.changes
	rs.changes = nil
	return changes
}

// put queues a change, and reports false if Run is over.
func (rs *rooms) put(c *change) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.over {
		return false
	}
	rs.changes = append(rs.changes, c)
	select {
	case rs.wake <- struct{}{}:
	default:
	}
	return true
}

// Subscribe implements [broker.Broker]. It waits for Run, and fails with [broker.ErrClosed] after it.
func (b *Broker) Subscribe(ctx context.Context, subjects ...string) []error {
	if err := b.ready(ctx); err != nil {
		return broker.Each(len(subjects), err)
	}
	select {
	case <-b.started:
	case <-b.closed:
		return broker.Each(len(subjects), broker.ErrClosed)
	case <-ctx.Done():
		return broker.Each(len(subjects), ctx.Err())
	}
	return b.change(ctx, &change{subjects: subjects, done: make(chan struct{})})
}

// Unsubscribe implements [broker.Broker].
func (b *Broker) Unsubscribe(ctx context.Context, subjects ...string) []error {
	select {
	case <-b.started:
	default:
		return broker.Each(len(subjects), b.ready(ctx))
	}
	// Also with a context that is done: the server is to be told.
	errs := b.change(ctx, &change{subjects: subjects, remove: true, done: make(chan struct{})})
	for i, err := range errs {
		if errors.Is(err, broker.ErrClosed) && !b.isDone() {
			errs[i] = nil // Run is over, and so are all subscriptions
		}
	}
	return errs
}

func (b *Broker) ready(ctx context.Context) error {
	if b.isDone() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

// change has a change done and waits for its end. Run has begun.
func (b *Broker) change(ctx context.Context, c *change) []error {
	rs := b.rooms
	if !rs.put(c) {
		return broker.Each(len(c.subjects), broker.ErrClosed)
	}
	var err error
	select {
	case <-c.done:
		return c.errs
	case <-ctx.Done():
		err = ctx.Err()
	case <-b.closed:
		err = broker.ErrClosed
	case <-b.stopped:
		err = broker.ErrClosed
	}
	if !b.abandon(c) {
		<-c.done // which is about to be closed
		return c.errs
	}
	return broker.Each(len(c.subjects), err)
}

// abandon makes sure that nothing is delivered because of a change whose caller goes, or is delivered still
// in spite of it. It reports false if the change is done.
func (b *Broker) abandon(c *change) bool {
	rs := b.rooms
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if c.decided {
		return false
	}
	c.abandoned = true
	for _, r := range c.rooms {
		r.live.Store(false)
	}
	if c.remove {
		for _, s := range c.subjects {
			if r := rs.byWire[b.names.wire(s)]; r != nil {
				r.live.Store(false)
			}
		}
	}
	return true
}

// decide ends a change, unless its caller has gone: then it returns the rooms that only the caller wanted.
func (rs *rooms) decide(c *change, errs []error) (unwanted []*room) {
	rs.mu.Lock()
	if c.abandoned {
		unwanted = c.rooms
	}
	c.decided, c.errs = true, errs
	rs.mu.Unlock()
	close(c.done)
	return unwanted
}
