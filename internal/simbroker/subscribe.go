package simbroker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"time"

	"tether/broker"
)

// Subscribe implements [broker.Broker].
func (p *Peer) Subscribe(ctx context.Context, subjects ...string) []error {
	errs := make([]error, len(subjects))
	var healthy []string
	p.c.mu.Lock()
	for i, s := range subjects {
		if errs[i] = p.c.ails[part(s)]; errs[i] == nil {
			healthy = append(healthy, s)
		}
	}
	p.c.mu.Unlock()
	err := p.subscribe(ctx, healthy)
	if err == nil && len(healthy) == len(subjects) {
		return nil
	}
	for i := range errs {
		errs[i] = cmp.Or(errs[i], err)
	}
	return errs
}

// Parts of the backend, in which it may ail: see Cluster.Ail.
const Parts = 3

// part is where a subject is.
func part(subject string) uint32 { return crc32.ChecksumIEEE([]byte(subject)) / lanes % Parts }

func (p *Peer) subscribe(ctx context.Context, subjects []string) error {
	select {
	case <-p.started:
	case <-p.closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	deadline := time.Now().Add(PublishFails)
	var since time.Time // when the backend began to count this node for the subjects
	for {
		if err := p.through(ctx, time.Until(deadline)); err != nil {
			return err
		}
		p.c.mu.Lock()
		if p.ended || p.isClosed {
			p.c.mu.Unlock()
			return broker.ErrClosed
		}
		if p.session {
			for _, s := range subjects {
				p.wanted[s], p.subs[s] = true, true
			}
			since = time.Now()
			p.c.mu.Unlock()
			break
		}
		changed := p.changed
		p.c.mu.Unlock()
		select {
		case <-changed:
		case <-time.After(time.Until(deadline)):
			return fmt.Errorf("%w: no session", broker.ErrUnavailable)
		case <-p.closed:
			return broker.ErrClosed
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := p.sleep(ctx, p.travel()); err != nil {
		p.forget(subjects)
		p.unheard(since)
		return err
	}
	p.c.mu.Lock()
	lost := !p.session || !p.silent.IsZero()
	p.c.mu.Unlock()
	if lost {
		p.forget(subjects)
		p.unheard(since)
		select {
		case <-p.closed:
			return broker.ErrClosed
		default:
		}
		return fmt.Errorf("%w: no confirmation", broker.ErrUnavailable)
	}
	return nil
}

// unheard reports that p has been counted since then for subjects that it could not subscribe: a gap, which
// lasts while the backend does not hear that they are not wanted.
func (p *Peer) unheard(since time.Time) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.counted.IsZero() {
		p.counted = since.Add(-maxTravel)
	}
	if p.session && p.silent.IsZero() {
		p.tellUnheardLocked()
	}
}

func (p *Peer) tellUnheardLocked() {
	if p.counted.IsZero() || p.ended || p.dead {
		return
	}
	g := broker.Gap{From: p.counted, To: time.Now(), Cause: errUnconfirmed}
	p.counted = time.Time{}
	p.telling.Go(func() { p.handler.Gap(g) }) // Run waits for it
}

var errUnconfirmed = errors.New("simbroker: subscription not confirmed")

func (p *Peer) forget(subjects []string) {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for _, s := range subjects {
		delete(p.wanted, s)
		delete(p.leaving, s)
		if p.session && p.silent.IsZero() {
			delete(p.subs, s)
		}
	}
}

// Unsubscribe fails later than Publish, as drivers do: a link that is silent for as long has been reported.
func (p *Peer) Unsubscribe(ctx context.Context, subjects ...string) []error {
	return broker.Each(len(subjects), p.unsubscribe(ctx, subjects))
}

func (p *Peer) unsubscribe(ctx context.Context, subjects []string) error {
	err := p.through(ctx, unsubscribeLook)
	for end := time.Now().Add(unsubscribeFails); errors.Is(err, errSilent) && time.Now().Before(end); {
		err = p.through(ctx, unsubscribeLook)
	}
	if err == nil {
		p.c.mu.Lock()
		for _, s := range subjects {
			delete(p.subs, s)
			delete(p.wanted, s) // a new session does not bring it back
			p.leaving[s] = true
		}
		p.c.mu.Unlock()
		for err == nil && p.expects(subjects) {
			err = p.sleep(ctx, time.Millisecond)
		}
	}
	p.forget(subjects)
	return err
}

// expects reports whether messages of the subjects are on their way to p.
func (p *Peer) expects(subjects []string) bool {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	for i := range p.lanes {
		if slices.Contains(subjects, p.current[i]) {
			return true
		}
		for _, k := range p.lanes[i] {
			if slices.Contains(subjects, k.m.Subject) {
				return true
			}
		}
	}
	return false
}
