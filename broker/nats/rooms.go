package nats

import (
	"context"
	"errors"
	"fmt"
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

// rooms are the subscriptions of one Run. They are changed by one at a time: Subscribe, Unsubscribe or keep, with
// [Broker.changing]; and ended by Run.
type rooms struct {
	mu     sync.RWMutex
	byWire map[string]*room // guarded by mu
	over   bool             // guarded by mu; Run has ended
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

// at returns the room of a subject of the server, nil if there is none.
func (rs *rooms) at(wire string) *room {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	return rs.byWire[wire]
}

// some returns one of n rooms, by chance, and one more; all if n is 1.
func (rs *rooms) some(n int) []*room {
	rs.mu.RLock()
	defer rs.mu.RUnlock()
	var some []*room
	for _, r := range rs.byWire {
		if len(some) > len(rs.byWire)/n {
			break
		}
		some = append(some, r)
	}
	return some
}

// add adds a room, unless there is one or Run is over. It returns the room that there is then, if any.
func (rs *rooms) add(r *room) *room {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if known := rs.byWire[r.wire]; known != nil || rs.over {
		return known
	}
	rs.byWire[r.wire] = r
	r.live.Store(true)
	return r
}

// attach says what a room's subscription is. It reports false if the room has been dropped.
func (rs *rooms) attach(r *room, sub *natsio.Subscription) bool {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	if rs.byWire[r.wire] != r {
		return false
	}
	r.sub = sub
	return true
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

// end ends all rooms, and returns the subscriptions.
func (rs *rooms) end() []*natsio.Subscription {
	rs.mu.Lock()
	rs.over = true
	rs.mu.Unlock()
	return rs.drop(rs.some(1))
}

// change begins a change of the rooms. It waits for the one before, and for Run; endChange ends it.
func (b *Broker) change(ctx context.Context) error {
	if err := b.doneOr(ctx); err != nil {
		return err
	}
	select {
	case <-b.started:
	case <-b.closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	b.cluster.awaitJoined(ctx, b.link.current())
	select {
	case b.changing <- struct{}{}:
		return nil
	case <-b.closed:
		return broker.ErrClosed
	case <-b.stopped:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}

// doneOr returns why nothing can be done any more, or the context's error.
func (b *Broker) doneOr(ctx context.Context) error {
	if b.isDone() {
		return broker.ErrClosed
	}
	return ctx.Err()
}

func (b *Broker) endChange() { <-b.changing }

// Subscribe implements [broker.Broker]. It waits for Run, and fails with [broker.ErrClosed] after it.
func (b *Broker) Subscribe(ctx context.Context, subjects ...string) []error {
	if err := b.change(ctx); err != nil {
		return broker.Each(len(subjects), err)
	}
	defer b.endChange()
	run, e := b.run.Load(), b.link.current()
	if run == nil {
		return broker.Each(len(subjects), broker.ErrClosed)
	}
	before := b.conn.LastError()
	failed := make(map[string]error) // by wire subject
	wires := make([]string, len(subjects))
	var added []*room
	for i, subject := range subjects {
		wires[i] = b.names.wire(subject)
		if subject == "" {
			failed[wires[i]] = errEmptySubject
			continue
		}
		r := &room{subject: subject, wire: wires[i], worker: run.workers.of(subject)}
		switch known := b.rooms.add(r); {
		case known == nil:
			failed[wires[i]] = broker.ErrClosed
		case known == r:
			added = append(added, r)
		case known.subject != subject:
			failed[wires[i]] = fmt.Errorf("nats: subscribe: %w: two subjects have the same hash", broker.ErrRefused)
		}
	}
	b.drop(b.confirmAdded(ctx, e, added, before, failed))
	if len(failed) == 0 {
		return nil
	}
	errs := make([]error, len(wires))
	for i, wire := range wires {
		errs[i] = failed[wire]
	}
	return errs
}

// confirmAdded subscribes rooms, and returns those that are not subscribed when all servers know of the others,
// with the errors.
func (b *Broker) confirmAdded(ctx context.Context, e epoch, rooms []*room, before error, failed map[string]error) []*room {
	err := b.subscribe(ctx, e, rooms)
	missing := rooms
	refusal := b.refusal(before)
	if err == nil && refusal == nil {
		return nil
	}
	if err == nil {
		missing, err = b.missing(ctx, e, rooms)
	}
	if err == nil {
		err = refused("subscribe", refusal)
	} else {
		err, missing = b.failed(ctx, "subscribe", err), rooms
	}
	for _, r := range missing {
		failed[r.wire] = err
	}
	return missing
}

// subscribe subscribes rooms, and returns when all servers know of it, or have refused them.
func (b *Broker) subscribe(ctx context.Context, e epoch, rooms []*room) error {
	if len(rooms) == 0 {
		return nil
	}
	if !b.link.is(e) {
		return b.link.why()
	}
	if b.cluster.joined.Load() != e.n {
		return errConnecting
	}
	for i, r := range rooms {
		if err := b.attach(r); err != nil {
			return err
		}
		if (i+1)%maxUnconfirmed == 0 {
			if err := b.flush(ctx, e); err != nil {
				return err
			}
		}
	}
	if err := b.flushAndRead(ctx, e); err != nil {
		return err
	}
	if err := b.cluster.confirm(ctx, e, serverPatience); err != nil {
		return err
	}
	select {
	case <-b.stopped:
		return broker.ErrClosed
	default:
		return nil
	}
}

// Unsubscribe implements [broker.Broker]. The server is told also with a context that is done.
func (b *Broker) Unsubscribe(ctx context.Context, subjects ...string) []error {
	var gone []*room
	for _, subject := range subjects {
		if r := b.rooms.at(b.names.wire(subject)); r != nil {
			gone = append(gone, r)
		}
	}
	err := b.unsubscribe(ctx, gone)
	b.drop(gone)
	switch {
	case errors.Is(err, broker.ErrClosed) && !b.isDone():
		return nil // Run is over, and so are all subscriptions
	case err != nil:
		err = b.failed(ctx, "unsubscribe", err)
	}
	return broker.Each(len(subjects), err)
}

// unsubscribe returns when all servers know that rooms are not subscribed, and what they had sent before is
// delivered.
func (b *Broker) unsubscribe(ctx context.Context, gone []*room) error {
	if len(gone) == 0 || b.isDone() {
		return b.doneOr(ctx)
	}
	if err := b.change(ctx); err != nil {
		return err
	}
	defer b.endChange()
	e, r := b.link.current(), b.run.Load()
	if r == nil {
		return broker.ErrClosed
	}
	for _, room := range gone {
		if sub := b.rooms.detach(room); sub != nil {
			_ = sub.Unsubscribe() // fails only if the connection is closed
		}
	}
	if err := b.flushAndRead(ctx, e); err != nil {
		return err
	}
	if err := b.cluster.confirm(ctx, e, serverPatience); err != nil {
		return err
	}
	delivered := make(chan struct{})
	r.workers.after(func() { close(delivered) })
	select {
	case <-delivered:
		return nil
	case <-r.done:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
}
