package load

import (
	"container/heap"
	"time"

	"tether/bench/internal/clock"
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

func (t timers) Len() int { return len(t) }

func (t timers) Less(i, j int) bool { return t[i].at < t[j].at }

func (t timers) Swap(i, j int) { t[i], t[j] = t[j], t[i] }

func (t *timers) Push(x any) { *t = append(*t, x.(timer)) }

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
