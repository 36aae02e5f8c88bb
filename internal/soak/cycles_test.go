package soak

import (
	"fmt"
	"runtime"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"tether/hub"
	"tether/transport"
)

// Clients come and go, in every way, on every carrier; goroutines, descriptors and the heap return to
// where they were, and the heap has no slope.
func TestComingAndGoingLeavesNothingBehind(t *testing.T) {
	for _, c := range []struct {
		name    string
		options transport.Options
	}{
		{"a goroutine each", transport.Options{}},
		{"epoll", transport.Options{Epoll: true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			comingAndGoing(t, amount("TETHER_SOAK_CYCLES", 10_000, 1_000_000), c.options)
		})
	}
}

// pooled is how many goroutines a transport may keep for later beyond those that it had at first: as many as it once
// needed at the same time, and the test has 32 clients at a time. Those that leak are as many as the cycles.
const pooled = 32

// footprint is what a process has in use.
type footprint struct {
	goroutines, descriptors int
	heap                    uint64
}

// comeAndGo has the i-th client come, by one transport or another, and go in one way or another.
func (n *node) comeAndGo(t *testing.T, i int) {
	c := newClient(nil, "", n.addr, "u"+strconv.Itoa(i%1000))
	how := webSocket
	switch i % 20 {
	case 3, 11, 17:
		how = polling
	case 19:
		how = upgrading
	}
	if err := c.start(how); err != nil {
		t.Errorf("cycle %d: %v", i, err)
		return
	}
	if how == upgrading || i%10 == 0 || i%40 == 3 {
		n.hub.Emitter().Disconnect(t.Context(), hub.User(c.user), true)
	} else {
		c.hangUp(i%2 == 0)
	}
	<-c.done
}

func footprintNow() footprint {
	pollers.CloseIdleConnections()
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return footprint{runtime.NumGoroutine(), openDescriptors(), m.HeapAlloc}
}

func comingAndGoing(t *testing.T, cycles int, to transport.Options) {
	r := newRig(t, "memory://", "", 1, time.Second, hub.Options{}, to)
	n := r.nodes[0]
	var done atomic.Int64
	cycle := func(i int) {
		defer done.Add(1)
		n.comeAndGo(t, i)
	}
	measure := func() footprint {
		must(t, "no connections, sockets and rooms", func() bool { // a room goes with its subscription, a little later
			s := n.hub.Stats()
			return s.Connections+s.Sockets+s.Rooms == 0
		})
		return footprintNow()
	}
	settled := func(base footprint, heap uint64) (f footprint, in bool) {
		_, in = within(wait, func() bool {
			f = measure()
			return f.goroutines <= base.goroutines+pooled && f.descriptors <= base.descriptors && f.heap <= base.heap+heap
		})
		return f, in
	}
	each(2000, 32, cycle) // pools, tables and the like come into being
	done.Store(0)
	stop := watched(t, func() string { return fmt.Sprintf("%d of %d cycles", done.Load(), cycles) })
	base := measure() // the watcher included
	const parts = 10
	var last footprint
	var heaps [parts]float64 // MiB beyond the base
	var busy time.Duration
	for i := range parts {
		began := time.Now()
		each(cycles/parts, 32, cycle)
		busy += time.Since(began)
		var in bool
		heap := uint64(64 << 20) // what has just ended is kept for a second
		if i == parts-1 {
			heap = 8 << 20
		}
		if last, in = settled(base, heap); !in {
			t.Errorf("after %d cycles: goroutines %d, were %d; descriptors %d, were %d; heap %d, was %d",
				done.Load(), last.goroutines, base.goroutines, last.descriptors, base.descriptors, last.heap, base.heap)
			break
		}
		heaps[i] = (float64(last.heap) - float64(base.heap)) / (1 << 20)
	}
	stop()
	growth, rise := heaps[parts-1], slope(heaps[parts/2:])
	figure(t, "cycles", "%d cycles (80 %% WebSocket, 15 %% polling, 5 %% upgraded) at %.0f a second: goroutines %+d, descriptors %+d, heap %+.1f MiB, slope %+.3f MiB each 100,000 cycles in the second half",
		done.Load(), float64(done.Load())/busy.Seconds(), last.goroutines-base.goroutines, last.descriptors-base.descriptors,
		growth, rise*parts*100_000/float64(cycles))
}

// slope is that of the line that fits best through points at 0, 1, 2 and so on.
func slope(points []float64) float64 {
	n := float64(len(points))
	var sumX, sumY, sumXY, sumXX float64
	for i, y := range points {
		x := float64(i)
		sumX, sumY, sumXY, sumXX = sumX+x, sumY+y, sumXY+x*y, sumXX+x*x
	}
	return (n*sumXY - sumX*sumY) / (n*sumXX - sumX*sumX)
}
