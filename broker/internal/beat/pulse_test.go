package beat_test

import (
	"testing"
	"testing/synctest"
	"time"

	"tether/broker/internal/beat"
)

func TestTheLastGoodMomentIsWhenTheReturnedBeatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		p := beat.NewPulse()
		if !p.Time(p.Last()).Equal(start) {
			t.Fatalf("a new pulse: got %v, want %v", p.Time(p.Last()), start)
		}
		time.Sleep(time.Second)
		first := p.AppendBeat(nil)
		time.Sleep(time.Second)
		second := p.AppendBeat(nil)
		time.Sleep(500 * time.Millisecond)
		for _, b := range [][]byte{second, first, second} {
			if !p.Back(b) {
				t.Fatalf("beat %s was refused", b)
			}
			if got, want := p.Time(p.Last()), start.Add(2*time.Second); !got.Equal(want) {
				t.Fatalf("after beat %s: got %v, want %v", b, got, want)
			}
		}
	})
}

func TestAPulseIsSilentAfterTwoSecondsAndStaleAfterThree(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := beat.NewPulse()
		stamp := p.Last()
		b := p.AppendBeat(nil)
		for _, c := range []struct {
			after         time.Duration
			silent, fresh bool
		}{
			{0, false, true},
			{beat.Silence - 1, false, true},
			{beat.Silence, true, true},
			{beat.Fresh, true, true},
			{beat.Fresh + 1, true, false},
		} {
			time.Sleep(c.after - time.Duration(p.Now()))
			if p.Silent() != c.silent || p.Fresh(stamp) != c.fresh {
				t.Errorf("after %v: silent %t, fresh %t", c.after, p.Silent(), p.Fresh(stamp))
			}
		}
		p.Back(b) // it was sent before the freeze, and says nothing about now
		if p.Fresh(p.Last()) {
			t.Error("a beat that was sent before the freeze made messages fresh")
		}
		p.Back(p.AppendBeat(nil))
		if p.Silent() || !p.Fresh(p.Last()) {
			t.Error("a fresh beat did not end the silence")
		}
	})
}

func FuzzForeignBeatsAreRefused(f *testing.F) {
	for _, s := range []string{"", "0", "-1", "+5", "x", "99999999999999999999", "9223372036854775807", "1e3", " 1", "0x1"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := beat.NewPulse()
		took := p.Back(b)
		if last := p.Last(); last < 0 || last > p.Now() {
			t.Fatalf("beat %q moved the last good moment to %d", b, last)
		}
		if !took && p.Last() != 0 {
			t.Fatalf("a refused beat %q moved the last good moment", b)
		}
	})
}
