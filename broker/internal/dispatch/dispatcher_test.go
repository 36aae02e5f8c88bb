package dispatch_test

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/broker/internal/beat"
	"tether/broker/internal/dispatch"
)

func session(stale func(beat.Stamp)) (*dispatch.Session, func()) {
	done := make(chan struct{})
	return &dispatch.Session{Pulse: beat.NewPulse(), Stale: stale, Done: done}, sync.OnceFunc(func() { close(done) })
}

func live() *atomic.Bool {
	b := new(atomic.Bool)
	b.Store(true)
	return b
}

func TestTheOrderOfEachSubjectHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const subjects, each = 50, 300
		var mu sync.Mutex
		next := make(map[string]int)
		total := 0
		d := dispatch.New(func(m broker.Message) {
			mu.Lock()
			defer mu.Unlock()
			if seq := strconv.Itoa(next[m.Subject]); string(m.Data) != seq {
				t.Errorf("%s: got %s, want %s", m.Subject, m.Data, seq)
			}
			next[m.Subject]++
			total++
		})
		defer d.Close()
		s, _ := session(nil)
		on := live()
		for i := range each {
			for j := range subjects {
				d.Put(s, broker.Message{Subject: strconv.Itoa(j), Data: []byte(strconv.Itoa(i))}, on)
			}
		}
		d.Flush(s)
		synctest.Wait()
		if total != subjects*each {
			t.Errorf("delivered %d, want %d", total, subjects*each)
		}
	})
}

// TestAfterComesBehindWhatWasPut has a worker behind, and a session that is given up with what it has gathered.
func TestAfterComesBehindWhatWasPut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var delivered, called atomic.Int32
		d := dispatch.New(func(broker.Message) { <-release; delivered.Add(1) })
		s, end := session(nil)
		on := live()
		for range 3 {
			d.Put(s, broker.Message{Subject: "s"}, on)
		}
		d.After(s, "s", func() { called.Store(1 + delivered.Load()) })
		d.Flush(s)
		synctest.Wait()
		if called.Load() != 0 {
			t.Error("it was called before what was put is delivered")
		}
		close(release)
		synctest.Wait()
		if n := called.Load(); n != 4 {
			t.Errorf("it was called when %d messages were delivered, want 3", n-1)
		}
		d.After(s, "s", func() { called.Store(-1) })
		end()
		d.Abandon(s)
		if called.Load() != -1 {
			t.Error("it was not called for a session that is given up")
		}
		d.Close()
	})
}

func TestABlockedDeliverPushesBackUntilTheSessionIsDone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := dispatch.New(func(broker.Message) { <-release })
		s, end := session(func(beat.Stamp) {})
		on := live()
		put := make(chan int)
		go func() {
			n := 0
			for d.Put(s, broker.Message{Subject: "s"}, on) {
				n++
			}
			put <- n
		}()
		synctest.Wait()
		end()
		if n := <-put; n < 1000 || n > 2000 {
			t.Errorf("%d messages were taken while Deliver was blocked", n)
		}
		if oldest, any := d.Abandon(s); !any || oldest != 0 {
			t.Errorf("the oldest message that is not delivered: got %d, %t", oldest, any)
		}
		if _, any := d.Abandon(&dispatch.Session{}); any {
			t.Error("another session has messages")
		}
		close(release)
		d.Close()
	})
}

func TestWhatIsTooOldIsNotDeliveredAndSaidToBeStale(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		var stale []beat.Stamp
		first := true
		d := dispatch.New(func(m broker.Message) {
			got = append(got, string(m.Data))
			if first {
				first = false
				time.Sleep(beat.Fresh + 1) // the rest of the batch has become old
			}
		})
		defer d.Close()
		s, _ := session(func(s beat.Stamp) { stale = append(stale, s) })
		on := live()
		for i := range 3 {
			d.Put(s, broker.Message{Subject: "s", Data: []byte(strconv.Itoa(i))}, on)
		}
		d.Flush(s)
		time.Sleep(2 * beat.Fresh)
		synctest.Wait()
		s.Pulse.Back(s.Pulse.AppendBeat(nil))
		d.Put(s, broker.Message{Subject: "s", Data: []byte("fresh")}, on)
		d.Flush(s)
		synctest.Wait()
		if want := []string{"0", "fresh"}; !slices.Equal(got, want) {
			t.Errorf("delivered %q, want %q", got, want)
		}
		if want := []beat.Stamp{0}; !slices.Equal(stale, want) {
			t.Errorf("stale %v, want %v", stale, want)
		}
	})
}

// TestASessionThatEndsOwnsUpToWhatAWorkerHolds abandons a session while a message is being delivered, while another
// waits behind it, and when all is done.
func TestASessionThatEndsOwnsUpToWhatAWorkerHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		d := dispatch.New(func(broker.Message) { <-release })
		defer d.Close()
		s, _ := session(nil)
		on := live()
		want := func(stamp beat.Stamp, any bool) {
			t.Helper()
			if gotStamp, gotAny := d.Abandon(s); gotAny != any || any && gotStamp != stamp {
				t.Errorf("got %v, %v; want %v, %v", gotStamp, gotAny, stamp, any)
			}
		}
		want(0, false)
		d.Put(s, broker.Message{Subject: "s"}, on)
		d.Flush(s)
		synctest.Wait()
		want(0, true)
		time.Sleep(beat.Interval)
		s.Pulse.Back(s.Pulse.AppendBeat(nil))
		d.Put(s, broker.Message{Subject: "s"}, on)
		d.Flush(s)
		synctest.Wait()
		want(0, true)
		release <- struct{}{}
		synctest.Wait()
		want(beat.Stamp(beat.Interval), true)
		close(release)
		synctest.Wait()
		want(0, false)
	})
}

// TestABeatThatComesBackMakesNothingOlderFresh has a message read before a beat comes back and another behind
// it, without a Flush between them, and both reached when only the second is fresh.
func TestABeatThatComesBackMakesNothingOlderFresh(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var got []string
		var stale []beat.Stamp
		d := dispatch.New(func(m broker.Message) {
			got = append(got, string(m.Data))
			if len(got) == 1 {
				time.Sleep(beat.Fresh + 1)
			}
		})
		defer d.Close()
		s, _ := session(func(s beat.Stamp) { stale = append(stale, s) })
		on := live()
		put := func(data string) { d.Put(s, broker.Message{Subject: "s", Data: []byte(data)}, on) }
		put("slow")
		d.Flush(s)
		synctest.Wait()
		put("before")
		time.Sleep(beat.Fresh / 2)
		s.Pulse.Back(s.Pulse.AppendBeat(nil))
		put("behind")
		d.Flush(s)
		time.Sleep(beat.Fresh)
		synctest.Wait()
		if want := []string{"slow", "behind"}; !slices.Equal(got, want) {
			t.Errorf("delivered %q, want %q", got, want)
		}
		if want := []beat.Stamp{0}; !slices.Equal(stale, want) {
			t.Errorf("stale %v, want %v", stale, want)
		}
	})
}

func TestASubjectThatIsNoLongerLiveIsNotDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		release := make(chan struct{})
		var got []string
		d := dispatch.New(func(m broker.Message) {
			<-release
			got = append(got, string(m.Data))
		})
		defer d.Close()
		s, _ := session(nil)
		on := live()
		for i := range 3 {
			d.Put(s, broker.Message{Subject: "s", Data: []byte(strconv.Itoa(i))}, on)
		}
		d.Flush(s)
		synctest.Wait()
		on.Store(false)
		close(release)
		synctest.Wait()
		if want := []string{"0"}; !slices.Equal(got, want) {
			t.Errorf("delivered %q, want %q", got, want)
		}
	})
}

func BenchmarkPut(b *testing.B) {
	b.ReportAllocs()
	d := dispatch.New(func(broker.Message) {})
	defer d.Close()
	s, _ := session(func(beat.Stamp) {})
	on := live()
	subjects := make([]string, 1000)
	for i := range subjects {
		subjects[i] = "user:" + strconv.Itoa(i)
	}
	for i := 0; b.Loop(); i++ {
		d.Put(s, broker.Message{Subject: subjects[i%len(subjects)]}, on)
		if i%100 == 0 {
			s.Pulse.Back(s.Pulse.AppendBeat(nil))
			d.Flush(s)
		}
	}
	d.Flush(s)
}
