// Package tidy gives memory back to the system when a program has become quiet.
package tidy

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	quiet = 10 * time.Second // without a collection of garbage
	from  = 64 << 20         // bytes of heap; a smaller one is left alone
)

// Run gives memory back after a time in which much was needed. It returns when ctx is done. Go collects
// garbage when as much again has been allocated. A server that has become quiet does not allocate, and then
// Go collects only every two minutes. While there is much to do, Run does nothing.
func Run(ctx context.Context) { run(ctx, quiet) }

func run(ctx context.Context, quiet time.Duration) {
	tick := time.NewTicker(quiet)
	defer tick.Stop()
	var last, tidied uint64 // collections: at the last look, and when this was done
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		cycles, held := readHeap()
		if cycles == last && cycles != tidied && held > from {
			debug.FreeOSMemory()
			cycles, _ = readHeap()
			tidied = cycles
		}
		last = cycles
	}
}

// readHeap returns how often garbage has been collected, and how many bytes the process has for its heap.
func readHeap() (cycles, held uint64) {
	s := []metrics.Sample{
		{Name: "/gc/cycles/total:gc-cycles"}, {Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/unused:bytes"}, {Name: "/memory/classes/heap/free:bytes"},
	}
	metrics.Read(s)
	return s[0].Value.Uint64(), s[1].Value.Uint64() + s[2].Value.Uint64() + s[3].Value.Uint64()
}
