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
	handed  chan struct{} // wakes Run when left is not empty; capacity 1

	handler broker.Handler // written before started is closed

	mu       sync.Mutex
	left     []leftover // guarded by mu; what Run goes on with
	running  bool       // guarded by mu
	ended    bool       // guarded by mu; Run is over or Close was called
	isClosed bool       // guarded by mu
}

// leftover is a busy subscription that no publisher delivers for.
type leftover struct {
	shard        *shard
	subscription *subscription
}

// Publish fails only with the context's error and with [broker.ErrClosed].
func (p *peer) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	reach := make([]broker.Receipt, len(msgs))
	for i := range msgs {
		err := p.ready(ctx)
		if err == nil {
			reach[i].Nodes, err = p.publish(ctx, msgs[i])
		}
		if err != nil {
			for j := i; j < len(reach); j++ {
				reach[j] = broker.Receipt{Bound: broker.Unknown}
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

// publish is pass, in the order of the log if there is one.
func (p *peer) publish(ctx context.Context, m broker.Message) (nodes int, err error) {
	m.Trace = nil
	l := p.bus.log
	if l == nil {
		return p.pass(ctx, &m)
	}
	select {
	case l.turn <- struct{}{}:
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-p.closed:
		return 0, broker.ErrClosed
	}
	defer func() { <-l.turn }()
	m.Place = l.add(m)
	m.Log = ""
	return p.pass(ctx, &m)
}

// Log implements [broker.Logger].
func (p *peer) Log() (broker.Log, error) {
	if p.bus.log == nil {
		return nil, broker.ErrNoLog
	}
	return p.bus.log, nil
}

// pass passes a message on to all subscribers.
func (p *peer) pass(ctx context.Context, m *broker.Message) (nodes int, err error) {
	hash := p.bus.hash(m.Subject)
	sh := p.bus.shard(hash)
	sh.mu.Lock()
	s := sh.subjects.find(hash, m.Subject)
	switch {
	case s == nil:
		sh.mu.Unlock()
		return 0, nil
	case s.next != nil:
		return sh.offerAllLocked(ctx, p.closed, hash, m)
	}
	taken, err := sh.offerLocked(ctx, p.closed, s, m)
	if taken {
		nodes = 1
	}
	return nodes, err
}

// Subscribe waits for Run. After Run it fails with [broker.ErrClosed].
func (p *peer) Subscribe(ctx context.Context, subjects ...string) []error {
	return broker.Each(len(subjects), p.subscribe(ctx, subjects))
}

func (p *peer) subscribe(ctx context.Context, subjects []string) error {
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
		p.bus.begin(p, subject)
	}
	return nil
}

// Unsubscribe has no way to fail except that the broker is closed or the context done.
func (p *peer) Unsubscribe(ctx context.Context, subjects ...string) []error {
	var busy []<-chan struct{}
	for _, subject := range subjects {
		if idle := p.bus.end(p, subject); idle != nil {
			busy = append(busy, idle)
		}
	}
	err := p.ready(ctx)
	for i := 0; i < len(busy) && err == nil; i++ {
		select {
		case <-busy[i]:
		case <-ctx.Done():
			err = ctx.Err()
		case <-p.closed:
			err = broker.ErrClosed
		}
	}
	if err != nil {
		for _, subject := range subjects {
			p.bus.drop(p, subject)
		}
	}
	return broker.Each(len(subjects), err)
}

// handOver asks Run to go on delivering for l, and reports false if nobody would.
func (p *peer) handOver(l leftover) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return false
	}
	p.left = append(p.left, l)
	select {
	case p.handed <- struct{}{}:
	default:
	}
	return true
}

func (p *peer) takeLeftover() (l leftover, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) == 0 {
		return l, false
	}
	l, p.left[0] = p.left[0], l
	p.left = p.left[1:]
	return l, true
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
			for l, ok := p.takeLeftover(); ok; l, ok = p.takeLeftover() {
				l.shard.drain(l.subscription)
			}
			continue
		case <-ctx.Done():
		case <-p.closed:
		}
		break
	}
	for _, idle := range p.stop() {
		<-idle
	}
	return nil
}

// stop ends all subscriptions, and returns channels that are closed when those that are still
// delivering no longer do.
func (p *peer) stop() (busy []<-chan struct{}) {
	p.mu.Lock()
	p.ended = true
	left := p.left
	p.left = nil
	p.mu.Unlock()
	for i := range p.bus.shards {
		busy = append(busy, p.bus.shards[i].endAll(p)...)
	}
	for _, l := range left {
		l.shard.drain(l.subscription) // ended: it only says that nobody delivers for it any more
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
