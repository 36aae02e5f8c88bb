//go:build race

package webhook

import "runtime"

// With the race detector, goroutines of a bubble run on one thread at a time: where two of them meet timers that are
// due, Go 1.26 crashes in ThreadSanitizer (golang/go#78156).
func init() { runtime.GOMAXPROCS(1) }
