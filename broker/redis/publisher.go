package redis

import (
	"context"
	"errors"
	"fmt"
	"time"

	"tether/broker/internal/lane"
)

const (
	idleTime  = time.Second // after which a connection is tried before it is used
	directLen = 32 << 10    // of data that are written without being copied first
)

// publisher is the connection of one lane.
type publisher struct {
	hold chan struct{} // capacity 1; what is in it owns the rest: the lane, or the keeper

	c      *conn    // nil: none
	broken clientID // the connection before, if it broke with a pipeline in flight
	trust  int64    // server.failures when the connection was last known to work

	counts []counted     // of the pipeline in flight: what waits for the proof
	away   []int         // likewise: messages that were redirected
	to     []redirection // likewise: where
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
	p.hold <- struct{}{}
	defer func() { <-p.hold }()
	if err := s.prepare(p); err != nil {
		return unavailable(err)
	}
	err := s.publish(p, b)
	if err != nil {
		p.broken = p.c.client
		s.discard(p)
	} else {
		p.c.used = time.Now()
	}
	if len(p.away) > 0 {
		s.follow(p, b)
	}
	if err != nil {
		return unavailable(err)
	}
	return nil
}

// prepare sees to a connection that works, as far as one can tell without sending a message.
func (s *server) prepare(p *publisher) error {
	failures := s.failures.Load()
	if p.c != nil && (p.trust != failures || time.Since(p.c.used) > idleTime) {
		p.c.out = append(p.c.out[:0], askRole...)
		err := p.c.flush()
		if err == nil {
			_, err = s.master(p.c)
		}
		if err != nil {
			s.discard(p)
		}
	}
	if p.c != nil {
		if _, why := s.topology.left(p.c); why != nil {
			s.discard(p)
		}
	}
	if p.c != nil {
		p.trust = failures
		return nil
	}
	c, err := s.topology.dial(context.Background(), s)
	if err != nil {
		s.fail()
		return err
	}
	// What the broken connection still has in the server's buffers must not come after what follows.
	// Servers that cannot kill have most likely read it by now.
	if _, err = c.kill(p.broken); err != nil {
		c.nc.Close()
		return err
	}
	p.c, p.broken, p.trust = c, clientID{}, failures
	return nil
}

// discard closes a connection that has failed.
func (s *server) discard(p *publisher) {
	p.close()
	s.fail()
}

func (p *publisher) close() {
	if p.c != nil {
		p.c.nc.Close()
		p.c = nil
	}
}

// publish sends b as one pipeline and reads the answers. Messages that are redirected are left in p.away.
// Behind the messages goes the question whether the server is a master: a replica counts its own subscribers
// and does not say that it is one; such a count is of nobody, most often, when a master has become a replica.
func (s *server) publish(p *publisher, b *lane.Batch) error {
	c := p.c
	p.away, p.to, p.counts = p.away[:0], p.to[:0], p.counts[:0]
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
			if r, ok := refused.redirection(c.addr); ok && s.channels.sharded {
				p.away, p.to = append(p.away, i), append(p.to, r)
				continue
			}
			b.Fail(i, refusal(refused))
		default:
			return s.settle(p, b, false, err)
		}
	}
	proven, err := s.master(c)
	return s.settle(p, b, proven, err)
}

// master reads the answer to askRole. A server that does not say what it is, is not proven to be a master.
func (s *server) master(c *conn) (proven bool, err error) {
	is, _, _, err := c.rd.hello()
	if err != nil {
		return false, err
	}
	c.used = time.Now()
	if s.unproven.Swap(is == "") != (is == "") {
		s.log().Warn("redis: receipts are lower bounds while the server does not say that it is a master: HELLO must not be renamed", "says", is != "")
	}
	if is != "" && is != "master" {
		s.topology.doubt()
		return false, fmt.Errorf("redis: %s is a %s by now: %w", c.addr, is, errReplica)
	}
	return is != "", nil
}

// settle makes receipts of what has been counted. After an error it is not known who has counted.
func (s *server) settle(p *publisher, b *lane.Batch, proven bool, err error) error {
	if err != nil {
		s.fail()
	}
	for _, k := range p.counts {
		b.Took(k.i, s.receipt(p.c, s.channels.partition(b.Message(k.i).Subject), k.n, proven))
	}
	return err
}

// send appends message i to what is to be written, and writes when that is much.
func (c *conn) send(b *lane.Batch, i int, w *channels) error {
	m := b.Message(i)
	c.out = append(c.out, w.publish...)
	c.out = w.appendChannel(c.out, w.partition(m.Subject), m.Subject)
	c.out = appendHeader(c.out, '$', len(m.Data))
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
