package load

import (
	"strconv"
	"time"

	"tether/bench/internal/mark"
)

// emission is an [Emission] under way.
type emission struct {
	Emission
	prefix  []byte
	n       int64            // events that were due and done
	next    int              // slot that emits next
	pending map[uint64]int64 // when the events that are not answered were due, by slot and number
}

const maxPending = 1 << 20 // events that were never answered are forgotten beyond it

// Emit makes the connections that are up emit, in turn.
func (l *Loop) Emit(e Emission) {
	l.emission = &emission{Emission: e, pending: map[uint64]int64{}}
	l.emission.prefix = strconv.AppendQuote([]byte("["), e.Event)
}

// emit emits what is due and returns when more is due, 0 when there is no more.
func (l *Loop) emit(now int64) (next int64) {
	e := l.emission
	end := e.Start + int64(e.Warm+e.Time)
	var packet []byte
	for {
		due := e.Start + int64(float64(e.n)*1e9/e.Rate)
		if due >= end {
			return 0
		}
		if due > now {
			return due
		}
		e.n++
		c := l.nextUp(e)
		if c == nil {
			continue // nobody is up; the event is skipped, and the count of sent events shows it
		}
		c.seq++
		packet = append(packet[:0], "42"...)
		if e.Ack {
			packet = strconv.AppendUint(packet, c.seq, 10)
			if len(e.pending) < maxPending {
				e.pending[uint64(c.slot)<<32|c.seq&0xffff_ffff] = due
			}
		}
		packet = append(packet, e.prefix...)
		packet = append(packet, `,"`...)
		packet = mark.Append(packet, mark.Mark{
			Run: l.o.Run, Publisher: e.Publisher, Warm: due < e.Start+int64(e.Warm), User: c.user, Seq: c.seq, At: due,
		}, e.Size)
		packet = append(packet, `"]`...)
		l.stats.Sent++
		l.send(c, opText, packet)
	}
}

func (l *Loop) nextUp(e *emission) *conn {
	for range l.conns {
		c := l.conns[e.next%len(l.conns)]
		e.next++
		if c.state == up && !c.slow {
			return c
		}
	}
	return nil
}

func (l *Loop) answered(c *conn, b []byte) {
	e, id := l.emission, ackID(b)
	if e == nil || id < 0 {
		return
	}
	key := uint64(c.slot)<<32 | uint64(id)&0xffff_ffff
	due, ok := e.pending[key]
	if !ok {
		return
	}
	delete(e.pending, key)
	l.stats.Answered++
	if due >= e.Start+int64(e.Warm) {
		l.answer.Add(time.Duration(l.now - due))
	}
}
