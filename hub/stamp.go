package hub

import (
	"sync/atomic"
	"time"

	"tether/broker"
)

// Of the events that a process emits one in sampleEvery carries the time of its emit, so that the node that
// writes it to a connection can say how long that took. The others cost nothing for it: not a byte, not a look
// at the clock.
//
// The time is a microsecond of the wall clock, in its last 32 bits. What comes out is wrong by as much as the
// clocks of the two hosts differ, and right on one host. From the moment when the event has come, monotonic time
// counts.
const (
	sampleEvery = 64
	stampSize   = 4
)

// stamp is the time of now in an envelope.
func (p *publisher) stamp() uint32 {
	if p.hub != nil {
		return uint32(p.hub.options.Time().UnixMicro())
	}
	return uint32(time.Now().UnixMicro())
}

// emitted is when an event was emitted that comes now: at most 35 minutes ago, or ahead.
func (h *Hub) emitted(stamp uint32) time.Time {
	ago := int32(uint32(h.options.Time().UnixMicro()) - stamp)
	return time.Now().Add(-time.Duration(ago) * time.Microsecond)
}

// tally counts what a publisher's emitters emit, by target. It has cache lines of its own: emitters on all cores
// write to it, and read what stands beside it.
type tally struct {
	_       [64]byte
	emitted atomic.Uint64
	_       [64]byte
	nobody  atomic.Uint64
	unknown atomic.Uint64
	failed  atomic.Uint64
}

// sample counts n events, and reports whether they carry their time.
func (t *tally) sample(n int) bool {
	after := t.emitted.Add(uint64(n))
	return after/sampleEvery != (after-uint64(n))/sampleEvery
}

// taken counts what the receipts say.
func (t *tally) taken(receipts []Receipt, err error) {
	var nobody, unknown uint64
	for i := range receipts {
		switch {
		case receipts[i].Nobody():
			nobody++
		case receipts[i].Bound == broker.Unknown:
			unknown++
		}
	}
	if nobody > 0 {
		t.nobody.Add(nobody)
	}
	if unknown == 0 {
		return
	}
	if err != nil {
		t.failed.Add(unknown)
	} else {
		t.unknown.Add(unknown)
	}
}
