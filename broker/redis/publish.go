package redis

import (
	"context"
	"errors"
	"time"

	"tether/broker/internal/lane"
)

const (
	idleTime  = time.Second // after which a connection is tried before it is used
	directLen = 32 << 10    // of data that are written without being copied first
)

// publisher is the connection of one lane. It is owned by the lane's goroutine.
type publisher struct {
	c      *conn    // nil: none
	broken clientID // the connection before, if it broke with a pipeline in flight
	trust  int64    // server.failures when the connection was last known to work

	counts []counted        // of the pipeline in flight: what waits for the proof
	away   []int            // likewise: messages that were redirected
	to     []redirection    // likewise: where
	sides  map[string]*conn // to servers that messages were redirected to, by address
}

// counted is message i of a batch, which n nodes took.
type counted struct {
	i int
	n int64
}

// send implements lane.Options.Send.
func (s *server) send(index int, b *lane.Batch) error {
	p := &s.publishers[index]
	f := s.flow.Load()
	size := f.sizeOf(b)
	if err := f.begin(size, s.o.PublishTimeout, b.Alive); err != nil {
		return unavailable(err)
	}
	defer f.done(size)
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

// prepare sees to a connection that works, as far as one can tell without sending a message, and to
// receipts that do not count dead nodes.
func (s *server) prepare(p *publisher) error {
	failures := s.failures.Load()
	if p.c != nil && (p.trust != failures || time.Since(p.c.used) > idleTime) {
		if _, err := p.c.do("PING"); err != nil {
			s.discard(p)
		}
	}
	if p.c != nil {
		if err := s.here(p.c); err != nil {
			s.discard(p)
		}
	}
	if p.c != nil {
		if err := s.lease.reapIfDue(p.c); err != nil {
			s.discard(p)
		}
	}
	if p.c != nil {
		p.trust = failures
		return nil
	}
	c, err := s.dial(context.Background())
	if err != nil {
		s.fail()
		return err
	}
	// What the broken connection still has in the server's buffers must not come after what follows.
	// Servers that cannot kill have most likely read it by now.
	if _, err = c.kill(p.broken); err == nil {
		err = s.lease.reapIfDue(c)
	}
	if err != nil {
		c.nc.Close()
		return err
	}
	p.c, p.broken, p.trust = c, clientID{}, failures
	return nil
}

func (s *server) discard(p *publisher) {
	p.c.nc.Close()
	p.c = nil
	s.fail()
}

// publish sends b as one pipeline and reads the answers. Messages that are redirected are left in p.away.
func (s *server) publish(p *publisher, b *lane.Batch) error {
	c := p.c
	p.away, p.to, p.counts = p.away[:0], p.to[:0], p.counts[:0]
	c.out = c.out[:0]
	for i := range b.Len() {
		if err := c.send(b, i, s.wire); err != nil {
			return err
		}
	}
	if s.proof != nil {
		c.out = s.proof(c.out, b.Message(0).Subject)
	}
	if err := c.flush(); err != nil {
		return err
	}
	for i := range b.Len() {
		n, err := c.rd.integer()
		var refused serverError
		switch {
		case err == nil && s.proof == nil:
			b.Took(i, s.reach(c, b.Message(i).Subject, n))
		case err == nil:
			p.counts = append(p.counts, counted{i, n})
			if i%64 == 0 {
				b.Alive()
			}
		case errors.As(err, &refused):
			if r, ok := refused.redirection(c.addr); ok && s.moved != nil {
				p.away, p.to = append(p.away, i), append(p.to, r)
				continue
			}
			b.Fail(i, unavailable(refused))
		default:
			return s.settle(p, b, err)
		}
	}
	if s.proof == nil {
		return nil
	}
	v, err := c.rd.reply()
	if refused, ok := v.(serverError); ok && refused.code() != "NOPERM" {
		s.disproved(refused, c.addr, b)
	}
	return s.settle(p, b, err)
}

// disproved takes the answer of a server that is no longer the owner of a slot where it counted.
func (s *server) disproved(why serverError, from string, b *lane.Batch) {
	if r, ok := why.redirection(from); ok {
		s.moved(r, from)
	}
	for i := range b.Len() {
		s.doubt(s.wire.partition(b.Message(i).Subject))
	}
}

// settle makes receipts of what has been counted. After an error it is not known who has counted.
func (s *server) settle(p *publisher, b *lane.Batch, err error) error {
	if err != nil {
		s.fail()
	}
	for _, k := range p.counts {
		b.Took(k.i, s.reach(p.c, b.Message(k.i).Subject, k.n))
	}
	return err
}

// send appends message i to what is to be written, and writes when that is much.
func (c *conn) send(b *lane.Batch, i int, w *wire) error {
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
