package transport

import (
	"sync/atomic"
	"time"
)

// burst is a burst of Sends: those that follow each other without a pause of quietTime.
//
// A Send writes in its own goroutine while that is what costs least: the first of a burst, and those that
// follow it, each to another client than the one before. Two in a row to one client promise more: from then
// on to the end of the burst packets are queued, and the Send that turns to another client writes what the
// ones before it have queued for theirs, all of it at once. What no Send comes after is left to a flusher.
// After burstWrites of both kinds the burst is a fan-out or a backlog, and all that comes is left to the
// flushers, which are several.
type burst struct {
	now func() int64 // nanoseconds

	last   atomic.Int64            // when the last Send wrote, or looked
	to     atomic.Pointer[session] // whom it was for
	writes atomic.Int32            // by Sends of this burst; not counted much further than burstWrites
	queues atomic.Bool             // one client got two in a row

	bytes atomic.Uint64 // written so far, by anybody; here because each write of a Send has this line anyway
}

const (
	quietTime   = 20 * time.Microsecond
	burstWrites = 32
)

// direct reports whether a Send to s, for which nothing waits, is to write.
func (b *burst) direct(s *session) bool {
	now := b.now()
	if now-b.last.Swap(now) > int64(quietTime) {
		b.to.Store(s)
		b.writes.Store(1)
		b.queues.Store(false)
		return true
	}
	if b.to.Swap(s) == s {
		b.queues.Store(true)
		return false
	}
	return !b.queues.Load() && b.more()
}

// more reports whether a Send of this burst may write, and counts it.
func (b *burst) more() bool {
	return b.writes.Load() < burstWrites && b.writes.Add(1) <= burstWrites
}

// wrote is called when a Send has written.
func (b *burst) wrote() { b.last.Store(b.now()) }
