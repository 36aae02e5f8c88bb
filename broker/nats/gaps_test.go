package nats

import (
	"errors"
	"testing"
	"time"
)

func TestAGapBeginsWithTheEarliestOfItsLosses(t *testing.T) {
	first, second := errors.New("first"), errors.New("second")
	noon := time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)
	var g gaps
	g.open(noon, "a", first)
	g.open(noon.Add(-time.Second), "b", second) // found out later, and older
	g.open(noon.Add(time.Second), "c", second)
	g.end(noon.Add(time.Minute))
	got := g.take()
	if len(got) != 1 {
		t.Fatalf("%d gaps, want 1", len(got))
	}
	if from, to := noon.Add(-time.Second), noon.Add(time.Minute); !got[0].From.Equal(from) || !got[0].To.Equal(to) {
		t.Errorf("from %v to %v, want from %v to %v", got[0].From, got[0].To, from, to)
	}
	if got[0].Cause != first || len(got[0].Subjects) != 3 {
		t.Errorf("got cause %v and subjects %q", got[0].Cause, got[0].Subjects)
	}
}
