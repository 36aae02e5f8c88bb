package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestPadTimeEndsAtATimeThatHasNothingToDoWithTheWorkBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, work := range []time.Duration{0, time.Microsecond, padTime} {
			var sum time.Duration
			const n = 2000
			for range n {
				began := time.Now()
				time.Sleep(work)
				PadTime(t.Context(), began)
				took := time.Since(began)
				if took < padTime || took >= 2*padTime {
					t.Fatalf("%v of work: took %v", work, took)
				}
				sum += took
			}
			if mean := sum / n; mean < 3*padTime/2-padTime/10 || mean > 3*padTime/2+padTime/10 {
				t.Errorf("%v of work: took %v on average", work, mean)
			}
		}
	})
}

func TestPadTimeDoesNotOutliveItsContextAndAddsNothingToWhatWasSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		PadTime(ctx, began)
		if took := time.Since(began); took != time.Millisecond {
			t.Errorf("took %v", took)
		}
		time.Sleep(time.Second)
		slow := time.Now()
		PadTime(t.Context(), began)
		if took := time.Since(slow); took != 0 {
			t.Errorf("took another %v", took)
		}
	})
}
