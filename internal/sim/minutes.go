package sim

import (
	"fmt"
	"strings"
	"sync"
	"time"
)

const (
	maxViolations = 20   // that a run keeps
	maxProtocol   = 2000 // lines
)

// minutes are what was done in a run and when, and what was wrong.
type minutes struct {
	began time.Time

	writing    sync.Mutex
	violations []string // guarded by writing
	protocol   []string // guarded by writing
}

func (m *minutes) violate(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	m.note("VIOLATION: %s", text)
	m.writing.Lock()
	defer m.writing.Unlock()
	if len(m.violations) < maxViolations {
		m.violations = append(m.violations, text)
	}
}

func (m *minutes) note(format string, args ...any) {
	at := time.Since(m.began)
	m.writing.Lock()
	defer m.writing.Unlock()
	if len(m.protocol) < maxProtocol {
		m.protocol = append(m.protocol, fmt.Sprintf("%9.4fs  ", at.Seconds())+fmt.Sprintf(format, args...))
	}
}

// complaint is what was wrong with the run of a seed, and the last of what was done; "" if nothing was.
func (m *minutes) complaint(seed uint64, last int) string {
	m.writing.Lock()
	defer m.writing.Unlock()
	if len(m.violations) == 0 {
		return ""
	}
	return fmt.Sprintf("seed %d: %d violations:\n  %s\n%s", seed, len(m.violations),
		strings.Join(m.violations, "\n  "), strings.Join(m.protocol[max(0, len(m.protocol)-last):], "\n"))
}
