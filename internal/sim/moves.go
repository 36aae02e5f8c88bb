package sim

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"tether/internal/ledger"
)

// join asks to be in a room, leave to leave it. Both are events that a handler of the hub answers.
func (c *client) join(name string) {
	c.mu.Lock()
	if c.sid == "" || c.stays[name] != nil || !c.left.IsZero() || c.kicked {
		c.mu.Unlock()
		return
	}
	stay := c.rec.Ask(c.room(name))
	c.stays[name] = stay
	c.moves[name]++
	delete(c.gone, name)
	c.mu.Unlock()
	c.ask("join", quote(name), func(k packet) {
		c.settled(name)
		if string(k.data) == `["ok"]` {
			stay.Sure()
		}
	})
}

// joinMany asks to be in n rooms that have numbers.
func (c *client) joinMany(from, n int) {
	var stays []*ledger.Stay
	c.mu.Lock()
	if c.many || c.sid == "" || !c.left.IsZero() || c.kicked {
		c.mu.Unlock()
		return
	}
	c.many = true
	for i := from; i < from+n; i++ {
		stay := c.rec.Ask(c.room(manyRoom(i)))
		c.stays[manyRoom(i)] = stay
		stays = append(stays, stay)
	}
	c.mu.Unlock()
	c.ask("many", fmt.Sprintf("[%d,%d]", from, n), func(k packet) {
		if string(k.data) == `["ok"]` {
			for _, s := range stays {
				s.Sure()
			}
		}
	})
}

func (c *client) leave(name string) {
	c.mu.Lock()
	stay := c.stays[name]
	if c.sid == "" || stay == nil || !c.left.IsZero() || c.kicked {
		c.mu.Unlock()
		return
	}
	delete(c.stays, name)
	c.moved[name] = time.Now()
	c.moves[name]++
	stay.Leave()
	c.mu.Unlock()
	c.ask("leave", quote(name), func(packet) {
		stay.Gone()
		c.settled(name)
	})
}

// settled notes that a request to join or leave a room has been answered.
func (c *client) settled(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.moves[name]--
	c.gone[name] = c.moves[name] == 0 && c.stays[name] == nil
}

func quote(s string) string {
	text, _ := json.Marshal(s)
	return string(text)
}

// rooms are those that the client is in, or about to be, beside the fixed ones.
func (c *client) rooms() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var names []string
	for name := range c.stays {
		if name != everyone {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// stayed reports whether the client has not asked to leave a room since a moment.
func (c *client) stayed(room string, since time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.moved[room].Before(since)
}
