// Package brokertest holds what every driver of [broker.Broker] must do, as tests and benchmarks that
// a driver's own tests call.
package brokertest

import (
	"context"
	"errors"
	"fmt"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
	"tether/internal/long"
)

// Harness is what the suite needs of a driver. Functions that are nil say that something cannot be
// done with this backend here; the tests that need it are skipped and say so.
type Harness struct {
	// New returns one more node on one backend that all nodes of the harness share. The suite runs
	// and closes it; what else there is to close, New leaves to tb.Cleanup.
	New func(tb testing.TB) broker.Broker

	// Bound is how far receipts can be trusted: Exact or AtLeast.
	Bound broker.Bound

	// MaxData is the length of the largest Data that is carried; one more byte is ErrTooLarge. Zero:
	// there is no limit that a test could reach.
	MaxData int

	// Stop kills the backend and Start starts it again at the same address, both returning when that
	// is done. Subscribers and everything else that the backend remembers are lost.
	Stop, Start func(tb testing.TB)

	// Pause makes the backend fall silent without closing anything, Resume lets it go on.
	Pause, Resume func(tb testing.TB)

	// Freezable returns a node like New, and functions that make its link fall silent both ways
	// without closing anything, and let it go on with all that was held back.
	Freezable func(tb testing.TB) (b broker.Broker, freeze, thaw func())

	// KeepsFrozen says that this backend cannot cease to count a frozen node, as a stand-in may not.
	KeepsFrozen bool

	// Overtakes says that this backend may confirm the end of a subscription ahead of messages that it has
	// counted for it, as a stand-in may.
	Overtakes bool

	late *atomic.Int32 // receipts of a test that were unknown because no answer had come in time
}

const (
	// patience is how long a test waits for what must happen at all.
	patience = 20 * time.Second

	// deathTime is the time after which a dead node is not counted: five seconds and a margin for
	// slow machines.
	deathTime = 7 * time.Second

	// mostLate is how many receipts of a test may be unknown, and how often a call that failed is made again, because
	// a machine with other work has kept the backend from its answer.
	mostLate = 10
)

// slow reports whether err may be due to a machine that has other work.
func slow(err error) bool {
	return errors.Is(err, broker.ErrUnavailable) && shared()
}

// shared reports whether the machine may have other work.
func shared() bool { return long.Limit(time.Second) > time.Second }

// Run runs the suite. Other tests may run at the same time.
func Run(t *testing.T, h Harness) {
	for _, group := range [][]test{basics, order, subjects, calls, questions, failures} {
		for _, c := range group {
			t.Run(c.name, func(t *testing.T) {
				// What the test starts has its label, and what that starts too.
				pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(label, t.Name())))
				t.Cleanup(func() { awaitNoGoroutines(t) })
				h.late = new(atomic.Int32)
				c.run(t, h)
			})
		}
	}
}

// label is the name of the label of a test's goroutines.
const label = "brokertest"

type test struct {
	name string
	run  func(*testing.T, Harness)
}

// awaitNoGoroutines fails the test if a goroutine of a driver outlives its broker.
func awaitNoGoroutines(t *testing.T) {
	deadline := time.Now().Add(patience)
	for {
		left := driverGoroutines(t.Name())
		if left == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("a goroutine is left:\n%s", left)
			return
		}
		pause()
	}
}

// driverGoroutines returns the stack of a goroutine that a test has started, and that runs code of a broker and
// is not the suite's.
func driverGoroutines(test string) string {
	var profile strings.Builder
	pprof.Lookup("goroutine").WriteTo(&profile, 1)
	mark := fmt.Sprintf("%q:%q", label, test)
	for g := range strings.SplitSeq(profile.String(), "\n\n") {
		if strings.Contains(g, mark) && strings.Contains(g, "/broker/") && !strings.Contains(g, "/brokertest") &&
			!strings.Contains(g, "testing.tRunner") {
			return g
		}
	}
	return ""
}

// pause lets other goroutines go on, where a test can only ask again and again.
func pause() { <-time.After(5 * time.Millisecond) }
