package load

import (
	"container/heap"
	"strconv"
	"time"

	"tether/bench/internal/clock"
	"tether/bench/internal/mark"
)

type timerKind uint8

const (
	timeOut  timerKind = iota // of a handshake
	leave                     // a churning connection's life is over
	comeBack                  // it was away long enough
)

type timer struct {
	at    int64
	c     *conn
	epoch uint32 // of c when it was set; it is void when c has moved on
	kind  timerKind
}

// timers is a heap for container/heap.
type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	*t = (*t)[:last]
	return x
}

// plan sets a timer for c after a random time with the given mean.
func (l *Loop) plan(c *conn, mean time.Duration, kind timerKind) {
	at := clock.Now() + int64(min(l.rng.ExpFloat64(), 8)*float64(mean))
	heap.Push(&l.timers, timer{at, c, c.epoch, kind})
}

func (l *Loop) expire(t timer, now int64) {
	c := t.c
	if t.epoch != c.epoch {
		return
	}
	switch {
	case t.kind == timeOut && c.state > away && c.state < up:
		l.lost(c, "handshake timeout")
	case t.kind == leave && c.state == up && l.churning:
		if l.rng.IntN(2) == 0 { // the others vanish
			l.goodbye(c)
		}
		if c.state == up {
			l.closeFD(c)
			c.state = away
			l.stats.Up--
			l.stats.Left++
			l.plan(c, l.o.Away, comeBack)
		}
	case t.kind == comeBack && c.state == away:
		l.open(c, now)
	}
}

// Churn lets the connections that are meant to leave and come back do so, or no longer. Those that
// are away come back in any case.
func (l *Loop) Churn(on bool) {
	l.churning = on
	for _, c := range l.conns {
		if on && c.churn && c.state == up {
			l.plan(c, l.o.Life, leave)
		}
	}
}

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
