package load

import (
	"fmt"
	"maps"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/clock"
	"tether/bench/internal/mark"
)

type broadcastKey struct {
	publisher uint16
	seq       uint64
}

// text takes one Engine.IO packet.
func (l *Loop) text(c *conn, b []byte) (why string) {
	if len(b) > 8 && c.state == up && string(b[:8]) == `42["m","` { // nearly all
		l.stats.Events++
		if m, ok := mark.Parse(b[8:]); ok {
			l.marked(c, m)
		}
		return ""
	}
	switch {
	case len(b) == 0:
		return "empty packet"
	case b[0] == '2':
		l.stats.Pings++
		l.send(c, opText, []byte("3"))
	case b[0] == '1':
		return "Engine.IO close"
	case b[0] == '0':
		if c.state != opening {
			return "second Engine.IO handshake"
		}
		c.state = joining
		l.send(c, opText, append([]byte("40"), l.o.auth(c.user)...))
	case b[0] == '4' && len(b) > 1:
		return l.packet(c, b[1:])
	}
	return ""
}

// packet takes one Socket.IO packet.
func (l *Loop) packet(c *conn, b []byte) (why string) {
	switch b[0] {
	case '0':
		if c.state != joining {
			return "second CONNECT"
		}
		c.state = waiting
		if l.o.Ready == "" {
			l.up(c)
		}
	case '4':
		if len(b) > 80 {
			b = b[:80]
		}
		return "refused: " + string(b[1:])
	case '1':
		return "disconnected by the server"
	case '2', '5':
		l.stats.Events++
		id, array := event(b[1:])
		if array == nil {
			return ""
		}
		if id >= 0 {
			l.send(c, opText, fmt.Appendf(nil, "43%d[]", id))
		}
		if c.state == waiting && called(array, l.o.Ready) {
			l.up(c)
		}
		if m, ok := mark.Parse(firstString(array)); ok {
			l.marked(c, m)
		}
	case '3', '6':
		l.answered(c, b[1:])
	}
	return ""
}

func (l *Loop) up(c *conn) {
	c.state, c.was = up, true
	l.stats.Up++
	l.handshake.Add(time.Duration(l.now - c.due))
	l.lastUp = l.now
	l.handshakeEnded()
	if c.slow {
		l.listen(c)
	}
	if c.churn && l.churning {
		l.plan(c, l.o.Life, leave)
	}
}

func (l *Loop) handshakeEnded() {
	l.stats.InFlight--
	if l.stats.InFlight == 0 && len(l.conns) >= l.target {
		l.finish()
	}
}

func (l *Loop) marked(c *conn, m mark.Mark) {
	l.stats.Received++
	if l.now >= l.window[0] && l.now < l.window[1] {
		l.inWindow++
	}
	verdict := c.check.Take(m, &l.counts)
	if m.Warm || verdict == check.Foreign || c.slow {
		return
	}
	l.latency.Add(time.Duration(l.now - m.At))
	if m.User != mark.Everyone {
		return
	}
	key := broadcastKey{m.Publisher, m.Seq}
	b := l.broadcasts[key]
	if b == nil {
		b = &Broadcast{Publisher: m.Publisher, Seq: m.Seq, At: m.At}
		l.broadcasts[key] = b
	}
	b.Last = l.now
	b.Receivers++
}

// result is what was seen so far, a copy; sent is what the publishers say they sent, nil when that is
// not known: then nothing can be lost.
func (l *Loop) result(sent []check.Sent) *Result {
	r := &Result{
		Snapshot: l.snapshot(), Check: l.counts, Window: l.inWindow, Handshake: l.handshake.Clone(), Latency: l.latency.Clone(),
		Answer: l.answer.Clone(), Failures: maps.Clone(l.failures), LastUp: l.lastUp,
	}
	for _, c := range l.conns {
		if !c.was {
			continue
		}
		if e := l.emission; e != nil && e.Back {
			sent = []check.Sent{{Publisher: e.Publisher, First: c.user, Users: []uint64{c.seq}}}
		}
		if sent != nil {
			c.check.Settle(sent, !c.slow && !c.churn, &r.Check)
		}
	}
	for _, b := range l.broadcasts {
		r.Broadcasts = append(r.Broadcasts, *b)
	}
	return r
}

func (l *Loop) snapshot() Snapshot {
	s := l.stats
	s.At = clock.Now()
	return s
}
