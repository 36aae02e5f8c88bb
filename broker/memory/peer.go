package memory

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"tether/broker"
)

// peer is one node on a bus.
type peer struct {
	bus *Bus

	started chan struct{} // closed when Run begins
	closed  chan struct{} // closed by Close
	handed  chan struct{} // wakes Run when leftover is not empty; capacity 1

	handler broker.Handler // written before started is closed

	mu       sync.Mutex
	subs     map[string]*subscription // guarded by mu; live ones, and ended ones that still deliver
	leftover []*subscription          // guarded by mu; busy ones that Run goes on with
	running  bool                     // guarded by mu
	ended    bool                     // guarded by mu; Run is over or Close was called
	isClosed bool                     // guarded by mu
}

// Publish fails only with the context's error and with [broker.ErrClosed].
func (p *peer) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Reach, error) {
	reach := make([]broker.Reach, len(msgs))
	for i := range msgs {
		err := p.ready(ctx)
		if err == nil {
			reach[i].Nodes, err = p.publish(ctx, &msgs[i])
		}
		if err != nil {
			for j := i; j < len(reach); j++ {
				reach[j] = broker.Reach{Bound: broker.Unknown}
			}
			return reach, err
		}
	}
	return reach, nil
}

func (p *peer) ready(ctx context.Context) error {
	select {
	case <-p.closed:
		return broker.ErrClosed
	default:
		return ctx.Err()
	}
}

func (p *peer) publish(ctx context.Context, m *broker.Message) (nodes int, err error) {
	for _, s := range p.bus.lookup(m.Subject) {
		taken, err := s.offer(ctx, p.closed, m)
		if err != nil {
			return 0, err
		}
		if taken {
			nodes++
		}
	}
	return nodes, nil
}

// Subscribe waits for Run. After Run it fails with [broker.ErrClosed].
func (p *peer) Subscribe(ctx context.Context, subjects ...string) error {
	if err := p.ready(ctx); err != nil {
		return err
	}
	select {
	case <-p.started:
	case <-p.closed:
		return broker.ErrClosed
	case <-ctx.Done():
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return broker.ErrClosed
	}
	for _, subject := range subjects {
		s := p.subs[subject]
		if s == nil {
			s = &subscription{peer: p, subject: subject, ended: true}
			p.subs[subject] = s
		}
		if s.begin() {
			p.bus.add(s)
		}
	}
	return nil
}

// Unsubscribe has no way to fail except that the broker is closed or the context done.
func (p *peer) Unsubscribe(ctx context.Context, subjects ...string) error {
	p.mu.Lock()
	for _, subject := range subjects {
		if s := p.subs[subject]; s != nil {
			p.endLocked(s)
		}
	}
	p.mu.Unlock()
	return p.ready(ctx)
}

func (p *peer) endLocked(s *subscription) {
	busy, was := s.end()
	if was {
		p.bus.remove(s)
	}
	if !busy {
		delete(p.subs, s.subject)
	}
}

// forget drops an ended subscription whose last delivery has returned.
func (p *peer) forget(s *subscription) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.subs[s.subject] == s && s.spent() {
		delete(p.subs, s.subject)
	}
}

// handOver asks Run to go on delivering for s, and reports false if nobody would.
func (p *peer) handOver(s *subscription) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.leftover = append(p.leftover, s)
	select {
	case p.handed <- struct{}{}:
	default:
	}
	return true
}

func (p *peer) takeLeftover() *subscription {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.leftover) == 0 {
		return nil
	}
	s := p.leftover[0]
	p.leftover[0] = nil
	p.leftover = p.leftover[1:]
	return s
}

// Run delivers what publishers leave to it; most is delivered by the publishers themselves, and only
// while Run is running. No function of h is called after Run has returned.
func (p *peer) Run(ctx context.Context, h broker.Handler) error {
	if h.Deliver == nil {
		return errors.New("broker: run without Deliver")
	}
	p.mu.Lock()
	switch {
	case p.isClosed:
		p.mu.Unlock()
		return broker.ErrClosed
	case p.running:
		p.mu.Unlock()
		return fmt.Errorf("broker: run called twice")
	}
	p.running = true
	p.handler = h
	p.mu.Unlock()

	if h.State != nil {
		h.State(nil)
	}
	close(p.started)
	for ctx.Err() == nil {
		select {
		case <-p.handed:
			for s := p.takeLeftover(); s != nil; s = p.takeLeftover() {
				s.drain()
			}
			continue
		case <-ctx.Done():
		case <-p.closed:
		}
		break
	}
	for _, s := range p.stop() {
		<-s.idle()
	}
	return nil
}

// stop ends all subscriptions, and returns those that are still delivering.
func (p *peer) stop() (busy []*subscription) {
	p.mu.Lock()
	p.ended = true
	for _, s := range p.subs {
		p.endLocked(s)
	}
	for _, s := range p.subs {
		busy = append(busy, s)
	}
	leftover := p.leftover
	p.leftover = nil
	p.mu.Unlock()
	for _, s := range leftover {
		s.drain() // ended: it only says that nobody delivers for it any more
	}
	return busy
}

func (p *peer) Close() error {
	p.mu.Lock()
	if p.isClosed {
		p.mu.Unlock()
		return nil
	}
	p.isClosed = true
	close(p.closed)
	p.mu.Unlock()
	p.stop()
	return nil
}
