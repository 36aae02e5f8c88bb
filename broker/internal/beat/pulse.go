// Package beat tells how old the news from a backend is.
//
// A driver sends a beat every [Interval] through the same ordered path that its messages take: the
// same connection, behind whatever is queued there. When the beat that was sent at T comes back, all
// that was published before T has been read. So the time at which the last returned beat was sent is
// the last moment known to be good, and a message that is read while that moment is less than [Fresh]
// ago was published less than that ago.
package beat

import (
	"strconv"
	"sync/atomic"
	"time"
)

const (
	// Interval is the time between two beats.
	Interval = 500 * time.Millisecond

	// Silence is the age of the last good moment at which a connection is given up.
	Silence = 2 * time.Second

	// Fresh is the age of the last good moment up to which messages are delivered. A node that froze,
	// or that is further behind, has been taken off the receipts by then or soon will be: what it
	// still finds in its buffers lies in a gap.
	Fresh = 3 * time.Second
)

// Stamp is a moment of one [Pulse]: nanoseconds of the monotonic clock since it was made.
type Stamp int64

// Pulse keeps the last good moment of one connection. A new connection gets a new Pulse. All methods
// may be called concurrently.
type Pulse struct {
	base time.Time    // immutable; with a monotonic reading
	last atomic.Int64 // Stamp of the last good moment
}

// NewPulse returns a pulse whose last good moment is now.
func NewPulse() *Pulse { return &Pulse{base: time.Now()} }

// Now returns the stamp of this moment.
func (p *Pulse) Now() Stamp { return Stamp(time.Since(p.base)) }

// AppendBeat appends what a beat that is sent now should carry: 1 to 19 digits.
func (p *Pulse) AppendBeat(dst []byte) []byte {
	return strconv.AppendInt(dst, int64(p.Now()), 10)
}

// Back records that a beat came round, and reports whether it was one of this pulse. Beats may come
// back late, twice or out of order; the last good moment never goes backwards.
func (p *Pulse) Back(beat []byte) bool {
	if len(beat) == 0 || len(beat) > 19 {
		return false
	}
	n, err := strconv.ParseInt(string(beat), 10, 64)
	if err != nil || n < 0 || Stamp(n) > p.Now() {
		return false
	}
	p.Returned(Stamp(n))
	return true
}

// Returned records that a beat came round that was sent at a moment.
func (p *Pulse) Returned(at Stamp) {
	for {
		last := p.last.Load()
		if int64(at) <= last || p.last.CompareAndSwap(last, int64(at)) {
			return
		}
	}
}

// Last returns the stamp of the last good moment.
func (p *Pulse) Last() Stamp { return Stamp(p.last.Load()) }

// Time returns the time of a stamp, by the wall clock of when the pulse was made.
func (p *Pulse) Time(s Stamp) time.Time { return p.base.Add(time.Duration(s)) }

// Silent reports whether the connection should be given up.
func (p *Pulse) Silent() bool { return p.age(p.Last()) >= Silence }

// Fresh reports whether a message that was read when s was the last good moment may be delivered now.
func (p *Pulse) Fresh(s Stamp) bool { return p.age(s) <= Fresh }

func (p *Pulse) age(s Stamp) time.Duration { return time.Duration(p.Now() - s) }
