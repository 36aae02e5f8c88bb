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

// publisher is the connection of one lane. It is owned by the lane's goroutine.
type publisher struct {
	c      *conn    // nil: none
	broken clientID // the connection before, if it broke with a pipeline in flight
	trust  int64    // d.failures when the connection was last known to work
}

// send implements lane.Options.Send.
func (d *driver) send(index int, b *lane.Batch) error {
	p := &d.publishers[index]
	if err := d.prepare(p); err != nil {
		return unavailable(err)
	}
	if err := p.c.publish(b); err != nil {
		p.broken = p.c.client
		d.discard(p)
		return unavailable(err)
	}
	p.c.used = time.Now()
	return nil
}

// prepare sees to a connection that works, as far as one can tell without sending a message, and to
// receipts that do not count dead nodes.
func (d *driver) prepare(p *publisher) error {
	failures := d.failures.Load()
	if p.c != nil && (p.trust != failures || time.Since(p.c.used) > idleTime) {
		if _, err := p.c.do("PING"); err != nil {
			d.discard(p)
		}
	}
	if p.c != nil {
		if err := d.lease.reapIfDue(p.c); err != nil {
			d.discard(p)
		}
	}
	if p.c != nil {
		p.trust = failures
		return nil
	}
	c, err := d.dial(context.Background())
	if err != nil {
		return err
	}
	// What the broken connection still has in the server's buffers must not come after what follows.
	// Servers that cannot kill have most likely read it by now.
	if _, err = c.kill(p.broken); err == nil {
		err = d.lease.reapIfDue(c)
	}
	if err != nil {
		c.nc.Close()
		return err
	}
	p.c, p.broken, p.trust = c, clientID{}, failures
	return nil
}

func (d *driver) discard(p *publisher) {
	p.c.nc.Close()
	p.c = nil
	d.failures.Add(1)
}

// publish sends b as one pipeline and reads the answers.
func (c *conn) publish(b *lane.Batch) error {
	c.out = c.out[:0]
	for i := range b.Len() {
		m := b.Message(i)
		c.out = append(c.out, "*3\r\n$7\r\nPUBLISH\r\n"...)
		c.out = appendBulk(c.out, m.Subject)
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
			if err := c.flush(); err != nil {
				return err
			}
		}
	}
	if err := c.flush(); err != nil {
		return err
	}
	for i := range b.Len() {
		n, err := c.rd.integer()
		var refused serverError
		switch {
		case err == nil:
			b.Took(i, broker.Reach{Nodes: int(n)})
		case errors.As(err, &refused):
			b.Fail(i, unavailable(refused))
		default:
			return err
		}
	}
	return nil
}

func unavailable(err error) error { return fmt.Errorf("%w: %w", broker.ErrUnavailable, err) }

func (d *driver) check(m broker.Message) error {
	if len(m.Data) > d.o.MaxMessage || len(m.Subject) > d.o.MaxMessage {
		return fmt.Errorf("%w: more than %d bytes", broker.ErrTooLarge, d.o.MaxMessage)
	}
	return nil
}
