package deptest

import (
	"fmt"
	"strings"
	"testing"
)

// recorder keeps what a test would have reported.
type recorder struct {
	testing.TB
	errors []string
}

func (r *recorder) Helper() {}
func (r *recorder) Errorf(format string, args ...any) {
	r.errors = append(r.errors, fmt.Sprintf(format, args...))
}

const self = "tether/internal/deptest"

func TestForbidReportsADependencyWithItsReasonAndChain(t *testing.T) {
	r := &recorder{TB: t}
	Forbid(r, self, map[string]string{"internal/poll": "just because"})
	if len(r.errors) != 1 {
		t.Fatalf("got %d reports, want 1: %q", len(r.errors), r.errors)
	}
	for _, want := range []string{self + " must not depend on internal/poll: just because", self + " -> ", " -> internal/poll"} {
		if !strings.Contains(r.errors[0], want) {
			t.Errorf("got %q, want %q in it", r.errors[0], want)
		}
	}
}

func TestForbidCoversWhatIsBelowAPathButNotItsNamesakes(t *testing.T) {
	r := &recorder{TB: t}
	Forbid(r, self, map[string]string{"o": "", "net": "", "tether": "its own package does not count"})
	if len(r.errors) != 0 {
		t.Errorf("got %q, want no report", r.errors)
	}
	Forbid(r, self, map[string]string{"os": ""})
	if len(r.errors) < 2 {
		t.Errorf("got %q, want os and os/exec", r.errors)
	}
}

func TestOnlyTheStandardLibraryIsNeeded(t *testing.T) {
	Only(t, self)
}

func TestOnlyReportsWhatIsNotAllowed(t *testing.T) {
	r := &recorder{TB: t}
	Only(r, "tether/internal/socketio")
	Only(r, "tether/broker", "tether/nothing")
	if len(r.errors) != 0 {
		t.Errorf("got %q, want no report", r.errors)
	}
}
