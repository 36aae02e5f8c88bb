package nats

import (
	"sync"
	"time"

	"tether/broker"
)

// maxGapSubjects is the number of subjects that a gap names before it counts for all.
const maxGapSubjects = 1024

// gaps gathers what may have been missed until that time has ended. The zero value is ready.
type gaps struct {
	mu       sync.Mutex
	isOpen   bool                // guarded by mu
	from     time.Time           // guarded by mu; of the open gap
	subjects map[string]struct{} // guarded by mu; nil: all
	cause    error               // guarded by mu; the first
	ended    []broker.Gap        // guarded by mu; to be told
	lost     []broker.Gap        // guarded by mu; subjects that the server has ended, to be told
}

// open says that something was missed after from: on a subject, or on any if it is empty.
func (g *gaps) open(from time.Time, subject string, cause error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen {
		g.isOpen, g.from, g.cause = true, from, cause
		g.subjects = make(map[string]struct{})
	}
	if from.Before(g.from) {
		g.from = from
	}
	if g.subjects == nil {
		return
	}
	g.subjects[subject] = struct{}{}
	if subject == "" || len(g.subjects) > maxGapSubjects {
		g.subjects = nil
	}
}

// end closes the open gap.
func (g *gaps) end(to time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.isOpen {
		return
	}
	gap := broker.Gap{From: g.from, To: to, Cause: g.cause}
	for s := range g.subjects {
		gap.Subjects = append(gap.Subjects, s)
	}
	g.ended = append(g.ended, gap)
	g.isOpen, g.subjects = false, nil
}

// lose adds subjects that the server has ended: since the open gap began, or else a time.
func (g *gaps) lose(lost broker.Gap, since time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.isOpen {
		since = g.from
	}
	lost.From = since
	g.lost = append(g.lost, lost)
}

// take returns the gaps that have ended since the last time.
func (g *gaps) take() []broker.Gap {
	g.mu.Lock()
	defer g.mu.Unlock()
	ended := g.ended
	g.ended = nil
	return ended
}

// takeLost returns the subjects that were lost since the last time.
func (g *gaps) takeLost() []broker.Gap {
	g.mu.Lock()
	defer g.mu.Unlock()
	lost := g.lost
	g.lost = nil
	return lost
}
