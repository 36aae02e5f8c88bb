package nats

import (
	"errors"
	"fmt"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

const (
	auditTick       = time.Second
	certificateTick = time.Minute
	auditCycle      = 300                   // ticks in which about every room is asked for
	retryJoin       = 50 * time.Millisecond // after a connection could not be made use of
	retryDenied     = time.Second           // after the server has refused one of our own subscriptions

	// maxUnconfirmed is how many subjects are subscribed before the server has to confirm them: that may
	// take it no longer than the timeout.
	maxUnconfirmed = 4096
)

// keep owns all subscriptions: our own and those of the rooms. It makes each new connection ready, does what
// Subscribe and Unsubscribe ask for, and looks whether the rooms are still subscribed, until Close.
func (b *Broker) keep() {
	tick := time.NewTicker(auditTick)
	defer tick.Stop()
	var retry <-chan time.Time
	var looked time.Time // at our certificate
	for {
		e, renewed := b.link.watch()
		if retry == nil && !e.ended() && b.cluster.joined.Load() != e.n {
			if b.makeReady(e) != nil {
				retry = time.After(retryJoin)
			}
		}
		select {
		case <-b.rooms.wake:
			for _, c := range b.rooms.take() {
				b.do(c)
			}
		case <-b.refusals.wake:
			if b.recheck() {
				retry = time.After(retryDenied)
			}
		case now := <-tick.C:
			b.audit()
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

// makeReady makes a new connection ready: nats.go has subscribed everything anew, and the server may have
// refused some of it. Only when it is known what, and told, has the broker joined.
func (b *Broker) makeReady(e epoch) error {
	if err := b.listen(); err != nil {
		return err
	}
	if err := b.flush(e); err != nil {
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
	for _, r := range b.rooms.all() {
		if sub := b.rooms.detach(r); sub != nil {
			_ = sub.Unsubscribe() // fails only if the connection is closed
		}
	}
}

// restore subscribes the rooms that are not, tells of those that the server refuses, and returns when all
// servers know of the others.
func (b *Broker) restore(e epoch, cause error) error {
	for rest := b.rooms.all(); len(rest) > 0; {
		some := rest[:min(len(rest), maxUnconfirmed)]
		rest = rest[len(some):]
		for _, r := range some {
			if err := b.attach(r); err != nil {
				return err
			}
		}
		missing, err := b.missing(e, some)
		if err != nil {
			return err
		}
		b.lose(missing, cause)
	}
	return b.cluster.confirm(e, joinPatience, time.Now().Add(timeout))
}

// attach subscribes a room, unless it is.
func (b *Broker) attach(r *room) error {
	if b.rooms.isAttached(r) {
		return nil
	}
	sub, err := b.conn.ChanSubscribe(r.wire, b.in)
	if err == nil {
		b.rooms.attach(r, sub)
	}
	return err
}

// flush returns when the server has taken what was sent in epoch e, and read all that it sent before it said
// so. If the connection is replaced meanwhile nats.go subscribes everything anew, but may have been refused.
func (b *Broker) flush(e epoch) error {
	switch err := b.conn.FlushTimeout(timeout); {
	case b.isDone():
		return broker.ErrClosed
	case errors.Is(err, natsio.ErrTimeout):
		return errSilent
	case err != nil:
		return err
	case !b.link.is(e):
		return errReplaced
	}
	b.in <- b.fence
	<-b.fenced
	return nil
}

// missing returns those of rooms that are not subscribed: a question to ourselves does not come back. The
// server sends us everything in order, so it would be ahead of the answer to flush. Others that are
// subscribed hear the question, and do nothing.
func (b *Broker) missing(e epoch, rooms []*room) ([]*room, error) {
	dropped := b.dropped.Load()
	for _, r := range rooms {
		r.heard.Store(false)
		if err := b.conn.PublishRequest(r.wire, b.question, nil); err != nil {
			return nil, err
		}
	}
	if err := b.flush(e); err != nil {
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
func (b *Broker) audit() {
	e := b.link.current()
	rooms := b.rooms.some(b.rooms.count()/auditCycle + 1)
	if len(rooms) == 0 || b.cluster.joined.Load() != e.n {
		return
	}
	if missing, err := b.missing(e, rooms); err == nil {
		b.lose(missing, errEnded)
	}
}

var errEnded = errors.New("the server has ended the subscription")

// recheck looks at what the server has said that it refuses. It reports whether our own subscriptions have to
// be made anew, which makeReady does.
func (b *Broker) recheck() (again bool) {
	suspects, control := b.refusals.take()
	e := b.link.current()
	var cause error
	var rooms []*room
	for wire, err := range suspects {
		if r := b.rooms.at(wire); r != nil {
			rooms, cause = append(rooms, r), err
		}
	}
	if missing, err := b.missing(e, rooms); err == nil {
		b.lose(missing, cause)
	} else {
		b.refusals.again(suspects) // with the next tick
	}
	if control == nil {
		return false
	}
	b.log.Warn("nats: the server refuses what the driver needs: a user must be allowed to publish and to subscribe to all subjects "+
		"that begin with the prefix, and to the inboxes", "error", control)
	b.leave()
	b.cluster.joined.Store(0)
	return true
}

// do does one change.
func (b *Broker) do(c *change) {
	if c.remove {
		b.remove(c)
	} else {
		b.add(c)
	}
}

// add subscribes.
func (b *Broker) add(c *change) {
	run, e := b.run.Load(), b.link.current()
	if run == nil {
		b.rooms.decide(c, broker.Each(len(c.subjects), broker.ErrClosed))
		return
	}
	before := b.conn.LastError()
	failed := make(map[string]error) // by wire subject
	wires := make([]string, len(c.subjects))
	var added []*room
	for i, subject := range c.subjects {
		wires[i] = b.names.wire(subject)
		if subject == "" {
			failed[wires[i]] = errEmptySubject
			continue
		}
		r := &room{subject: subject, wire: wires[i], worker: run.workers.of(subject)}
		switch known := b.rooms.add(c, r); {
		case known == r:
			added = append(added, r)
		case known != nil && known.subject != subject:
			failed[wires[i]] = fmt.Errorf("nats: subscribe: %w: two subjects have the same hash", broker.ErrRefused)
		}
	}
	err := b.confirmAdded(e, added)
	var missing []*room
	if refusal := b.refusal(before); err == nil && refusal != nil {
		if missing, err = b.missing(e, added); err == nil {
			for _, r := range missing {
				failed[r.wire] = refused("subscribe", refusal)
			}
		}
	}
	if err != nil {
		missing = added
		for _, r := range added {
			failed[r.wire] = b.failed("subscribe", err)
		}
	}
	b.drop(missing)
	var errs []error
	if len(failed) > 0 {
		errs = make([]error, len(wires))
		for i, wire := range wires {
			errs[i] = failed[wire]
		}
	}
	b.drop(b.rooms.decide(c, errs))
}

// confirmAdded subscribes rooms, and returns when all servers know of it, or have refused them.
func (b *Broker) confirmAdded(e epoch, rooms []*room) error {
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
			if err := b.flush(e); err != nil {
				return err
			}
		}
	}
	if err := b.flush(e); err != nil {
		return err
	}
	return b.cluster.confirm(e, serverPatience, time.Now().Add(timeout))
}

// remove unsubscribes. It does not wait for what is still to be delivered, which ends the change.
func (b *Broker) remove(c *change) {
	e := b.link.current()
	var gone []*room
	for _, subject := range c.subjects {
		if r := b.rooms.at(b.names.wire(subject)); r != nil {
			gone = append(gone, r)
		}
	}
	if len(gone) == 0 {
		b.rooms.decide(c, nil)
		return
	}
	for _, r := range gone {
		if sub := b.rooms.detach(r); sub != nil {
			_ = sub.Unsubscribe() // fails only if the connection is closed
		}
	}
	err := b.flush(e)
	if err == nil {
		err = b.cluster.confirm(e, serverPatience, time.Now().Add(timeout))
	}
	r := b.run.Load()
	if err != nil {
		b.drop(gone)
		b.rooms.decide(c, broker.Each(len(c.subjects), b.failed("unsubscribe", err)))
		return
	}
	if r == nil {
		b.rooms.decide(c, nil)
		return
	}
	r.workers.after(func() {
		b.drop(gone) // they have no subscription any more
		b.rooms.decide(c, nil)
	})
}
