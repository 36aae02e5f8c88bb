package soak

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/long"
	"tether/transport"
)

// One of three nodes is told to stop under load. Its clients go to the others, spread over the window, and
// each user is emitted to in the instant in which nobody is there; nothing that was taken is lost, by
// everybody in the room or by all of them; new clients are refused with 503.
func TestADrainLosesNothing(t *testing.T) {
	long.Beside(t)
	onAll(t, func(t *testing.T, brokerURL, addr string) {
		const window = 3 * time.Second
		r := newRig(t, brokerURL, addr, 3, patient(time.Second), hub.Options{DrainWindow: window}, transport.Options{})
		names := users(scaled(200, 1500))
		clients := r.populate(names)
		if t.Failed() {
			return
		}
		leaving := r.nodes[0]
		var leavers []*client
		for i := 0; i < len(clients); i += len(r.nodes) {
			leavers = append(leavers, clients[i])
		}
		for i := range scaled(50, 300) { // users that are nowhere else
			names = append(names, "alone-"+strconv.Itoa(i))
			leavers = append(leavers, r.connect(leaving, names[len(names)-1], webSocket))
		}
		if t.Failed() {
			return
		}
		stop := make(chan struct{})
		end := r.load(names, stop, 200*time.Microsecond)
		r.flow()
		elsewhere := publisher{"elsewhere", r.nodes[1].hub.Emitter()}
		var mu sync.Mutex
		var ends []time.Duration // guarded by mu
		abrupt := 0
		var back sync.WaitGroup
		began := time.Now()
		for _, c := range leavers {
			back.Go(func() {
				<-c.done
				mu.Lock()
				ends = append(ends, time.Since(began))
				if !c.farewell {
					abrupt++
				}
				mu.Unlock()
				for range 5 {
					if _, err := r.emit(elsewhere, room(c.user)); err != nil {
						t.Error(err)
					}
				}
				r.connect(r.nodes[1+rand.IntN(2)], c.user, webSocket)
			})
		}
		r.book.Drain(leaving.name)
		leaving.cancel()
		refused, in := within(wait, func() bool {
			c := newClient(nil, leaving.name, leaving.addr, "late")
			var status statusError
			return errors.As(c.dial(""), &status) && status == 503
		})
		if !in {
			t.Error("new clients are not refused")
		}
		<-leaving.ended
		took := time.Since(began)
		if leaving.err != nil {
			t.Errorf("Run: %v", leaving.err)
		}
		back.Wait()
		r.flow()
		close(stop)
		end()
		counts := r.settle()
		var tenths [11]int // of the window, or of the time that a busy machine took
		for _, end := range ends {
			tenths[min(10*end/max(window, slices.Max(ends)), 10)]++
		}
		most := 0
		for _, n := range tenths {
			most = max(most, n)
		}
		figure(t, "drain", "%v; took %v of a window of %v, at most %d of %d clients in a tenth of it, %d without a close frame; 503 after %v",
			counts, took.Round(time.Millisecond), window, most, len(leavers), abrupt, refused.Round(time.Millisecond))
		if most > len(leavers)/2 {
			t.Errorf("%d of %d clients were closed in a tenth of the window", most, len(leavers))
		}
		if abrupt > 0 {
			t.Errorf("%d clients were closed without a close frame", abrupt)
		}
	})
}
