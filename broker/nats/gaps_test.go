package nats

import (
	"context"
	"errors"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/internal/beat"
)

func TestARunThatEndsTellsOfTheLastGap(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var told []error
	first, last := errors.New("first"), errors.New("last")
	r := &run{b: &Broker{link: newLink(nil), cluster: new(cluster)}, pulse: beat.NewPulse()}
	r.h.Gap = func(g broker.Gap) {
		if told = append(told, g.Cause); g.Cause == first {
			r.gaps.open(time.Now(), "", last)
			r.gaps.end(time.Now())
			cancel()
		}
	}
	r.gaps.open(time.Now(), "", first)
	r.gaps.end(time.Now())
	if err := r.watch(ctx); err != nil {
		t.Fatal(err)
	}
	if len(told) != 2 || told[1] != last {
		t.Errorf("got gaps because of %v, want %v", told, []error{first, last})
	}
}

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
