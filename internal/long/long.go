// Package long says which tests run only now and then. `go test ./...` is to be waited for: it takes a part of
// what needs minutes. With TETHER_TEST_LONG=1, which continuous integration sets, all of it runs.
package long

import (
	"os"
	"testing"
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
