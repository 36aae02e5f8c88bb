//go:build !unix

package transport

import "time"

// Here connections are read from and written to by goroutines that wait; nothing calls these.
func tryWrite(int, []byte) (int, error) { return 0, nil }

func tryRead(uintptr, []byte) (int, error) { return 0, nil }

func wouldBlock(error) bool { return false }

func interrupted(error) bool { return false }

const canTry = false

const canNap = false

func nap(time.Duration) {}
