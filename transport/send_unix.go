//go:build unix && !linux

package transport

import (
	"syscall"
	"time"
)

// send writes as much of b to a non-blocking socket as it takes at once. b must not be empty.
func send(fd int, b []byte) (int, error) { return syscall.Write(fd, b) }

const canNap = false

func nap(time.Duration) {}
