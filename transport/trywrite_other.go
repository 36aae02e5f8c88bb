//go:build !unix

package transport

import "syscall"

// tryWrite is not possible here: connections are written to by goroutines that may wait.
func tryWrite(syscall.RawConn, []byte) (int, error) { return 0, nil }

const canTryWrite = false
