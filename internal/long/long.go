// Package long says which tests run only now and then. `go test ./...` is to be waited for: it takes a part of
// what needs minutes. With TETHER_TEST_LONG=1, which continuous integration sets, all of it runs.
package long

import (
	"errors"
	"flag"
	"os"
	"strconv"
	"testing"
	"time"
)

// all is asked within tests and not before: only so does the cache of test results know of the variable.
func all() bool { return os.Getenv("TETHER_TEST_LONG") == "1" }

// Only skips the test unless all tests are to run.
func Only(t testing.TB) {
	t.Helper()
	if !all() {
		t.Skip("it takes long; TETHER_TEST_LONG=1 runs it")
	}
}

// Or is long where all tests are to run, and short elsewhere: a number of rounds, or the rows of a table.
func Or[T any](short, long T) T {
	if all() {
		return long
	}
	return short
}

// Limit is d with TETHER_TEST_QUIET=1, which says that the machine has nothing else to do, and ten times as long
// elsewhere: there a test is about what happens, and not about when.
func Limit(d time.Duration) time.Duration {
	if quiet() {
		return d
	}
	return 10 * d
}

func quiet() bool { return os.Getenv("TETHER_TEST_QUIET") == "1" }

// Again calls f again while it fails so, for half a minute, as it may where the machine has other work. With
// TETHER_TEST_QUIET=1 it calls f once.
func Again[T any](failing error, f func() (T, error)) (v T, err error) {
	for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		if v, err = f(); !errors.Is(err, failing) || quiet() || time.Since(began) > 30*time.Second {
			return v, err
		}
	}
}

// Alone is called by a test with a Limit. Where the limit counts it has the process for itself, elsewhere others run
// at the same time.
func Alone(t *testing.T) {
	if !quiet() {
		t.Parallel()
	}
}

// Beside lets others run at the same time in the default run. Where all tests run, the test has the process for itself.
func Beside(t *testing.T) {
	if !all() {
		t.Parallel()
	}
}

// Parallel lets n tests of a package run at a time, and twice as many in the default run, unless the command line says
// otherwise: for tests that wait more than they compute. TestMain calls it.
func Parallel(n int) { flag.Set("test.parallel", strconv.Itoa(Or(2*n, n))) }
