package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/long"
	"tether/transport"
)

// Three nodes, clients on both transports and in the middle of the upgrade, on both carriers, some that
// leave and come back, and are emitted to in the instant in which they know that they are connected,
// hostile user IDs: nothing is lost, doubled, inverted or misdelivered.
func TestNothingIsLostWhileEverythingIsUp(t *testing.T) {
	long.Beside(t)
	onAll(t, func(t *testing.T, brokerURL, addr string) {
		messages := amount("TETHER_SOAK_MESSAGES", 20_000, 1_000_000)
		latency := patient(2 * time.Second)
		long := messages > 100_000
		if long { // other work may keep this process from its own for a while
			latency = 10 * time.Second
		}
		r := newRig(t, brokerURL, addr, 0, latency, hub.Options{}, transport.Options{})
		for i := range 3 {
			r.start(addr, hub.Options{}, transport.Options{Epoll: i == 1})
		}
		names := users(96) // the goroutines of each publisher share them without rest
		stop, leave := make(chan struct{}), make(chan struct{})
		emitted := make([]atomic.Int64, len(names))
		all := make([]*resident, 3*len(names))
		each(len(all), 16, func(i int) {
			all[i] = r.settleDown(r.nodes[(i/len(names)+i)%3], names[i%len(names)], [10]carrier{8: polling, 9: upgrading}[i%10], &emitted[i%len(names)])
		})
		if t.Failed() {
			return
		}
		var residents sync.WaitGroup
		for _, d := range all {
			residents.Go(func() { d.stay(leave) })
		}
		var wanderers sync.WaitGroup
		publishers := r.publishers()
		var tabs atomic.Int64
		for i := range 27 { // one in ten more
			wanderers.Go(func() { r.wander(i, names, publishers, long, latency, &tabs, stop) })
		}

		const parts = 24 // each has users of its own, and so one goroutine for each stream
		began, still := time.Now(), stood()
		var wg sync.WaitGroup
		var sent atomic.Int64
		unwatch := watched(t, func() string {
			r.book.Forget(30 * time.Second)
			return fmt.Sprintf("%d tabs; %v", tabs.Load(), r.book.Counts())
		})
		for _, p := range publishers {
			for part := range parts {
				wg.Go(func() {
					for i := part; sent.Add(1) <= int64(messages) && !t.Failed(); i += parts {
						u := i % len(names)
						behind(all[u], all[u+len(names)], all[u+2*len(names)])
						receipt, err := r.emit(p, room(names[u]))
						emitted[u].Add(1)
						if err != nil && long && errors.Is(err, broker.ErrUnavailable) {
							continue // this process stood still; the book has it
						}
						if (err != nil || receipt.Nobody()) && !r.disturbed() {
							t.Errorf("emit: %v, %v", receipt, err)
							return
						}
					}
				})
			}
		}
		wg.Wait()
		rate := float64(messages) / time.Since(began).Seconds()
		close(stop)
		wanderers.Wait()
		<-time.After(latency) // those that leave before need not have had all
		r.quiet()
		close(leave)
		residents.Wait()
		unwatch()
		counts, moves := r.settle(), int64(0)
		for _, d := range all {
			moves += d.moves
		}
		figure(t, "load", "%v; %d tabs came and went, %d clients had to come back; %.0f messages a second; the process stood still for %v at most",
			counts, tabs.Load(), moves, rate, still().Round(time.Millisecond))
		if moves > 0 && !r.disturbed() {
			t.Errorf("%d connections were lost, and there is no gap", moves)
		}
	})
}

// disturbed reports whether a node has found that it was not served: this process stood still, or its
// broker did. Then emits may fail, and say so. A gap is reported when it ends, so disturbed waits for it.
func (r *rig) disturbed() bool {
	_, in := within(20*time.Second, func() bool {
		return slices.ContainsFunc(r.nodes, func(n *node) bool { return r.book.Gaps(n.name) > 0 })
	})
	return in
}

// stood measures, until the function that it returns is called, for how long this process stood still at
// most.
func stood() (longest func() time.Duration) {
	const tick = 10 * time.Millisecond
	stop := make(chan struct{})
	var most time.Duration
	var wg sync.WaitGroup
	wg.Go(func() {
		for last := time.Now(); ; {
			select {
			case <-stop:
				return
			case <-time.After(tick):
			}
			now := time.Now()
			most, last = max(most, now.Sub(last)-tick), now
		}
	})
	return func() time.Duration { close(stop); wg.Wait(); return most }
}

// resident is somebody who stays, and comes back when the connection is lost.
type resident struct {
	rig     *rig
	node    *node
	user    string
	how     carrier
	emitted *atomic.Int64 // to the user
	now     atomic.Pointer[client]
	moves   int64 // valid after stay
}

func (r *rig) settleDown(n *node, user string, how carrier, emitted *atomic.Int64) *resident {
	d := &resident{rig: r, node: n, user: user, how: how, emitted: emitted}
	d.now.Store(r.connect(n, user, how))
	return d
}

// stay comes back until leave is closed.
func (d *resident) stay(leave <-chan struct{}) {
	for {
		c := d.now.Load()
		select {
		case <-leave:
			if c.polling == "" {
				c.hangUp(true)
				<-c.done
			}
			return
		case <-c.done:
		}
		if d.moves++; d.moves < 4 {
			d.rig.t.Logf("%s: the connection of %.10q has ended after %d messages of %d: %v, close frame %v, on polling %v",
				d.node.name, d.user, c.skipped.Load()+c.got.Load(), d.emitted.Load(), c.err, c.farewell, !c.onWebSocket)
		}
		c = newClient(d.rig.book, d.node.name, d.node.addr, d.user)
		if err := c.start(d.how); err != nil {
			d.rig.t.Logf("%s: comes back: %v", d.node.name, err)
		}
		c.skipped.Store(d.emitted.Load()) // about
		d.now.Store(c)
	}
}

// behind waits until nobody is far behind what has been emitted to a user: clients that share their
// processor with the emitters would be slow consumers.
func behind(who ...*resident) {
	const far = 50
	for _, d := range who {
		_, in := within(5*time.Second, func() bool {
			c := d.now.Load()
			return c.skipped.Load()+c.got.Load()+far > d.emitted.Load()
		})
		if c := d.now.Load(); !in { // what was in a gap does not come; the book knows whether there was one
			c.skipped.Store(d.emitted.Load() - c.got.Load())
		}
	}
}

// wander connects as one user after the other, on any node and carrier, and leaves again, until stop is
// closed. In the instant in which it knows that it is connected somebody emits to it.
func (r *rig) wander(i int, names []string, publishers []publisher, long bool, latency time.Duration, tabs *atomic.Int64, stop <-chan struct{}) {
	p := publishers[i%len(publishers)]
	p.name = "instant-" + strconv.Itoa(i) // a stream of its own
	failed := 0
	for n := 0; ; n++ {
		node := r.nodes[rand.IntN(len(r.nodes))]
		c := newClient(r.book, node.name, node.addr, names[rand.IntN(len(names))])
		emitted := make(chan struct{})
		c.onSaid = func(c *client) {
			go func() {
				defer close(emitted)
				receipt, err := r.emit(p, room(c.user))
				if long && errors.Is(err, broker.ErrUnavailable) {
					return // this process stood still; the book has it
				}
				if err != nil || receipt.Nobody() && !r.disturbed() {
					r.t.Errorf("emit in the instant of the connection: %v, %v", receipt, err)
				}
			}()
		}
		how := webSocket
		switch n % 5 {
		case 3:
			how = polling
		case 4:
			how = upgrading
		}
		if err := c.start(how); err != nil {
			if failed++; long && failed < 5 && r.disturbed() {
				continue // a node that was frozen has dropped it
			}
			r.t.Errorf("a client that comes back: %v", err)
			return
		}
		tabs.Add(1)
		stay := []int{0, 50, 1500}[rand.IntN(3)] // milliseconds
		if how == upgrading {
			// It has no connection of its own that could be closed until it has upgraded. It is there for long
			// enough that it must have got what was sent meanwhile.
			stay = 5 * int(latency.Milliseconds()) / 2
		}
		last := false
		select {
		case <-stop:
			last = true
		case <-time.After(time.Duration(stay+rand.IntN(1+stay)) * time.Millisecond / 2):
		}
		<-emitted
		if how == upgrading {
			r.disconnect(c)
		} else {
			c.hangUp(rand.IntN(2) == 0)
		}
		<-c.done
		if last {
			return
		}
	}
}

// disconnect has a node disconnect a client, again if that was lost in a gap.
func (r *rig) disconnect(c *client) {
	for {
		r.nodes[0].hub.Emitter().Disconnect(context.Background(), hub.SocketID(c.id), true)
		select {
		case <-c.done:
			return
		case <-time.After(time.Second):
		}
	}
}

// The instant a client knows that it is connected, another node emits to it.
func TestWhoIsToldThatItIsConnectedIsReached(t *testing.T) {
	long.Beside(t)
	onAll(t, func(t *testing.T, brokerURL, addr string) {
		n := scaled(2000, 10_000)
		r := newRig(t, brokerURL, addr, 2, 2*time.Second, hub.Options{}, transport.Options{})
		other := publisher{"other", r.nodes[1].hub.Emitter()}
		var nobody atomic.Int64
		each(n, 32, func(i int) {
			c := newClient(r.book, r.nodes[0].name, r.nodes[0].addr, "c"+strconv.Itoa(i))
			emitted := make(chan struct{})
			c.onSaid = func(c *client) {
				go func() {
					defer close(emitted)
					if receipt, err := r.emit(other, room(c.user)); err != nil || receipt.Nobody() {
						nobody.Add(1)
					}
				}()
			}
			if err := c.start([]carrier{webSocket, webSocket, polling}[i%3]); err != nil {
				t.Error(err)
				return
			}
			<-emitted
		})
		counts := r.settle()
		if n := nobody.Load(); n > 0 {
			t.Errorf("%d emits did not reach anybody", n)
		}
		figure(t, "connected", "%v", counts)
	})
}

// Two tabs of each user open and close all the time, and are emitted to: an open tab misses nothing,
// and at the end nobody is there.
func TestFlappingTabsLeaveNothingBehind(t *testing.T) {
	long.Beside(t)
	onAll(t, func(t *testing.T, brokerURL, addr string) {
		flaps := scaled(2000, 50_000)
		r := newRig(t, brokerURL, addr, 2, patient(time.Second), hub.Options{}, transport.Options{})
		names := users(12)
		stop := make(chan struct{})
		end := r.load(names, stop, time.Millisecond)
		each(flaps, 100, func(i int) {
			n := r.nodes[rand.IntN(2)]
			c := newClient(r.book, n.name, n.addr, names[i%len(names)])
			if err := c.start(webSocket); err != nil {
				t.Error(err)
				return
			}
			if open := []int{0, 100, 2500}[i%3]; open > 0 { // milliseconds
				select {
				case <-c.done:
				case <-time.After(time.Duration(rand.IntN(open)) * time.Millisecond):
				}
			}
			c.hangUp(i%2 == 0)
			<-c.done
		})
		close(stop)
		slowest, _ := end()
		counts := r.settle()
		for _, n := range r.nodes {
			must(t, "no rooms on "+n.name, func() bool { s := n.hub.Stats(); return s.Rooms == 0 && s.Connections == 0 })
		}
		for _, u := range names { // the broker hears of it after the hub
			must(t, "no subscription is left for "+u, func() bool {
				receipt, err := r.nodes[0].hub.Emitter().Emit(t.Context(), hub.User(u), "n")
				return err == nil && receipt.Nobody()
			})
		}
		figure(t, "flapping", "%d tabs: %v; slowest emit %v", flaps, counts, slowest.Round(time.Millisecond))
	})
}
