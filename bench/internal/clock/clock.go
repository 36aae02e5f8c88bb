// Package clock is the one clock of a benchmark: nanoseconds that mean the same in every process of
// this machine, so that a message stamped by one process can be timed by another. On Linux it is
// CLOCK_MONOTONIC, which is also what process.hrtime of Node reads; elsewhere it is the wall clock.
package clock

import (
	"context"
	"time"
)

var (
	started = time.Now()
	offset  = system()
)

// Now is the time in nanoseconds.
func Now() int64 { return offset + int64(time.Since(started)) }

// Sleep waits until the clock reads t or ctx is done, whichever comes first, and returns the
// context's error. The last two milliseconds are not interruptible and are slept by the operating
// system, because a timer of the runtime may be a millisecond late. Callers that pace a schedule
// lock their thread and call [Sharpen] on it once.
func Sleep(ctx context.Context, t int64) error {
	const precise = 2 * time.Millisecond
	if d := time.Duration(t-Now()) - precise; d > 0 {
		timer := time.NewTimer(d)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
	sleepUntil(t)
	return ctx.Err()
}
