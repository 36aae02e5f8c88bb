package tidy

import (
	"context"
	"runtime"
	"runtime/debug"
	"sync"
	"testing"
	"time"
)

// TestAQuietProgramGivesMemoryBack: what was needed once is not kept until somebody needs it again.
func TestAQuietProgramGivesMemoryBack(t *testing.T) {
	const size = 200 << 20
	held := func() uint64 { _, h := readHeap(); return h }
	debug.FreeOSMemory() // of other tests
	before := held()
	big := make([]byte, size)
	for i := 0; i < size; i += 4096 {
		big[i] = 1
	}
	runtime.GC() // it is in use, and counts as such
	runtime.KeepAlive(big)
	if held() < before+size/2 {
		t.Fatalf("%d MiB are held, want %d more than the %d before", held()>>20, size>>20, before>>20)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { run(ctx, 10*time.Millisecond) })
	limit := time.After(20 * time.Second)
	for held() > before+size/2 {
		select {
		case <-limit:
			t.Fatalf("%d MiB are held after a while, %d before", held()>>20, before>>20)
		case <-time.After(time.Millisecond):
		}
	}
	cancel()
	running.Wait()
}

// TestAQuietProgramIsTidiedOnce: what is in use stays in use, however often one looks.
func TestAQuietProgramIsTidiedOnce(t *testing.T) {
	big := make([]byte, 2*from)
	runtime.GC()
	before, _ := readHeap()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	run(ctx, 10*time.Millisecond)
	after, held := readHeap()
	runtime.KeepAlive(big)
	// One of ours; the runtime may have had a reason for another, and then there is one of ours more.
	if n := after - before; n < 1 || n > 4 || held < 2*from {
		t.Errorf("garbage was collected %d times, %d MiB are held", n, held>>20)
	}
}
