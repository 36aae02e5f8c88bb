package transport

import (
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// send writes as much of b to a socket as it takes at once. The call cannot block, so the runtime is
// not told of it: it would take the processor away from a goroutine that is back in a few
// microseconds, and keep a thread awake to watch for that. b must not be empty.
func send(fd int, b []byte) (int, error) {
	n, _, e := syscall.RawSyscall6(unix.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)),
		unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
	if e != 0 {
		return 0, e
	}
	return int(n), nil
}

const canNap = true

// nap is about 60 µs longer than d. A timer of the runtime may be late by a millisecond.
func nap(d time.Duration) { unix.Nanosleep(&unix.Timespec{Nsec: int64(d)}, nil) }
