package transport

import "sync/atomic"

// descriptor is that of a connection, for system calls that do not wait: they need nothing of what the
// runtime keeps for those that do. It is not closed while one is under way, so none of them is made on
// what has the same number afterwards.
type descriptor struct {
	fd int32

	// uses counts the system calls that are under way. With closed in it there are no more, and the
	// last one closes.
	uses atomic.Int32
}

const closed = 1 << 30

// acquire allows one system call, until release.
func (d *descriptor) acquire() bool {
	for {
		n := d.uses.Load()
		if n&closed != 0 {
			return false
		}
		if d.uses.CompareAndSwap(n, n+1) {
			return true
		}
	}
}

// release reports whether the caller has to close now.
func (d *descriptor) release() (last bool) { return d.uses.Add(-1) == closed }

// shut is called between acquire and release: there is no acquire after it. It reports whether it is
// the first.
func (d *descriptor) shut() bool { return d.uses.Or(closed)&closed == 0 }

// isShut reports whether shut was called.
func (d *descriptor) isShut() bool { return d.uses.Load()&closed != 0 }
