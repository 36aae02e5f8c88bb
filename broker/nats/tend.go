package nats

import (
	"errors"
	"fmt"
	"strings"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
)

// tend does what Subscribe and Unsubscribe ask for until done is closed. in is where messages go.
func (b *Broker) tend(in chan *natsio.Msg, done <-chan struct{}) {
	for {
		select {
		case <-b.interest.wake:
			b.apply(b.interest.take(), in)
		case <-done:
			return
		}
	}
}

// apply does a group of ops and answers them.
func (b *Broker) apply(ops []*op, in chan *natsio.Msg) {
	before := b.conn.LastError()
	changed := false
	for _, o := range ops {
		if o.remove {
			changed = b.remove(o) || changed
		} else if o.state.Load() == opWaiting {
			changed = b.add(o, in) || changed
		}
	}
	var err error
	if changed {
		err = b.confirm()
	}
	var refused error
	if err == nil && changed {
		refused = b.refusedSubscription(before)
	}
	for _, o := range ops {
		switch {
		case o.err != nil:
		case err != nil:
			o.err = b.failed("subscribe", err)
		case refused != nil && len(o.added) > 0:
			o.err = refused
		}
	}
	b.answer(ops, in)
	if errors.Is(refused, natsio.ErrMaxSubscriptionsExceeded) {
		// nats.go remembers this error until it reconnects, so that a second one could not be told from it.
		b.link.cut(b.link.current().n, refused)
	}
}

// maxUnconfirmed is how many subjects are subscribed before the server has to confirm them: that may
// take it no longer than the timeout.
const maxUnconfirmed = 4096

// add subscribes what an op asks for and is not subscribed yet.
func (b *Broker) add(o *op, ch chan *natsio.Msg) (changed bool) {
	in, fresh := b.interest, 0
	for _, subject := range o.subjects {
		wire, _ := b.names.wire(subject)
		s := in.lookup(wire)
		if s == nil {
			sub, err := b.conn.ChanSubscribe(wire, ch)
			if err != nil {
				o.err = b.failed("subscribe", err)
				return changed
			}
			s = &subscription{subject: subject, sub: sub}
			fresh++
		} else if s.subject != subject {
			o.err = fmt.Errorf("nats: subscribe: two subjects have the same hash")
			return changed
		}
		changed = b.adopt(o, wire, s) || changed
		if fresh == maxUnconfirmed {
			fresh = 0
			if err := b.confirm(); err != nil {
				o.err = b.failed("subscribe", err)
				return changed
			}
		}
	}
	return changed
}

// adopt makes a subscription live for an op, unless its caller has gone.
func (b *Broker) adopt(o *op, wire string, s *subscription) (isNew bool) {
	in := b.interest
	in.mu.Lock()
	defer in.mu.Unlock()
	isNew = in.subs[wire] == nil || !s.live.Load()
	in.subs[wire] = s
	if isNew || !s.keep {
		o.added = append(o.added, s)
	}
	if isNew {
		s.keep = false
	}
	if o.state.Load() == opWaiting {
		s.live.Store(true)
	}
	return isNew
}

// remove ends subscriptions. What nats.go has read of them by then is still delivered.
func (b *Broker) remove(o *op) (changed bool) {
	in := b.interest
	in.mu.Lock()
	o.begun = true
	for _, subject := range o.subjects {
		wire, _ := b.names.wire(subject)
		if s := in.subs[wire]; s != nil {
			delete(in.subs, wire)
			in.leaving[s.sub] = s
			o.removed = append(o.removed, s)
		}
	}
	removed := o.removed
	in.mu.Unlock()
	for _, s := range removed {
		_ = s.sub.Unsubscribe() // fails only if the connection is closed
	}
	return len(removed) > 0
}

// removed ends an op that has ended subscriptions.
func (b *Broker) removed(o *op) {
	in := b.interest
	in.mu.Lock()
	for _, s := range o.removed {
		s.live.Store(false)
		delete(in.leaving, s.sub)
	}
	in.mu.Unlock()
	o.state.CompareAndSwap(opWaiting, opCommitted)
	o.done <- o.err // has room: this is done once
}

// fence returns a message to put behind those that have come for the subscriptions that ops have ended.
func (in *interest) fence(ops []*op) *natsio.Msg {
	m := new(natsio.Msg)
	in.mu.Lock()
	defer in.mu.Unlock()
	in.fences[m] = ops
	return m
}

// reached returns the ops whose fence m is.
func (in *interest) reached(m *natsio.Msg) []*op {
	in.mu.Lock()
	defer in.mu.Unlock()
	ops := in.fences[m]
	delete(in.fences, m)
	return ops
}

// answer tells the callers of a group, and takes back what only those wanted that failed or have gone. Who
// has ended subscriptions is told when what came for them has been delivered.
func (b *Broker) answer(ops []*op, msgs chan *natsio.Msg) {
	var leave []*op
	for _, o := range ops {
		if o.remove && o.err == nil && len(o.removed) > 0 {
			leave = append(leave, o)
		} else if o.remove {
			b.removed(o)
		}
	}
	if len(leave) > 0 {
		select {
		case msgs <- b.interest.fence(leave):
		case <-b.stopped: // as the callers know
		}
	}
	in := b.interest
	in.mu.Lock()
	var failed []*op
	for _, o := range ops {
		switch {
		case o.remove:
		case o.err == nil && o.state.CompareAndSwap(opWaiting, opCommitted):
			for _, s := range o.added {
				s.keep = true
				s.live.Store(in.subs[b.wireOf(s)] == s)
			}
			o.done <- nil
		default:
			failed = append(failed, o)
		}
	}
	var gone []*subscription
	for _, o := range failed {
		for _, s := range o.added {
			if wire := b.wireOf(s); !s.keep && in.subs[wire] == s {
				s.live.Store(false)
				delete(in.subs, wire)
				gone = append(gone, s)
			}
		}
		if o.state.CompareAndSwap(opWaiting, opCommitted) {
			o.done <- o.err
		}
	}
	in.mu.Unlock()
	for _, s := range gone {
		_ = s.sub.Unsubscribe() // fails only if the connection is closed
	}
}

func (b *Broker) wireOf(s *subscription) string { return s.sub.Subject }

// confirm returns when the server, and the other servers of its cluster, know of every change made so
// far. If the connection is replaced meanwhile, nats.go subscribes everything anew before it lets our
// marks through.
func (b *Broker) confirm() error {
	deadline := time.Now().Add(timeout)
	for {
		e := b.link.current()
		err := b.linkError()
		if !e.ended() {
			err = b.confirmIn(e, deadline, b.closed)
		}
		if err == nil || time.Now().After(deadline) || b.conn.IsClosed() {
			return err
		}
		select {
		case <-time.After(reconnectJitter):
		case <-b.closed:
			return broker.ErrClosed
		}
	}
}

func (b *Broker) confirmIn(e epoch, deadline time.Time, closed <-chan struct{}) error {
	if err := b.cluster.join(e, deadline, closed); err != nil {
		return err
	}
	if b.cluster.isClustered() {
		return b.cluster.confirm(e, serverPatience, deadline, closed)
	}
	r := b.receipts.begin(0)
	defer b.receipts.forget(r)
	return b.awaitMark(r, e, deadline, closed)
}

// refusedSubscription returns why the server has refused a subscription since nats.go's last error
// was before.
func (b *Broker) refusedSubscription(before error) error {
	err := b.conn.LastError()
	switch {
	case errors.Is(err, natsio.ErrMaxSubscriptionsExceeded):
		err = natsio.ErrMaxSubscriptionsExceeded
	case err != before && errors.Is(err, natsio.ErrPermissionViolation) && strings.Contains(err.Error(), `Subscription to "`):
		err = natsio.ErrPermissionViolation
	default:
		return nil
	}
	b.log.Warn("nats: the server refuses to subscribe", "error", err)
	return fmt.Errorf("nats: subscribe: %w", err)
}
