package nats

import (
	"strconv"
	"time"

	"tether/broker"
)

// look sends a mark to each server where somebody is, to learn which those are, and another to each of
// those that are known: if the route to it is broken, our own server says so.
func (c *cluster) look() error {
	c.mu.Lock()
	stamp := c.nowLocked()
	var known []string
	for id, s := range c.servers {
		if s.present {
			known = append(known, id)
		}
	}
	c.mu.Unlock()
	if err := c.conn.PublishRequest(c.all, c.reply(stamp, ""), nil); err != nil {
		return err
	}
	for _, id := range known {
		if err := c.conn.PublishRequest(c.hello+"."+id, c.reply(stamp, "."+id), nil); err != nil {
			return err
		}
	}
	return nil
}

func (c *cluster) reply(stamp int64, end string) string {
	return c.inbox + strconv.FormatInt(stamp, 36) + end
}

// confirm returns nil when every server where somebody is knows of every change that was made so far
// in epoch e. A server that was heard of and does not answer in time does not count: if it comes back,
// there was a gap.
func (c *cluster) confirm(e epoch, patience time.Duration, deadline time.Time, closed <-chan struct{}) error {
	c.mu.Lock()
	stamp := c.nowLocked()
	c.mu.Unlock()
	var again, enough bool
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	impatient := time.NewTimer(patience)
	defer impatient.Stop()
	tick := time.NewTicker(markAgain)
	defer tick.Stop()
	for sent := false; ; sent = true {
		returned, missing, unsent, changed := c.answers(stamp, again, enough)
		if returned && missing == 0 {
			return nil
		}
		for _, id := range unsent {
			if err := c.conn.PublishRequest(c.hello+"."+id, c.reply(stamp, "."+id), nil); err != nil {
				return err
			}
		}
		if !sent {
			if err := c.conn.Publish(c.reply(stamp, "._"), nil); err != nil {
				return err
			}
		}
		again = false
		select {
		case <-changed:
		case <-tick.C:
			again = true
		case <-impatient.C:
			enough = true
		case <-e.down:
			return errReplaced
		case <-timer.C:
			return errSilent
		case <-closed:
			return broker.ErrClosed
		}
		if c.link.current().n != e.n {
			return errReplaced
		}
	}
}

// answers says what has come back of the marks with a stamp or a later one, and which servers have to
// be sent one. Again means those that have not answered, enough that those are given up.
func (c *cluster) answers(stamp int64, again, enough bool) (own bool, missing int, unsent []string, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	own = c.own >= stamp
	for id, s := range c.servers {
		if !s.present || s.answered >= stamp {
			continue
		}
		if enough && own {
			s.leave()
			continue
		}
		missing++
		if again || s.sent < stamp {
			s.sent = stamp
			unsent = append(unsent, id)
		}
	}
	return own, missing, unsent, c.changed
}

// intact reports whether every server where somebody was since a time has been within reach, as far as can
// be told after a message to each, or a while without an answer. On a single server it always is.
func (c *cluster) intact(e epoch, since time.Time, closed <-chan struct{}) bool {
	if !c.isClustered() {
		return true
	}
	c.mu.Lock()
	stamp := c.nowLocked()
	c.mu.Unlock()
	patience := time.NewTimer(joinPatience)
	defer patience.Stop()
	for waiting := true; waiting; {
		_, missing, unsent, changed := c.answers(stamp, false, false)
		if missing == 0 {
			break
		}
		for _, id := range unsent {
			if c.conn.PublishRequest(c.hello+"."+id, c.reply(stamp, "."+id), nil) != nil {
				return false
			}
		}
		select {
		case <-changed:
		case <-patience.C:
			waiting = false
		case <-e.down:
			return false
		case <-closed:
			return false
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.servers {
		if !s.left.Before(since) {
			return false
		}
	}
	return true
}
