package sim

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"tether/internal/ledger"
)

var (
	oneSeed   = flag.Int64("seed", -1, "run this seed alone, and with -v say what was done")
	firstSeed = flag.Uint64("first", 0, "begin with this seed")
	seedCount = flag.Int("seeds", 0, "run so many seeds; also TETHER_SIM_SEEDS")
	enough    = flag.Int("enough", 3, "end when so many seeds have failed")
)

func count(env string, def int) int {
	if n, err := strconv.Atoi(os.Getenv(env)); err == nil {
		return n
	}
	return def
}

// eachSeed has run go through as many seeds as the flags and the environment say, one after the other, each in a
// bubble. It ends the test at the third with a violation, and returns how many seeds that were. Other tests may run at the
// same time.
func eachSeed(t *testing.T, def int, run func(seed uint64) *minutes) uint64 {
	t.Helper()
	t.Parallel()
	first, n, last := *firstSeed, uint64(cmp.Or(*seedCount, count("TETHER_SIM_SEEDS", def))), 150
	if *oneSeed >= 0 {
		first, n, last = uint64(*oneSeed), 1, maxProtocol
	}
	failed := 0
	for seed := first; seed < first+n && failed < *enough; seed++ {
		var m *minutes
		synctest.Test(t, func(*testing.T) { m = run(seed) })
		if complaint := m.complaint(seed, last); complaint != "" {
			failed++
			t.Error(complaint)
		}
	}
	return n
}

// run runs a plan in a bubble.
func run(t *testing.T, p Plan) (r Report) {
	synctest.Test(t, func(*testing.T) { r = Run(p) })
	return r
}

func complain(t *testing.T, seed uint64, r Report, whole bool) {
	t.Helper()
	protocol := r.Protocol
	if keep := 60; !whole && len(protocol) > keep {
		protocol = protocol[len(protocol)-keep:]
	}
	t.Errorf("seed %d (%s): %d violations:\n  %s\nagain: go test ./internal/sim -run TestSeeds -seed %d -v\nthe end of what was done:\n%s",
		seed, r.Kind, len(r.Violations), strings.Join(r.Violations, "\n  "), seed, strings.Join(protocol, "\n"))
}

// Clusters of real hubs, with everything that can happen to them, keep their promises.
func TestSeeds(t *testing.T) {
	if *oneSeed >= 0 {
		r := run(t, Plan{Seed: uint64(*oneSeed)})
		t.Logf("%s\n%s", strings.Join(r.Protocol, "\n"), r.Counts)
		if len(r.Violations) > 0 {
			complain(t, uint64(*oneSeed), r, true)
		}
		return
	}
	n := cmp.Or(*seedCount, count("TETHER_SIM_SEEDS", defaultSeeds()))
	workers := runtime.GOMAXPROCS(0)
	var mu sync.Mutex
	var total ledger.Counts
	var clients, nodes, gaps, failed int
	var hours float64
	t.Run("all", func(t *testing.T) {
		for worker := range workers {
			t.Run(fmt.Sprint("worker ", worker), func(t *testing.T) {
				t.Parallel()
				for seed := *firstSeed + uint64(worker); seed < *firstSeed+uint64(n); seed += uint64(workers) {
					r := run(t, Plan{Seed: seed})
					mu.Lock()
					add(&total, r.Counts)
					clients, nodes, gaps, hours = clients+r.Clients, nodes+r.Nodes, gaps+r.Gaps, hours+r.Time.Hours()
					bad := len(r.Violations) > 0
					if bad {
						failed++
					}
					over := failed >= *enough
					mu.Unlock()
					if bad {
						complain(t, seed, r, false)
					}
					if over {
						return
					}
				}
			})
		}
	})
	t.Logf("%d seeds, %.0f hours of fake time, %d nodes, %d clients, %d gaps: %v", n, hours, nodes, clients, gaps, total)
}

func add(c *ledger.Counts, o ledger.Counts) {
	c.Sent += o.Sent
	c.Refused += o.Refused
	c.Received += o.Received
	c.Expected += o.Expected
	c.InGap += o.InGap
	c.Lost += o.Lost
	c.Doubled += o.Doubled
	c.Inverted += o.Inverted
	c.Foreign += o.Foreign
	c.Receipts += o.Receipts
	c.Unheard += o.Unheard
}
