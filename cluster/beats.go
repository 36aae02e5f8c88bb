package cluster

import (
	"context"
	"slices"
	"time"

	"tether/broker"
)

// beat says every second that this node is there, and when it is told to.
func (n *Node) beat(ctx context.Context) {
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	flags := beatHello
	for {
		if n.say(ctx, flags) {
			flags = 0
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-n.announce:
		}
	}
}

// say says one beat. A guest says it to all only when it is new, and otherwise to itself.
func (n *Node) say(ctx context.Context, flags beatFlags) bool {
	ctx, cancel := context.WithTimeout(ctx, publishTimeout)
	defer cancel()
	m := broker.Message{Subject: MembersSubject(n.o.Prefix)}
	if n.o.Self == nil && flags&beatHello == 0 {
		m.Subject = n.subject
	}
	m.Data = n.nextBeat(flags)
	receipts, err := n.broker.Publish(ctx, m)
	if err != nil {
		n.log.Debug("this node could not say that it is there", "error", err)
		return false
	}
	if flags&beatHello != 0 && receipts[0].Bound == broker.Exact {
		listeners := receipts[0].Nodes
		if n.o.Self == nil {
			listeners-- // this one is not on the list
		}
		n.mu.Lock()
		n.roll.expect(listeners, time.Now())
		n.mu.Unlock()
	}
	return true
}

// nextBeat is a message that says how this node is.
func (n *Node) nextBeat(flags beatFlags) []byte {
	b := beat{flags: flags}
	if n.o.Self != nil {
		b.Member = n.o.Self()
	} else {
		b.flags |= beatGuest
	}
	b.Tag = n.o.Tag
	n.mu.Lock()
	b.Topics, b.Peer, b.Digest = topicsOf(n.handlers), n.peer, n.digest
	n.beats++
	b.number = n.beats
	n.mu.Unlock()
	return b.append(slices.Clone(n.o.Head))
}

func topicsOf(handlers map[byte]func(context.Context, *Request) error) string {
	topics := make([]byte, 0, len(handlers))
	for topic := range handlers {
		topics = append(topics, topic)
	}
	slices.Sort(topics)
	return string(topics)
}

func (n *Node) takeBeat(b beat) {
	now := time.Now()
	n.mu.Lock()
	changed := false
	if b.flags&beatGuest == 0 || b.Tag == n.o.Tag {
		changed = n.roll.take(b, now)
	} else if b.flags&beatHello != 0 && n.o.Self != nil && len(n.guests) < maxGuests {
		n.guests = append(n.guests, newGuest{b.Tag, now})
	}
	if changed {
		n.changeLocked()
	}
	n.mu.Unlock()
	if changed {
		give(n.news)
	}
	if b.flags&beatHello != 0 && b.Tag != n.o.Tag && n.o.Self != nil && n.running.Load() {
		n.tryPost(b.Tag, n.nextBeat(0)) // if there is no room, it hears the next beat
	}
}

// changeLocked tells the goroutines that wait that the list is another one.
func (n *Node) changeLocked() {
	n.roll.standing.Changes++
	close(n.changed)
	n.changed = make(chan struct{})
}

// watch ends leases, and passes changes on.
func (n *Node) watch(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.news:
			if n.o.OnChange != nil {
				list, _ := n.Members()
				n.o.OnChange(list)
			}
		case now := <-ticker.C:
			n.look(now)
		}
	}
}

func (n *Node) look(now time.Time) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.roll.expire(now) {
		n.changeLocked()
		give(n.news)
	}
	for len(n.guests) > 0 && now.Sub(n.guests[0].at) >= beatInterval {
		n.introduceLocked(n.guests[0])
		n.guests = n.guests[1:]
	}
	for key, a := range n.answered {
		if now.Sub(a.at) > doubtTime {
			delete(n.answered, key)
		}
	}
}

// newGuest is a guest that has said hello, a beat ago or less.
type newGuest struct {
	tag string
	at  time.Time
}

const maxGuests = 256

// introduceLocked tells a guest of the nodes that have said nothing since it came, and are on the list: it would not know
// of a node that was frozen before, and find nobody missing. It gets their last beats, as they were.
func (n *Node) introduceLocked(g newGuest) {
	for tag, e := range n.roll.entries {
		if !e.off && tag != n.o.Tag && e.renewed.Before(g.at) {
			b := e.beat
			b.flags &^= beatHello
			n.tryPost(g.tag, b.append(slices.Clone(n.o.Head)))
		}
	}
}
