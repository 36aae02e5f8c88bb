package budget

import (
	"slices"
	"sync"
	"testing"
)

// TestTheFirstEnds has those between the first and the last complete.
func TestTheFirstEnds(t *testing.T) {
	b := Budget{Limit: 10 * Small}
	var ended []int
	all := make([]*Share, 6)
	for i := range all {
		all[i] = &Share{End: func() { ended = append(ended, i) }}
		b.Hold(all[i], Small)
	}
	for _, i := range []int{1, 2, 4} {
		b.Hold(all[i], 0)
	}
	b.Hold(all[5], 9*Small)
	if want := []int{0}; !slices.Equal(ended, want) {
		t.Errorf("%v ended, want %v", ended, want)
	}
	b.Hold(all[5], 10*Small)
	if want := []int{0, 3}; !slices.Equal(ended, want) {
		t.Errorf("%v ended, want %v", ended, want)
	}
	b.Hold(all[5], 11*Small)
	if bytes, shares := b.Held(); !slices.Equal(ended, []int{0, 3, 5}) || bytes != 0 || shares != 0 {
		t.Errorf("%v ended; %d bytes of %d are counted", ended, bytes, shares)
	}
}

func TestWhatIsSmallDoesNotCount(t *testing.T) {
	b := Budget{Limit: Small}
	s := &Share{End: func() { t.Error("it has ended") }}
	b.Hold(s, Small-1)
	if bytes, shares := b.Held(); bytes != 0 || shares != 0 {
		t.Errorf("%d bytes of %d are counted", bytes, shares)
	}
	b.Hold(s, Small)
	b.Hold(s, Small-1)
	if bytes, shares := b.Held(); bytes != 0 || shares != 0 {
		t.Errorf("%d bytes of %d are counted", bytes, shares)
	}
}

func TestWhatWasDroppedHoldsNothing(t *testing.T) {
	b := Budget{Limit: -1}
	s := &Share{End: func() { t.Error("it has ended") }}
	var wg sync.WaitGroup
	wg.Go(func() {
		for range 1000 {
			b.Hold(s, 1<<20)
		}
	})
	b.Drop(s)
	wg.Wait()
	if bytes, shares := b.Held(); bytes != 0 || shares != 0 {
		t.Errorf("%d bytes of %d are counted", bytes, shares)
	}
}
