package types

import (
	"testing"

	"tether/internal/deptest"
)

// guts is large: a program that serves or emits must not get it.
func TestNobodyElseNeedsWhatTypesNeeds(t *testing.T) {
	for _, pkg := range []string{"tether/hub", "tether/transport", "tether/hubtest", "tether/cmd/tether"} {
		deptest.Forbid(t, pkg, map[string]string{
			"tether/types":           "it is for programs that write types",
			"github.com/coder/guts":  "it is for programs that write types",
			"github.com/dop251/goja": "it is for programs that write types",
		})
	}
}
