package transport

import (
	"sync/atomic"
	"time"
)

// run is a run of Sends: those that follow each other without a pause of quietTime.
//
// A Send writes in its own goroutine while that is what costs least: the first of a run, and those that
// follow it, each to another client than the one before. Two to one client are the beginning of a burst:
// from then on to the end of the run packets are queued, and the Send that turns to another client writes
// what the ones before it have queued for theirs, all of a burst at once. What nobody comes after is left
// to a flusher. After runWrites of both kinds the run is a fan-out or a backlog, and all that comes is left
// to the flushers, which are several.
type run struct {
	now func() int64 // nanoseconds

	last   atomic.Int64            // when the last Send wrote, or looked
	to     atomic.Pointer[session] // whom it was for
	writes atomic.Int32            // by Sends of this run; not counted much further than runWrites
	burst  atomic.Bool             // one client got two in a row
}

const (
	quietTime = 20 * time.Microsecond
	runWrites = 32
)

// direct reports whether a Send to s, for which nothing waits, is to write.
func (r *run) direct(s *session) bool {
	now := r.now()
	if now-r.last.Swap(now) > int64(quietTime) {
		r.to.Store(s)
		r.writes.Store(1)
		r.burst.Store(false)
		return true
	}
	if r.to.Swap(s) == s {
		r.burst.Store(true)
		return false
	}
	return !r.burst.Load() && r.more()
}

// more reports whether a Send of this run may write, and counts it.
func (r *run) more() bool {
	return r.writes.Load() < runWrites && r.writes.Add(1) <= runWrites
}

// wrote is called when a Send has written.
func (r *run) wrote() { r.last.Store(r.now()) }
