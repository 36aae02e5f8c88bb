package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tether/broker"
	"tether/broker/internal/dispatch"
)

// watchTime is between two looks at what nobody says by himself.
const watchTime = 100 * time.Millisecond

var errDeposed = errors.New("redis: the slot has another owner, and the server does not say so")

// run is one Run. It belongs to its goroutine.
type run struct {
	d       *driver
	h       broker.Handler
	workers *dispatch.Dispatcher
	links   map[*server]*link
	told    state // the last one; 0: none
}

// link is the goroutine that keeps a session with a server.
type link struct {
	cancel context.CancelFunc
	done   chan struct{} // closed when it has ended
	odd    time.Time     // since when the server serves what it does not own; zero: it does not
}

func (r *run) run(ctx context.Context) {
	watch := time.NewTicker(watchTime)
	defer watch.Stop()
	r.d.topology.recheck()
	for ctx.Err() == nil {
		r.connect(ctx)
		r.tell(false)
		select {
		case <-ctx.Done():
		case <-r.d.changed:
		case <-watch.C:
			r.d.topology.refresh()
			r.depose()
			r.tell(true)
		}
	}
	for _, l := range r.links {
		<-l.done
	}
	r.tellGaps(true)
}

// connect sees to a link with every server that subjects are subscribed at, and to no other.
func (r *run) connect(ctx context.Context) {
	wanted := make(map[*server]bool)
	if now, _ := r.d.topology.now(); now != nil {
		for _, s := range now.subscribe {
			if s != nil {
				wanted[s] = true
			}
		}
	}
	for s := range wanted {
		if r.links[s] == nil {
			ctx, cancel := context.WithCancel(ctx)
			l := &link{cancel: cancel, done: make(chan struct{})}
			r.links[s] = l
			go func() { // run waits for it, or connect does
				defer close(l.done)
				r.keep(ctx, s)
			}()
		}
	}
	for s, l := range r.links {
		if !wanted[s] && !s.in.lingering() {
			l.cancel()
			<-l.done
			delete(r.links, s)
		}
	}
}

// keep keeps a session with s until ctx is done.
func (r *run) keep(ctx context.Context, s *server) {
	var (
		old  clientID
		wait backoff
	)
	for ctx.Err() == nil {
		session, err := openSession(ctx, s, r.workers, old)
		if err == nil {
			err = session.serve(ctx, func() {
				wait = backoff{}
				s.health.Store(&health{})
				r.d.poke()
			})
			s.session.Store(nil)
			old = session.c.client
		}
		if ctx.Err() != nil {
			return
		}
		err = unavailable(err)
		s.in.away(err)
		s.fail()
		s.health.Store(&health{err})
		r.d.topology.recheck()
		r.d.poke()
		wait.sleep(ctx)
	}
}

// depose ends sessions with servers that go on serving what belongs to others: cut off from the rest of
// the Cluster, they do not know that they have been replaced.
func (r *run) depose() {
	for s, l := range r.links {
		switch {
		case !s.in.lingering():
			l.odd = time.Time{}
		case l.odd.IsZero():
			l.odd = time.Now()
		case time.Since(l.odd) > 5*watchTime:
			if session := s.session.Load(); session != nil {
				session.failFrom(errDeposed, r.leftSince(s))
			}
		}
	}
}

// leftSince is since when messages may have been published elsewhere that s once had.
func (r *run) leftSince(s *server) time.Time {
	first := time.Now()
	now, _ := r.d.topology.now()
	for p, at := range now.subscribe {
		if t := r.d.topology.leftSince(uint8(p)); at != s && t.Before(first) {
			first = t
		}
	}
	return first
}

// tell tells of the subjects that are back, or lost, and of the state.
func (r *run) tell(late bool) {
	r.tellGaps(late)
	known, err := r.health()
	if now := stateOf(err); known && r.told != now {
		r.told = now
		if r.h.State != nil {
			r.h.State(err)
		}
	}
}

// tellGaps tells of the subjects that are back, or lost. While some are missing it waits for them until late is set.
func (r *run) tellGaps(late bool) {
	back, lost := r.d.subs.take(late)
	now := time.Now()
	for out, names := range back {
		if !r.d.subs.channels.sharded {
			names = nil // it was all of them
		}
		if r.h.Gap != nil {
			r.h.Gap(broker.Gap{From: out.from, To: now, Subjects: names, Cause: out.cause})
		}
	}
	for out, names := range lost {
		if r.h.Lost != nil {
			r.h.Lost(broker.Gap{From: out.from, Subjects: names, Cause: out.cause})
		}
	}
}

// state is what Handler.State can be told; 0: nothing.
type state int

const (
	stateUp state = 1 + iota
	statePart
	stateAway
)

func stateOf(err error) state {
	switch {
	case err == nil:
		return stateUp
	case errors.Is(err, broker.ErrPart):
		return statePart
	}
	return stateAway
}

// health says why not all partitions are served, and whether that is known.
func (r *run) health() (known bool, err error) {
	now, err := r.d.topology.now()
	if now == nil {
		if err == nil {
			return false, nil
		}
		return true, unavailable(err)
	}
	known, served := true, false
	err = nil
	for p, s := range now.subscribe {
		if now.publish[p] == nil {
			err = unavailable(errUncovered)
		}
		if s == nil || p > 0 && s == now.subscribe[p-1] {
			continue // on its way from one server to another, or looked at already
		}
		switch h := s.health.Load(); {
		case h == nil:
			known = false
		case h.err != nil:
			err = h.err
		default:
			served = true
		}
	}
	switch {
	case err == nil:
		return known, nil
	case served:
		err = fmt.Errorf("%w: %w", broker.ErrPart, err)
	}
	return true, err
}
