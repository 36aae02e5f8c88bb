package simbroker

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"tether/broker"
)

// Run implements [broker.Broker].
func (p *Peer) Run(ctx context.Context, h broker.Handler) error {
	p.c.mu.Lock()
	if p.running || p.isClosed {
		p.c.mu.Unlock()
		return broker.ErrClosed
	}
	p.running, p.handler = true, withAll(h)
	p.trouble = time.Now()
	p.lastGood = p.trouble
	p.reported = true // the hub begins with not being ready
	p.c.mu.Unlock()

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	for i := range lanes {
		wg.Go(func() { p.carry(ctx, i) })
	}
	p.keep(ctx)
	p.c.mu.Lock()
	p.ended = true
	p.c.mu.Unlock()
	p.telling.Wait()
	p.c.mu.Lock()
	p.endSessionLocked()
	p.changeLocked()
	p.c.mu.Unlock()
	cancel()
	wg.Wait()
	return nil
}

// withAll is h without a function that is nil.
func withAll(h broker.Handler) broker.Handler {
	if h.Gap == nil {
		h.Gap = func(broker.Gap) {}
	}
	if h.Lost == nil {
		h.Lost = func(broker.Gap) {}
	}
	if h.State == nil {
		h.State = func(error) {}
	}
	return h
}

// carry delivers what comes in one lane.
func (p *Peer) carry(ctx context.Context, lane int) {
	for {
		p.c.mu.Lock()
		var next parcel
		there := len(p.lanes[lane]) > 0
		if there {
			next = p.lanes[lane][0]
		}
		changed, held := p.changed, !p.silent.IsZero()
		p.c.mu.Unlock()
		var due <-chan time.Time
		switch {
		case there && !held && time.Now().Before(next.due):
			due = time.After(time.Until(next.due))
			changed = nil
		case there && !held:
			p.c.mu.Lock()
			ok := len(p.lanes[lane]) > 0 && !p.dead && p.silent.IsZero()
			if ok {
				next = p.lanes[lane][0]
				p.lanes[lane] = p.lanes[lane][1:]
				p.queued--
				ok = p.wanted[next.m.Subject] || p.leaving[next.m.Subject]
				p.current[lane] = next.m.Subject
			}
			p.c.mu.Unlock()
			if ok {
				p.handler.Deliver(next.m)
			}
			p.c.mu.Lock()
			p.current[lane] = ""
			p.c.mu.Unlock()
			continue
		}
		select {
		case <-due:
		case <-changed:
		case <-p.arrived[lane]:
		case <-ctx.Done():
			return
		case <-p.closed:
			return
		}
	}
}

// keep keeps the session: it notices silence, reconnects, and says so, until ctx is done.
func (p *Peer) keep(ctx context.Context) {
	started := false
	for {
		p.c.mu.Lock()
		now := time.Now()
		var wait <-chan time.Time
		switch {
		case p.dead:
		case !p.silent.IsZero():
			switch since := now.Sub(p.silent); {
			case since >= Patience && !p.reported:
				p.reported = true
				p.c.mu.Unlock()
				p.handler.State(errSilent)
				continue
			case p.session && since >= minReap+time.Duration(p.c.options.Seed%uint64(maxReap-minReap)):
				p.endSessionLocked()
				p.c.mu.Unlock()
				continue
			case since < Patience:
				wait = time.After(Patience - since)
			default:
				wait = time.After(100 * time.Millisecond)
				if !p.session {
					wait = nil
				}
			}
		case !p.trouble.IsZero() && !p.reported:
			p.reported = true
			p.c.mu.Unlock()
			p.handler.State(fmt.Errorf("%w: connection lost", broker.ErrUnavailable))
			continue
		case !p.trouble.IsZero() && p.c.up:
			d := p.reconnectsInLocked()
			p.c.mu.Unlock()
			p.reconnect(ctx, d, &started)
			if ctx.Err() != nil || p.done() {
				return
			}
			continue
		}
		changed := p.changed
		p.c.mu.Unlock()
		select {
		case <-wait:
		case <-changed:
		case <-ctx.Done():
			return
		case <-p.closed:
			return
		}
	}
}

func (p *Peer) done() bool {
	select {
	case <-p.closed:
		return true
	default:
		return false
	}
}

// reconnect gets a session again and subscribes to everything that is wanted.
func (p *Peer) reconnect(ctx context.Context, d time.Duration, started *bool) {
	if p.sleep(ctx, d) != nil {
		return
	}
	p.c.mu.Lock()
	if !p.c.up || !p.silent.IsZero() || p.dead {
		p.c.mu.Unlock()
		return
	}
	p.session = true
	p.subs = make(map[string]bool, len(p.wanted))
	for s := range p.wanted {
		p.subs[s] = true
	}
	gap := broker.Gap{From: p.lastGood, To: time.Now(), Cause: errors.New("simbroker: session lost")}
	p.trouble, p.reported = time.Time{}, false
	p.changeLocked()
	p.c.mu.Unlock()
	if *started {
		p.handler.Gap(gap)
	} else {
		*started = true
		close(p.started)
	}
	p.handler.State(nil)
}
