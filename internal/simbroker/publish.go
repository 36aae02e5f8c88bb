package simbroker

import (
	"context"
	"fmt"
	"hash/crc32"
	"time"

	"tether/broker"
)

// Publish implements [broker.Broker].
func (p *Peer) Publish(ctx context.Context, msgs ...broker.Message) ([]broker.Receipt, error) {
	reach := make([]broker.Receipt, len(msgs))
	for i := range reach {
		reach[i].Bound = broker.Unknown
	}
	if err := p.through(ctx, PublishFails); err != nil {
		return reach, err
	}
	taken := make([]broker.Receipt, len(msgs))
	p.c.mu.Lock()
	for i, m := range msgs {
		taken[i] = p.c.passLocked(m)
	}
	p.c.mu.Unlock()
	if err := p.sleep(ctx, p.travel()); err != nil {
		return reach, err // taken, but nobody knows
	}
	p.c.mu.Lock()
	lost := !p.c.up || !p.silent.IsZero()
	p.c.mu.Unlock()
	if lost {
		return reach, fmt.Errorf("%w: no answer", broker.ErrUnavailable)
	}
	return taken, nil
}

// passLocked is the backend: one message to every node that it knows to be subscribed.
func (c *Cluster) passLocked(m broker.Message) broker.Receipt {
	m = m.Own()
	m.Trace = nil
	n := 0
	for _, p := range c.peers {
		if !p.session || !p.subs[m.Subject] {
			continue
		}
		n++
		p.queueLocked(m)
	}
	switch c.options.Bound {
	case broker.Unknown:
		return broker.Receipt{Bound: broker.Unknown}
	case broker.AtLeast:
		return broker.Receipt{Nodes: min(n, 1), Bound: broker.AtLeast}
	}
	return broker.Receipt{Nodes: n}
}

func (p *Peer) queueLocked(m broker.Message) {
	if p.slow && p.queued >= backlog {
		p.breakLocked()
		return
	}
	d := p.travelLocked()
	if p.slow {
		d += time.Duration(p.rng.Int64N(int64(MaxSlow)))
	}
	lane := crc32.ChecksumIEEE([]byte(m.Subject)) % lanes
	p.lanes[lane] = append(p.lanes[lane], parcel{m, time.Now().Add(d)})
	p.queued++
	select {
	case p.arrived[lane] <- struct{}{}:
	default:
	}
}
