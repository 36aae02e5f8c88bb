package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tether/broker"
	"tether/broker/internal/lane"
)

const (
	idleTime  = time.Second // after which a connection is tried before it is used
	directLen = 32 << 10    // of data that are written without being copied first
)

// publisher is the connection of one lane, which owns it.
type publisher struct {
	c      *conn    // nil: none
	broken clientID // the connection before, if it broke with a pipeline in flight
	trust  int64    // server.failures when the connection was last known to work

	counts []counted // of the pipeline in flight: what waits for the proof
	moved  []int     // likewise: messages that were redirected
	forgot bool      // the server has forgotten the script
}

// counted is message i of a batch, which n nodes took.
type counted struct {
	i int
	n int64
}

// send implements lane.Options.Send.
func (s *server) send(index int, b *lane.Batch) error {
	p := &s.publishers[index]
	var f *flow // of a program that only publishes
	if in := s.session.Load(); in != nil {
		f = in.flow
	}
	size := f.sizeOf(b)
	if err := f.begin(size, s.o.PublishTimeout, b.Alive); err != nil {
		return unavailable(err)
	}
	defer f.done(size)
	s.keeper.await()
	if err := s.prepare(p); err != nil {
		return unavailable(err)
	}
	err := s.publish(p, b)
	if err != nil {
		p.broken = p.c.client
		p.close()
		s.fail()
	}
	s.follow(p, b)
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// prepare sees to a connection that works, as far as one can tell without sending a message.
func (s *server) prepare(p *publisher) error {
	failures := s.failures.Load()
	if p.c != nil && (p.trust != failures || time.Since(p.c.used) > idleTime) {
		if _, err := s.probe(p.c); err != nil {
			// Something on the way may have closed a connection that was idle. Whether it is the server the
			// keeper finds out.
			p.close()
			s.keeper.ask()
		}
	}
	if p.c != nil {
		if _, why := s.topology.left(p.c); why != nil {
			p.close()
			s.fail()
		}
	}
	if p.forgot {
		p.forgot = false
		p.close()
	}
	if p.trust = failures; p.c != nil {
		return nil
	}
	c, err := s.topology.dial(context.Background(), s)
	if err != nil {
		s.fail()
		return err
	}
	// What the broken connection still has in the server's buffers must not come after what follows.
	// Servers that cannot kill have most likely read it by now.
	if _, err = c.kill(p.broken); err != nil && !isRefused(err) {
		c.nc.Close()
		return err
	}
	if k := s.channels.log; k != nil {
		if err := k.begin(c); err != nil {
			c.nc.Close()
			return err
		}
	}
	p.c, p.broken = c, clientID{}
	return nil
}

func (p *publisher) close() {
	if p.c != nil {
		p.c.nc.Close()
		p.c = nil
	}
}

// publish sends b as one pipeline and reads the answers. Messages that are redirected are left in p.moved.
// Behind the messages goes the question whether the server is a master: a replica counts its own subscribers
// and does not say that it is one; such a count is of nobody, most often, when a master has become a replica.
func (s *server) publish(p *publisher, b *lane.Batch) error {
	c := p.c
	p.moved, p.counts = p.moved[:0], p.counts[:0]
	c.out = c.out[:0]
	for i := range b.Len() {
		if err := c.send(b, i, s.channels); err != nil {
			return err
		}
	}
	c.out = append(c.out, askRole...)
	if err := c.flush(); err != nil {
		return err
	}
	for i := range b.Len() {
		n, err := c.rd.integer()
		var refused serverError
		switch {
		case err == nil:
			p.counts = append(p.counts, counted{i, n})
			if i%64 == 0 {
				b.Alive()
			}
		case errors.As(err, &refused):
			if _, moved := refused.moved(); moved && s.channels.sharded {
				p.moved = append(p.moved, i)
				continue
			}
			if refused.code() == "NOSCRIPT" {
				p.forgot = true
			}
			b.Fail(i, refusal(refused))
		default:
			return s.settle(p, b, false, err)
		}
	}
	proven, err := s.role(c)
	return s.settle(p, b, proven, err)
}

// probe asks a server whether it is a master.
func (s *server) probe(c *conn) (proven bool, err error) {
	c.out = append(c.out[:0], askRole...)
	if err := c.flush(); err != nil {
		return false, err
	}
	return s.role(c)
}

// role reads the answer to askRole. A server that does not say what it is, is not proven to be a master.
func (s *server) role(c *conn) (proven bool, err error) {
	is, err := c.rd.role()
	if err != nil {
		return false, err
	}
	c.used = time.Now()
	if s.unproven.Swap(is == "") != (is == "") {
		s.log().Warn("redis: receipts are lower bounds while the server does not say that it is a master: HELLO must not be renamed", "says", is != "")
	}
	if is != "" && is != "master" {
		s.topology.recheck()
		return false, fmt.Errorf("redis: %s is a %s by now: %w", c.addr, is, errReplica)
	}
	return is != "", nil
}

// settle makes receipts of what has been counted. After an error it is not known which server has counted.
func (s *server) settle(p *publisher, b *lane.Batch, proven bool, err error) error {
	if err != nil {
		s.fail()
	}
	for _, k := range p.counts {
		b.Took(k.i, s.receipt(p.c, s.channels.partition(b.Message(k.i).Subject), k.n, proven))
	}
	return err
}

// follow publishes what was redirected where it belongs, in order. It was not executed where it was sent first,
// so nothing is sent twice. That servers redirect to each other ends with the timeout.
func (s *server) follow(p *publisher, b *lane.Batch) {
	if len(p.moved) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), s.o.PublishTimeout)
	defer cancel()
	parts := make([]uint8, len(p.moved))
	for k, i := range p.moved {
		parts[k] = s.channels.partition(b.Message(i).Subject)
	}
	now := s.topology.moved(ctx, parts...)
	elsewhere := make(map[*server][]int)
	for k, i := range p.moved {
		to := now.publish[parts[k]]
		elsewhere[to] = append(elsewhere[to], i)
	}
	for to, list := range elsewhere {
		msgs := make([]broker.Message, len(list))
		for k, i := range list {
			msgs[k] = b.Message(i)
		}
		receipts, err := to.publishAll(ctx, msgs)
		if errors.Is(err, context.DeadlineExceeded) {
			err = unavailable(err)
		}
		for k, i := range list {
			if err != nil && receipts[k].Bound == broker.Unknown {
				b.Fail(i, err)
			} else {
				b.Took(i, receipts[k])
			}
		}
	}
}

// publishAll publishes messages that belong to s, which is nil if that is known of no server.
func (s *server) publishAll(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error) {
	if s == nil {
		return unknown(len(msgs)), unavailable(errUncovered)
	}
	receipts, err := s.lanes.Publish(ctx, msgs...)
	if errors.Is(err, broker.ErrClosed) && !s.life.closing() {
		err = unavailable(errDeparted)
	}
	return receipts, err
}

// send appends message i to what is to be written, and writes when that is much.
func (c *conn) send(b *lane.Batch, i int, w *channels) error {
	m := b.Message(i)
	switch {
	case w.log == nil:
		c.out = append(c.out, w.publish...)
		c.out = w.appendChannel(c.out, w.partition(m.Subject), m.Subject)
		c.out = appendHeader(c.out, '$', len(m.Data))
	case m.Place == 0:
		c.out = append(c.out, w.publish...)
		c.out = w.appendChannel(c.out, 0, m.Subject)
		c.out = append(appendHeader(c.out, '$', len(unplaced)+len(m.Data)), unplaced...)
	default:
		c.out = w.log.appendPlaced(c.out, &m, w)
		c.out = appendHeader(c.out, '$', len(m.Data))
	}
	if len(m.Data) < directLen {
		c.out = append(c.out, m.Data...)
	} else {
		if err := c.flush(); err != nil {
			return err
		}
		if err := c.write(m.Data, b.Alive); err != nil {
			return err
		}
	}
	c.out = append(c.out, '\r', '\n')
	if len(c.out) >= bufferSize {
		return c.flush()
	}
	return nil
}
