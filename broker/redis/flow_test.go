package redis

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker/internal/beat"
)

func TestPipelinesWaitUntilABeatComesBackFromBehindThem(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlow(beat.NewPulse())
		f.window = flowWindow
		comeBack := func(b []byte) {
			f.pulse.Back(b)
			f.back()
		}
		wanted := func() bool {
			select {
			case <-f.want:
				return true
			default:
				return false
			}
		}
		begin := func(n int) {
			t.Helper()
			if err := f.begin(n, time.Second, func() { t.Error("it has waited") }); err != nil {
				t.Error(err)
			}
		}
		begin(flowWindow/4 - 1)
		f.done(flowWindow/4 - 1)
		if wanted() {
			t.Error("a beat is asked for while there is much room")
		}
		begin(flowWindow) // more than there is room for, and room there is
		early := f.pulse.AppendBeat(nil)
		time.Sleep(time.Nanosecond)
		f.done(flowWindow)
		if !wanted() {
			t.Error("no beat is asked for")
		}

		alive, began := 0, make(chan error, 1)
		go func() { began <- f.begin(1, time.Second, func() { alive++ }) }()
		waiting := func() {
			t.Helper()
			synctest.Wait()
			select {
			case err := <-began:
				t.Fatalf("it did not wait: %v", err)
			default:
			}
		}
		waiting()
		for range 5 { // beats that were sent before the second was answered, each within the timeout
			time.Sleep(90 * time.Millisecond)
			comeBack(early)
			if !wanted() {
				t.Error("no other beat is asked for")
			}
			waiting()
		}
		comeBack(f.pulse.AppendBeat(nil))
		if err := <-began; err != nil || alive < 5 {
			t.Errorf("got %v, with %d signs of life", err, alive)
		}
		if f.used != 1 || len(f.sent) != 0 {
			t.Errorf("%d bytes and %d parcels are left, want 1 and 0", f.used, len(f.sent))
		}
	})
}

func TestTheWindowFollowsTheTimeThatBeatsTake(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlow(beat.NewPulse())
		beats := func(n int, took time.Duration, want int) {
			t.Helper()
			for range n {
				f.asked = true
				b := f.pulse.AppendBeat(nil)
				time.Sleep(took)
				f.pulse.Back(b)
				f.back()
			}
			if f.window != want {
				t.Errorf("after %d beats of %v the window is %d, want %d", n, took, f.window, want)
			}
		}
		beats(1, time.Millisecond, 2*flowLeast)
		beats(10, time.Duration(slowBeat), flowWindow)
		beats(1, time.Duration(slowBeat)+1, flowWindow/2)
		beats(20, time.Second, flowLeast)
		beats(1, time.Millisecond, 2*flowLeast)
		beats(20, time.Millisecond, flowWindow)

		f = newFlow(beat.NewPulse())
		f.pulse.Back(f.pulse.AppendBeat(nil))
		if f.back(); f.window != flowLeast {
			t.Errorf("a window of which nobody makes use grows to %d", f.window)
		}
	})
}

func TestNoPipelineWaitsForASessionThatIsSilentOrOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFlow(beat.NewPulse())
		if err := f.begin(flowWindow, time.Second, nil); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if err := f.begin(1, time.Second, nil); !errors.Is(err, errBehind) || time.Since(began) != time.Second {
			t.Errorf("got %v after %v", err, time.Since(began))
		}
		go func() {
			time.Sleep(time.Second / 2)
			f.end()
		}()
		for range 2 {
			if err := f.begin(flowWindow, time.Second, func() {}); err != nil {
				t.Error(err)
			}
		}
		f.done(flowWindow)

		var none *flow // of a program that only publishes
		if err := none.begin(100*flowWindow, time.Second, nil); err != nil {
			t.Error(err)
		}
		none.done(1)
	})
}

// TestManySmallPipelinesAreKeptInFewParcels, however long no beat comes back.
func TestManySmallPipelinesAreKeptInFewParcels(t *testing.T) {
	f := newFlow(beat.NewPulse())
	f.window = flowWindow
	most := 0
	for range flowWindow / 100 {
		if err := f.begin(100, time.Second, nil); err != nil {
			t.Fatal(err)
		}
		f.done(100)
		most = max(most, len(f.sent))
	}
	if most > flowWindow/flowParcel+1 {
		t.Errorf("%d parcels", most)
	}
	f.pulse.Back(f.pulse.AppendBeat(nil))
	f.back()
	if f.used != 0 || len(f.sent) != 0 {
		t.Errorf("%d bytes and %d parcels are left", f.used, len(f.sent))
	}
}
