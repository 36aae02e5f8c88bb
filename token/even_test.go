package token

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestEvenEndsAtATimeThatHasNothingToDoWithTheWorkBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, work := range []time.Duration{0, time.Microsecond, evenTime} {
			var sum time.Duration
			const n = 2000
			for range n {
				began := time.Now()
				time.Sleep(work)
				Even(t.Context(), began)
				took := time.Since(began)
				if took < evenTime || took >= 2*evenTime {
					t.Fatalf("%v of work: took %v", work, took)
				}
				sum += took
			}
			if mean := sum / n; mean < 3*evenTime/2-evenTime/10 || mean > 3*evenTime/2+evenTime/10 {
				t.Errorf("%v of work: took %v on average", work, mean)
			}
		}
	})
}

func TestEvenDoesNotOutliveItsContextAndAddsNothingToWhatWasSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		Even(ctx, began)
		if took := time.Since(began); took != time.Millisecond {
			t.Errorf("took %v", took)
		}
		time.Sleep(time.Second)
		slow := time.Now()
		Even(t.Context(), began)
		if took := time.Since(slow); took != 0 {
			t.Errorf("took another %v", took)
		}
	})
}
