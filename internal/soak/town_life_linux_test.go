package soak

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	wire "tether/internal/client"
	"tether/internal/ledger"
	"tether/internal/long"
	"tether/presence"
)

// device is a client of a user.
type device struct {
	*wire.Client
	at   *place
	mark int64 // of the place, before it came
}

func (d device) String() string { return fmt.Sprintf("%s (well: %v)", d.at.name, d.sure()) }

// sure reports whether its node has been well all the time.
func (d device) sure() bool {
	mark, _ := d.at.mark()
	return mark == d.mark
}

// flap has a user come and go, until stop is closed.
func (w *town) flap(name string, rng *rand.Rand, stop <-chan struct{}) {
	for !w.t.Failed() {
		select {
		case <-stop:
			return
		default:
		}
		if w.step(name, rng) {
			w.steps.Add(1)
		} else {
			w.troubled.Add(1)
			w.rest(name)
		}
	}
}

// step has a user come, with one device or two, and go. It reports whether the nodes that had them have been well all the
// time: then exactly one first and one last device has been told, whatever other nodes did, the one that tells among
// them. While one device is on a node that is well, nobody has told of a last one. What another node has not been
// able to say may be told later, when the user has gone: that he was there, and has left.
func (w *town) step(name string, rng *rand.Rand) bool {
	before := w.seen(name)
	var devices []device
	defer func() {
		for _, d := range devices {
			d.Close()
		}
	}()
	for _, i := range rng.Perm(len(w.places))[:1+rng.IntN(2)] {
		mark, well := w.places[i].mark()
		if !well {
			continue
		}
		c, err := w.enter(w.places[i], visit{User: name, Shown: true})
		d := device{c, w.places[i], mark}
		if err == nil {
			devices = append(devices, d)
		} else if d.sure() {
			w.t.Errorf("%s cannot connect to %s: %v", name, d.at.name, err)
		}
	}
	sure := func() bool { return slices.ContainsFunc(devices, device.sure) }
	if !sure() || !w.told(name, devices, before, 1, 0, sure) {
		return false
	}
	<-time.After(time.Duration(rng.IntN(100)) * time.Millisecond)
	if now := w.seen(name); sure() && (now[0].left != before[0].left || now[1].left != before[1].left) {
		w.t.Errorf("%s, on %v: the nodes and the lobby have told %v, were %v", name, devices, now, before)
	}
	for _, d := range devices {
		d.Close()
	}
	all := func() bool { return !slices.ContainsFunc(devices, func(d device) bool { return !d.sure() }) }
	return w.told(name, devices, before, 1, 1, all)
}

// count is how often a user was told to have come, and to have left.
type count struct{ came, left int }

// seen is that of the nodes, and of the lobby.
func (w *town) seen(name string) (all [2]count) {
	all[0].came, all[0].left = w.users.Seen(name)
	all[1].came, all[1].left = w.lobby.Seen(name)
	return all
}

// told waits until both books have so many changes of a user more than before, and sees that they have no others. It gives
// up when it is not sure any more.
func (w *town) told(name string, devices []device, before [2]count, came, left int, sure func() bool) bool {
	want := before
	for i := range want {
		want[i].came += came
		want[i].left += left
	}
	took, _ := within(long.Limit(ghostTime), func() bool {
		now := w.seen(name)
		return w.t.Failed() || !sure() || !slices.ContainsFunc([]int{0, 1}, func(i int) bool { return now[i].came < want[i].came || now[i].left < want[i].left })
	})
	if !sure() || w.t.Failed() {
		return false
	}
	if now := w.seen(name); now != want {
		w.t.Errorf("%s, on %v: the nodes and the lobby have told %v after %v, want %v\n%s\n%s",
			name, devices, now, took, want, w.users.Tale(name), w.lobby.Tale(name))
		return false
	}
	return true
}

// rest waits until all nodes are well, and a user whose node has failed is told to be gone.
func (w *town) rest(name string) {
	within(wait, func() bool { // that it is over, fail sees to
		return w.t.Failed() || !slices.ContainsFunc(w.places, func(p *place) bool { _, well := p.mark(); return !well })
	})
	gone := func() bool {
		now := w.seen(name)
		return now[0].came == now[0].left && now[1].came == now[1].left
	}
	if took, in := within(long.Limit(ghostTime), func() bool { return w.t.Failed() || gone() }); !in {
		w.t.Errorf("%s is gone, and %v after all nodes are well the nodes and the lobby have told %v", name, took, w.seen(name))
	}
}

// watch has a client on the first node watch the lobby, until it ends.
func (w *town) watch() (end func()) {
	c, err := w.enter(w.places[0], visit{User: "the watcher", Watch: true})
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; ; n++ {
			e, err := c.Next(context.Background())
			if err != nil {
				return
			}
			var r presence.RoomChange
			if e.Name != "presence" {
				continue
			}
			if err := json.Unmarshal(e.Args[0], &r); err != nil {
				w.t.Errorf("the watcher got %s: %v", e.Args, err)
			}
			for _, m := range r.Came {
				w.lobby.Tell(m.Name, true, fmt.Sprint(n, m.Name), time.Now())
			}
			for _, name := range r.Left {
				w.lobby.Tell(name, false, fmt.Sprint(n, name), time.Now())
			}
		}
	})
	return func() { c.Close(); wg.Wait() }
}

// settle closes the books. A process that stood still for longer than nodes wait has proved nothing.
func (w *town) settle(still time.Duration) {
	w.t.Helper()
	for what, book := range map[string]*ledger.Attendance{"the nodes": w.users, "the lobby": w.lobby} {
		changes, faults := book.Settle()
		for _, f := range faults {
			w.t.Errorf("%s: %s", what, f)
		}
		figure(w.t, "town", "%s have told %d changes, and %d of them again with the same ID", what, changes, book.Repeated())
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, kind := range slices.Sorted(maps.Keys(w.asked)) {
		figure(w.t, "town", "%s: %d calls, the slowest took %v", kind, w.asked[kind], w.slowest[kind].Round(time.Millisecond))
	}
	figure(w.t, "town", "%d visits were told as was expected, %d were of nodes that failed meanwhile; answers named %d nodes as missing; this process stood still for %v at most",
		w.steps.Load(), w.troubled.Load(), w.missing, still.Round(time.Millisecond))
}
