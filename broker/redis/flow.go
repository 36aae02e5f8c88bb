package redis

import (
	"errors"
	"slices"
	"sync"
	"time"

	"tether/broker/internal/beat"
	"tether/broker/internal/lane"
)

// What a node has published and may not have read itself, in bytes. Redis keeps what a subscriber does not
// read, and cuts it off at 32 MB, or after a minute with more than 8 MB; see client-output-buffer-limit.
const (
	flowWindow   = 4 << 20         // past it no pipeline leaves
	flowLeast    = flowWindow / 16 // likewise at first, and while beats are slow
	flowParcel   = flowWindow / 64 // pipelines are counted together up to here
	flowOverhead = 64              // of a message, beside its subject and data

	// slowBeat is the round trip of a beat past which there is too much on its way, also if that is few bytes
	// that take long to deliver, or what others publish. A session is given up at four times as much.
	slowBeat = beat.Stamp(beat.Silence / 4)
)

var errBehind = errors.New("redis: this node does not read what it publishes")

// flow keeps a node from publishing more than its own session reads. A beat that is sent when a pipeline has
// been answered comes back behind all of it that is for this node, wherever else it went. So emitters are
// as fast as their node reads, and are never the reason that Redis cuts it off. A program that only
// publishes has no session and no limit: then the flow is nil.
type flow struct {
	pulse *beat.Pulse
	want  chan struct{} // capacity 1; a token asks the writer for a beat

	mu      sync.Mutex
	window  int           // guarded by mu; between flowLeast and flowWindow
	used    int           // guarded by mu; bytes that are being published, or answered and perhaps not read
	sent    []parcel      // guarded by mu; what of it has been answered, in the order of time
	asked   bool          // guarded by mu; no beat has come back since one was asked for
	over    bool          // guarded by mu; the session has ended
	changed chan struct{} // guarded by mu; closed when a beat has come back, or it is over; nil: nobody waits
}

// parcel is what had been answered by a moment.
type parcel struct {
	at    beat.Stamp
	bytes int
}

func newFlow(p *beat.Pulse) *flow {
	return &flow{pulse: p, window: flowLeast, want: make(chan struct{}, 1)}
}

// sizeOf is what a pipeline takes of the window.
func (f *flow) sizeOf(b *lane.Batch) int {
	if f == nil {
		return 0
	}
	n := 0
	for i := range b.Len() {
		m := b.Message(i)
		n += len(m.Subject) + len(m.Data) + flowOverhead
	}
	return n
}

// begin waits until a pipeline of n bytes may leave, and calls alive for every beat that comes back meanwhile.
// It fails when none has for timeout.
func (f *flow) begin(n int, timeout time.Duration, alive func()) error {
	if f == nil {
		return nil
	}
	var silence *time.Timer
	for {
		changed := f.take(n)
		if changed == nil {
			return nil
		}
		if silence == nil {
			silence = time.NewTimer(timeout)
			defer silence.Stop()
		}
		select {
		case <-changed:
			alive()
			silence.Reset(timeout)
		case <-silence.C:
			return errBehind
		}
	}
}

// take takes n bytes of the window, or returns what is closed when it is time to try again. What is larger
// than the room that is left is let through, so that it need not wait until all others have stopped.
func (f *flow) take(n int) (changed <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || f.used < f.window {
		f.used += n
		return nil
	}
	if f.changed == nil {
		f.changed = make(chan struct{})
	}
	return f.changed
}

// done says that a pipeline of n bytes has been answered, or has failed.
func (f *flow) done(n int) {
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return
	}
	p := parcel{f.pulse.Now(), n}
	if last := len(f.sent) - 1; last >= 0 && f.sent[last].bytes < flowParcel {
		p.bytes += f.sent[last].bytes
		f.sent = f.sent[:last]
	}
	f.sent = append(f.sent, p)
	f.askLocked()
}

func (f *flow) askLocked() {
	if f.asked || f.used < f.window/4 || len(f.sent) == 0 {
		return
	}
	f.asked = true
	select {
	case f.want <- struct{}{}:
	default:
	}
}

// back says that a beat has come back. Out of turn they are asked for when a quarter of the window is used.
func (f *flow) back() {
	last := f.pulse.Last()
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for ; n < len(f.sent) && f.sent[n].at <= last; n++ {
		f.used -= f.sent[n].bytes
	}
	f.sent = slices.Delete(f.sent, 0, n)
	if f.pulse.Now()-last > slowBeat {
		f.window = max(f.window/2, flowLeast)
	} else if f.asked { // a larger one is of use
		f.window = min(2*f.window, flowWindow)
	}
	f.asked = false
	f.askLocked()
	f.wakeLocked()
}

// end lets everybody through: the session has ended, and nothing is read by it.
func (f *flow) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.over = true
	f.wakeLocked()
}

func (f *flow) wakeLocked() {
	if f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}
