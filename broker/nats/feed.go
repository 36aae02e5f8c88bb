package nats

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/beat"
)

var (
	errOverflow = errors.New("nats: too many messages wait for Deliver")
	errStale    = errors.New("nats: messages came too late")
	errCut      = errors.New("nats: the connection was replaced")
)

// pump moves messages from nats.go to the backlog, and puts lost before each that may be the first after
// a cancellation was dropped.
func (r *run) pump() {
	doubtful := 0 // messages
	for {
		select {
		case m := <-r.in:
			if len(r.in) >= cap(r.in)-1 {
				// It was full, or nearly, and only we take from it: nats.go may have dropped something
				// that came after all that is in it.
				r.gaps.open(r.pulse.Time(r.pulse.Last()), "", errOverflow)
				doubtful = cap(r.in) + 1
			}
			if doubtful > 0 {
				doubtful--
				r.backlog.put(r.lost, true)
			}
			isOurs := m.Subject == r.subject || isFence(m) // or says that the connection was replaced
			if isOurs {
				r.see(m.Data)
			}
			if !r.backlog.put(m, isOurs) {
				r.overflow(m)
				if _, is := cancelled(m.Reply); is {
					doubtful = max(doubtful, 1)
				}
			}
		case <-r.done:
			return
		}
	}
}

func (r *run) see(data []byte) {
	_, stamp, _ := bytes.Cut(data, []byte(" "))
	if n, err := strconv.ParseInt(string(stamp), 10, 64); err == nil && n > r.seen.Load() {
		r.seen.Store(min(n, int64(r.pulse.Now())))
	}
}

func (r *run) overflow(m *natsio.Msg) {
	if s := r.b.interest.lookup(m.Subject); s != nil {
		r.gaps.open(r.pulse.Time(r.pulse.Last()), s.subject, errOverflow)
	}
}

// burst is the number of messages that are acknowledged together, at most.
const burst = 256

// feed acknowledges the messages of the backlog, and moves them to the dispatcher when the server has the
// acknowledgements: a message that was delivered has been counted.
func (r *run) feed() {
	var msgs []*natsio.Msg
	for {
		select {
		case <-r.backlog.wake:
		case <-r.done:
			return
		}
		for msgs = r.backlog.take(msgs); len(msgs) > 0; msgs = r.backlog.take(msgs) {
			for rest := msgs; len(rest) > 0; {
				n := min(len(rest), burst)
				if !r.pass(rest[:n]) {
					return
				}
				rest = rest[n:]
			}
		}
		if !r.out.Flush(r.session) {
			return
		}
	}
}

// pass takes a few messages from the backlog. A false says that Run is over.
func (r *run) pass(msgs []*natsio.Msg) bool {
	aw := &r.awaiting
	aw.begin()
	bytes := 0 // of what is not kept
	for _, m := range msgs {
		kept := false
		switch {
		case m.Subject == r.subject:
			if mark, ok := markOf(m.Data); !ok {
				r.back(m.Data)
			} else if !r.confirmed(mark) {
				return false
			}
		case m == r.replaced:
			r.drop(errCut)
		case m == r.lost:
			r.drop(errOverflow)
		case isFence(m):
			if kept = r.reach(m); !kept {
				return false
			}
		default:
			kept = r.take(m)
		}
		if !kept {
			bytes += cost(m)
		}
	}
	r.backlog.done(bytes)
	if !r.acks.flush() || !aw.mark(r.b.conn, r.subject) {
		// The connection is gone. Who has published will hear that nobody was here, or nothing.
		r.drop(errCut)
	}
	return true
}

// isFence tells what was put between the messages from what the server has sent, which has a subject.
func isFence(m *natsio.Msg) bool { return m.Subject == "" }

// reach takes a fence, which waits as the messages before it do. A false says that Run is over.
func (r *run) reach(m *natsio.Msg) bool {
	ops := r.b.interest.reached(m)
	if r.awaiting.empty() {
		r.backlog.done(cost(m))
		return r.after(ops)
	}
	r.awaiting.add(taken{after: ops, stamp: r.pulse.Last(), cost: cost(m)})
	return true
}

// after ends ops that have ended subscriptions once all is delivered that was put for those.
func (r *run) after(ops []*op) bool {
	for _, o := range ops {
		r.b.interest.mu.RLock()
		removed := o.removed
		r.b.interest.mu.RUnlock()
		var left atomic.Int32
		left.Store(int32(len(removed)))
		for _, s := range removed {
			ok := r.out.After(r.session, s.subject, func() {
				if left.Add(-1) == 0 {
					r.b.removed(o)
				}
			})
			if !ok {
				return false
			}
		}
	}
	return true
}

// take acknowledges a message, and keeps it if it is to be delivered. A message that came for a
// subscription which has ended since is acknowledged too: the node was counted in when the server passed
// it on.
func (r *run) take(m *natsio.Msg) (kept bool) {
	if reply, ok := cancelled(m.Reply); ok {
		if !r.awaiting.cancel(reply) {
			r.drop(errCancelled)
		}
		return false
	}
	if isQuestion(m.Reply) {
		if !r.acks.flush() { // what there is to acknowledge goes ahead
			r.drop(errCut)
			return false
		}
		_ = r.b.conn.Publish(m.Reply, []byte(denial)) // who asks will ask again
		return false
	}
	s := r.b.interest.of(m)
	if s == nil {
		r.acks.add(m.Reply)
		return false
	}
	data, ok := r.dataOf(m, s)
	if !ok {
		return false
	}
	stamp := r.pulse.Last()
	if !r.pulse.Fresh(stamp) {
		r.stale(stamp)
		return false
	}
	r.acks.add(m.Reply)
	r.awaiting.add(taken{m: broker.Message{Subject: s.subject, Data: data}, s: s, reply: m.Reply, stamp: stamp, cost: cost(m)})
	return true
}

// confirmed puts the messages whose acknowledgements are with the server, up to a mark. A false says that
// Run is over.
func (r *run) confirmed(mark uint64) bool {
	r.awaiting.back(mark)
	for {
		g, ok := r.awaiting.next(mark)
		if !ok {
			return true
		}
		bytes := 0
		for i := range g {
			t := &g[i]
			bytes += t.cost
			switch {
			case t.after != nil:
				if !r.after(t.after) {
					return false
				}
			case r.awaiting.isCancelled(t.reply):
				r.gaps.open(r.pulse.Time(t.stamp), t.m.Subject, errCancelled)
			case !r.pulse.Fresh(t.stamp):
				r.stale(t.stamp)
			case !r.out.Put(r.session, t.m, &t.s.live):
				return false
			}
		}
		r.backlog.done(bytes)
		r.awaiting.release(g)
	}
}

// drop drops what awaits confirmation, into a gap.
func (r *run) drop(cause error) {
	r.acks.drop()
	r.awaiting.back(noMark)
	for {
		g, ok := r.awaiting.next(noMark)
		if !ok {
			return
		}
		bytes := 0
		for i := range g {
			bytes += g[i].cost
			for _, o := range g[i].after {
				r.b.removed(o)
			}
		}
		r.gaps.open(r.pulse.Time(g[0].stamp), "", cause) // the first is the oldest
		r.backlog.done(bytes)
		r.awaiting.release(g)
	}
}

// dataOf returns what was published, unless it was published on another subject with the same hash.
func (r *run) dataOf(m *natsio.Msg, s *subscription) ([]byte, bool) {
	if !strings.HasPrefix(m.Subject, r.b.names.long) {
		return m.Data, true
	}
	subject, data, err := splitNamed(m.Data)
	return data, err == nil && string(subject) == s.subject
}

// stale opens a gap for messages that were too old to be delivered. It is also called by the workers
// of the dispatcher.
func (r *run) stale(s beat.Stamp) { r.gaps.open(r.pulse.Time(s), "", errStale) }

// back takes a beat that has come round. If it is fresh, and from the connection that there is now,
// everything that is published from now on will be read: gaps end.
func (r *run) back(data []byte) {
	number, stamp, _ := bytes.Cut(data, []byte(" "))
	n, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil || n != r.b.link.current().n {
		return // not ours, or of a connection that is gone
	}
	last := r.pulse.Last()
	if !r.pulse.Back(stamp) || r.pulse.Silent() {
		return
	}
	if n != r.epoch {
		r.epoch = n
		r.gaps.open(r.pulse.Time(last), "", errCut)
	}
	if r.b.cluster.joined.Load() != n {
		return // other servers may not know yet what is subscribed here
	}
	r.gaps.end(r.pulse.Time(r.pulse.Now()))
	r.good.Store(n)
	r.acks.trim()
	select {
	case r.fresh <- struct{}{}:
	default:
	}
}
