package soak

import (
	"errors"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/backend"
	"tether/transport"
)

// One of three nodes is told to stop under load. Its clients go to the others, spread over the window;
// nothing that was taken is lost; who comes new is refused with 503.
func TestADrainLosesNothing(t *testing.T) {
	onAll(t, func(t *testing.T, brokerURL, addr string) {
		const window = 3 * time.Second
		r := newRig(t, brokerURL, addr, 3, time.Second, hub.Options{DrainWindow: window}, transport.Options{})
		names := users(scaled(200, 1500))
		clients := r.populate(names)
		if t.Failed() {
			return
		}
		stop := make(chan struct{})
		end := r.load(names, stop, 200*time.Microsecond)
		r.flow()
		leaving := r.nodes[0]
		var mu sync.Mutex
		var tenths [12]int
		abrupt := 0
		var back sync.WaitGroup
		began := time.Now()
		for i, c := range clients {
			if i%3 != 0 {
				continue
			}
			back.Go(func() {
				<-c.done
				mu.Lock()
				tenths[min(int(10*time.Since(began)/window), 11)]++
				if !c.farewell {
					abrupt++
				}
				mu.Unlock()
				r.connect(r.nodes[1+rand.IntN(2)], c.user, webSocket)
			})
		}
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
		most := 0
		for _, n := range tenths {
			most = max(most, n)
		}
		figure(t, "drain", "%v; took %v of a window of %v, at most %d of %d clients in a tenth of it, %d without a close frame; 503 after %v",
			counts, took.Round(time.Millisecond), window, most, len(names), abrupt, refused.Round(time.Millisecond))
		if most > len(names)/2 {
			t.Errorf("%d of %d clients were closed in a tenth of the window", most, len(names))
		}
		if abrupt > 0 {
			t.Errorf("%d clients were closed without a close frame", abrupt)
		}
	})
}

// Thousands of clients lose their connection at once and come back at once.
func TestAReconnectStorm(t *testing.T) {
	on(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		n := scaled(5000, 7000)
		r := newRig(t, brokerURL, addr, 2, 2*time.Second, hub.Options{}, transport.Options{})
		clients := make([]*client, n)
		connect := func() time.Duration {
			began := time.Now()
			each(n, 256, func(i int) {
				clients[i] = newClient(nil, "", r.nodes[i%2].addr, "u"+strconv.Itoa(i))
				if err := clients[i].start(webSocket); err != nil {
					t.Errorf("client %d: %v", i, err)
				}
			})
			return time.Since(began)
		}
		first := connect()
		if t.Failed() {
			return
		}
		for _, c := range clients {
			c.conn.Close()
		}
		before, subjects := r.nodes[0].calls.calls.Load()+r.nodes[1].calls.calls.Load(), r.nodes[0].calls.subjects.Load()+r.nodes[1].calls.subjects.Load()
		again := connect()
		calls := r.nodes[0].calls.calls.Load() + r.nodes[1].calls.calls.Load() - before
		subscribed := r.nodes[0].calls.subjects.Load() + r.nodes[1].calls.subjects.Load() - subjects
		if again > 30*time.Second+slack {
			t.Errorf("%d clients took %v to come back", n, again)
		}
		if calls > int64(n) {
			t.Errorf("%d broker calls for %d clients", calls, n)
		}
		p := r.publishers()[2]
		var missed atomic.Int64
		each(200, 4, func(i int) {
			receipt, err := p.emitter.Emit(t.Context(), hub.User("u"+strconv.Itoa(i*n/200)), "n")
			if err != nil || receipt.Nobody() {
				missed.Add(1)
			}
		})
		if missed.Load() > 0 {
			t.Errorf("%d of 200 users cannot be reached", missed.Load())
		}
		figure(t, "storm", "%d clients connected in %v, and after all had lost their connection again in %v (%.0f a second), with %d calls that subscribed %d subjects",
			n, first.Round(time.Millisecond), again.Round(time.Millisecond), float64(n)/again.Seconds(), calls, subscribed)
		each(n, 64, func(i int) { clients[i].conn.Close(); <-clients[i].done })
	})
}
