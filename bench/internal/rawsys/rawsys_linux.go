// Package rawsys has the few system calls of the hot loops, without the runtime's bookkeeping
// around calls that cannot block: the load generator must cost less than what it measures, and the
// physical limit must be one.
package rawsys

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Read reads from a non-blocking descriptor. p must not be empty.
func Read(fd int, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(unix.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), e
}

// Write writes to a non-blocking descriptor. p must not be empty.
func Write(fd int, p []byte) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(unix.SYS_WRITE, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
	return int(n), e
}

// Writev writes the pieces to a non-blocking descriptor.
func Writev(fd int, pieces []unix.Iovec) (int, syscall.Errno) {
	n, _, e := syscall.RawSyscall(unix.SYS_WRITEV, uintptr(fd), uintptr(unsafe.Pointer(unsafe.SliceData(pieces))), uintptr(len(pieces)))
	return int(n), e
}

// Wait waits for events on an epoll descriptor for at most msec milliseconds, for ever when msec is
// negative. It looks before it blocks, because under load there is always something.
func Wait(epfd int, events []unix.EpollEvent, msec int) (int, error) {
	n, _, e := syscall.RawSyscall6(unix.SYS_EPOLL_PWAIT, uintptr(epfd), uintptr(unsafe.Pointer(unsafe.SliceData(events))), uintptr(len(events)), 0, 0, 0)
	if e == 0 && (n > 0 || msec == 0) {
		return int(n), nil
	}
	k, err := unix.EpollWait(epfd, events, msec)
	if err == unix.EINTR {
		return 0, nil
	}
	return k, err
}
