package nats

import (
	"context"
	"errors"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

const (
	auditTick       = time.Second
	certificateTick = time.Minute
	auditCycle      = 300                    // ticks in which about every room is asked for
	retryJoin       = 50 * time.Millisecond  // after a connection could not be made use of
	retryLog        = 250 * time.Millisecond // after the log could not be used
	retryDenied     = time.Second            // after the server has refused one of our own subscriptions

	// maxUnconfirmed is how many subjects are subscribed before the server has to confirm them: that may
	// take it no longer than the timeout.
	maxUnconfirmed = 4096
)

// keep owns our own subscriptions, makes each new connection ready, and looks whether the rooms are still
// subscribed, until Close.
func (b *Broker) keep() {
	tick := time.NewTicker(auditTick)
	defer tick.Stop()
	var suspect <-chan struct{}
	if b.kept != nil {
		suspect = b.kept.suspect
	}
	var retry <-chan time.Time
	var looked time.Time // at our certificate
	for {
		e, renewed := b.link.watch()
		if retry == nil && !e.ended() && b.cluster.joined.Load() != e.n {
			if b.alone(func() error { return b.makeReady(e) }) != nil {
				retry = time.After(retryJoin)
				if b.kept.reason() != nil {
					retry = time.After(retryLog)
				}
			}
		}
		select {
		case <-b.refusals.wake:
			if b.alone(b.recheck) != nil {
				retry = time.After(retryDenied)
			}
		case <-suspect:
			_ = b.lookAtLog() // what is wrong has makeReady be called
		case now := <-tick.C:
			_ = b.alone(b.audit) // it is done again
			if b.kept != nil {
				_ = b.lookAtLog()
			}
			b.refusals.signal()
			if b.files != nil && now.Sub(looked) > certificateTick {
				looked = now
				b.files.Watch()
			}
		case <-retry:
			retry = nil
		case <-renewed:
			retry = nil
		case <-b.closed:
			return
		}
	}
}

// alone calls f while nobody changes the rooms.
func (b *Broker) alone(f func() error) error {
	select {
	case b.changing <- struct{}{}:
	case <-b.closed:
		return broker.ErrClosed
	}
	defer b.endChange()
	return f()
}

// makeReady makes a new connection ready: nats.go has subscribed everything anew, and the server may have
// refused some of it. Only when it is known what, and told, has the broker joined.
func (b *Broker) makeReady(e epoch) error {
	if b.kept != nil && b.kept.of(e) == nil {
		if err := b.kept.prepare(context.Background(), e); err != nil {
			return err
		}
	}
	if err := b.listen(); err != nil {
		return err
	}
	if err := b.flushAndRead(context.Background(), e); err != nil {
		return err
	}
	if err := b.refusal(nil); err != nil {
		b.incomplete = err
	}
	if b.incomplete != nil && !errors.Is(b.incomplete, natsio.ErrPermissionViolation) {
		b.unsubscribeAll()
		if err := b.listen(); err != nil {
			return err
		}
	}
	if err := b.cluster.join(e); err != nil {
		return err
	}
	if b.incomplete != nil {
		if err := b.restore(e, b.incomplete); err != nil {
			return err
		}
		b.incomplete = nil
	}
	b.cluster.enter(e)
	return nil
}

// listen subscribes to the inbox, once.
func (b *Broker) listen() error {
	if b.own != nil {
		return nil
	}
	own, err := b.conn.ChanSubscribe(b.inbox+">", b.in)
	if err != nil {
		return err
	}
	b.own = own
	select {
	case <-b.listening:
	default:
		close(b.listening)
	}
	return nil
}

// leave ends our own subscriptions: makeReady makes them anew.
func (b *Broker) leave() {
	if b.own != nil {
		_ = b.own.Unsubscribe() // fails only if the connection is closed
		b.own = nil
	}
	b.cluster.unsubscribe()
}

// unsubscribeAll ends all subscriptions, but forgets no room. nats.go subscribes in any order, so that where
// there is no place for all it may be one of our own that has none.
func (b *Broker) unsubscribeAll() {
	b.leave()
	for _, r := range b.rooms.some(1) {
		if sub := b.rooms.detach(r); sub != nil {
			_ = sub.Unsubscribe() // fails only if the connection is closed
		}
	}
}

// restore subscribes the rooms that are not, tells of those that the server refuses, and returns when all
// servers know of the others.
func (b *Broker) restore(e epoch, cause error) error {
	for rest := b.rooms.some(1); len(rest) > 0; {
		some := rest[:min(len(rest), maxUnconfirmed)]
		rest = rest[len(some):]
		for _, r := range some {
			if err := b.attach(r); err != nil {
				return err
			}
		}
		missing, err := b.missing(context.Background(), e, some)
		if err != nil {
			return err
		}
		b.lose(missing, cause)
	}
	return b.cluster.confirm(context.Background(), e, joinPatience)
}

// attach subscribes a room, unless it is.
func (b *Broker) attach(r *room) error {
	if b.rooms.isAttached(r) {
		return nil
	}
	sub, err := b.conn.ChanSubscribe(r.wire, b.in)
	if err == nil && !b.rooms.attach(r, sub) {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
	return err
}

// flush returns when the server has taken what was sent in epoch e. If the connection is replaced meanwhile
// nats.go subscribes everything anew, but may have been refused.
func (b *Broker) flush(ctx context.Context, e epoch) error {
	timed, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	err := b.conn.FlushWithContext(timed)
	switch {
	case b.isDone():
		return broker.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	case timed.Err() != nil:
		return errSilent
	case !b.link.is(e):
		return errReplaced
	}
	return err
}

// flushAndRead also waits until all has been read that the server had sent before.
func (b *Broker) flushAndRead(ctx context.Context, e epoch) error {
	if err := b.flush(ctx, e); err != nil {
		return err
	}
	select {
	case b.in <- b.fence:
	case <-b.gone:
		return broker.ErrClosed
	}
	select {
	case <-b.fenced:
		return nil
	case <-b.gone:
		return broker.ErrClosed
	}
}

// missing returns those of rooms that are not subscribed: a question to ourselves does not come back. The
// server sends us everything in order, so it would be ahead of the answer to flush. Others that are
// subscribed hear the question, and do nothing.
func (b *Broker) missing(ctx context.Context, e epoch, rooms []*room) ([]*room, error) {
	dropped := b.dropped.Load()
	for _, r := range rooms {
		r.heard.Store(false)
		if err := b.conn.PublishRequest(r.wire, b.question, nil); err != nil {
			return nil, err
		}
	}
	if err := b.flushAndRead(ctx, e); err != nil {
		return nil, err
	}
	if b.dropped.Load() != dropped {
		return nil, errOverflow // a question may be among what nats.go has dropped
	}
	var missing []*room
	for _, r := range rooms {
		if !r.heard.Load() && !b.refusals.isSilent(r.wire) {
			missing = append(missing, r)
		}
	}
	return missing, nil
}

// lose tells of rooms that the server has ended.
func (b *Broker) lose(rooms []*room, cause error) {
	if len(rooms) == 0 {
		return
	}
	g := broker.Gap{Cause: refused("subscription", cause)}
	for _, r := range rooms {
		g.Subjects = append(g.Subjects, r.subject)
	}
	b.drop(rooms)
	if r := b.run.Load(); r != nil {
		r.lose(g)
	}
}

// drop ends rooms on both sides.
func (b *Broker) drop(rooms []*room) {
	for _, sub := range b.rooms.drop(rooms) {
		_ = sub.Unsubscribe() // fails only if the connection is closed
	}
}

// audit asks for some rooms, so that a subscription is missed that has ended without a word.
func (b *Broker) audit() error {
	e := b.link.current()
	rooms := b.rooms.some(auditCycle)
	if len(rooms) == 0 || b.cluster.joined.Load() != e.n {
		return nil
	}
	missing, err := b.missing(context.Background(), e, rooms)
	if err == nil {
		b.lose(missing, errEnded)
	}
	return err
}

var errEnded = errors.New("the server has ended the subscription")

// recheck looks at what the server has said that it refuses. It returns an error if our own subscriptions have to
// be made anew, which makeReady does.
func (b *Broker) recheck() error {
	suspects, control := b.refusals.take()
	e := b.link.current()
	var cause error
	var rooms []*room
	for wire, err := range suspects {
		if r := b.rooms.at(wire); r != nil {
			rooms, cause = append(rooms, r), err
		}
	}
	if missing, err := b.missing(context.Background(), e, rooms); err == nil {
		b.lose(missing, cause)
	} else {
		b.refusals.again(suspects) // with the next tick
	}
	if control == nil {
		return nil
	}
	b.log.Warn("nats: the server refuses what the driver needs: a user must be allowed to publish and to subscribe to all subjects "+
		"that begin with the prefix, and to the inboxes", "error", control)
	b.leave()
	b.cluster.joined.Store(0)
	return control
}
