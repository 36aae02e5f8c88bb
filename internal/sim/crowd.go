package sim

import (
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"testing/synctest"
	"time"

	"tether/hub"
	"tether/presence"
)

// crowd is the ledger of presence: who has a device, as the hubs themselves say, and what was told of it.
type crowd struct {
	w       *world
	grace   time.Duration // 0: none
	devices bool          // nodes are told of devices too

	mu       sync.Mutex
	rng      *rand.Rand           // guarded by mu
	users    map[string]*attendee // guarded by mu; by namespace and name
	sessions map[string]*session  // guarded by mu; by socket ID
	moved    map[string]time.Time // guarded by mu; when a device has come or gone, by the same
	ids      map[string]*node     // guarded by mu; the node that has told a change first
	killed   time.Time            // guarded by mu; when a node was killed last
	troubled time.Time            // guarded by mu; when a link was broken last
}

// attendee is one user.
type attendee struct {
	name     string
	here     map[*hub.Socket]time.Time // registered sockets, and since when
	empty    time.Time                 // since when there is none
	online   bool                      // as it was told last
	forgiven bool                      // what comes next may be the same again: all nodes that knew have died
}

// session is one device, as it was told.
type session struct {
	here, forgiven bool
}

const (
	crowdSlack  = 2 * time.Second  // that a change may take while nothing is wrong
	crowdNew    = 5 * time.Second  // that a node waits which begins to hear itself, if none has decided before
	crowdMemory = 10 * time.Second // after a node has died, or was cut off, until what it knew is known by two again
)

func (w *world) newCrowd() *crowd {
	c := &crowd{
		w: w, rng: w.fork(), devices: w.chance(2),
		grace: []time.Duration{0, 0, 500 * time.Millisecond, 3 * time.Second}[w.rng.IntN(4)],
		users: make(map[string]*attendee), sessions: make(map[string]*session), moved: make(map[string]time.Time), ids: make(map[string]*node),
	}
	return c
}

// attend gives a node its presence.
func (c *crowd) attend(n *node) error {
	n.hub.OnRegistered(func(s *hub.Socket, u hub.Target) { c.registered(s, u) })
	o := presence.Options{Grace: c.grace, Workers: 3, Logger: slog.New(slog.NewTextHandler(noter{c.w, n.name}, &slog.HandlerOptions{Level: slog.LevelDebug})), OnChange: func(ctx context.Context, e presence.Event) {
		c.told(n, e)
		wait(ctx, c.while())
	}}
	if o.Grace == 0 {
		o.Grace = -1
	}
	if c.devices {
		o.OnDevice = func(ctx context.Context, e presence.DeviceEvent) {
			c.toldDevice(n, e)
			wait(ctx, c.while())
		}
	}
	_, err := presence.New(n.hub, o)
	return err
}

// while is how long a hook takes.
func (c *crowd) while() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rng.IntN(3) > 0 {
		return 0
	}
	return time.Duration(c.rng.Int64N(int64(30 * time.Millisecond)))
}

func (c *crowd) userLocked(name string) *attendee {
	u := c.users[name]
	if u == nil {
		u = &attendee{name: name, here: make(map[*hub.Socket]time.Time), empty: time.Now()}
		c.users[name] = u
	}
	return u
}

func (c *crowd) registered(s *hub.Socket, to hub.Target) {
	if to == (hub.Target{}) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.userLocked(s.Namespace().Name() + "," + to.Name())
	if _, in, _, _ := s.Registered(to); !in {
		since, was := u.here[s]
		delete(u.here, s)
		c.moved[s.ID()+to.Name()] = time.Now()
		if was && len(u.here) == 0 && !since.Equal(time.Now()) { // a user that goes in the instant in which it comes may not be seen
			u.empty = time.Now()
		}
	} else if _, was := u.here[s]; !was {
		u.here[s] = time.Now()
		c.moved[s.ID()+to.Name()] = time.Now()
	}
}

// repeated reports whether a change was told before. Only one whose teller has died, or was cut off, may be.
func (c *crowd) repeatedLocked(n *node, id string) bool {
	first, was := c.ids[id]
	if !was {
		c.ids[id] = n
		return false
	}
	if !first.isDead() && time.Since(c.troubled) > crowdMemory+time.Minute {
		c.w.violate("%s tells %q, which %s has told", n.name, id, first.name)
	}
	return true
}

func (c *crowd) told(n *node, e presence.Event) {
	if n.isDead() {
		return // nobody hears it
	}
	calm := !c.w.wasDisturbed() && !n.ending()
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.userLocked(e.Namespace + "," + e.User.Name())
	c.w.note("%s tells that %s is online: %v, %s", n.name, u.name, e.Online, e.ID)
	if c.repeatedLocked(n, e.ID) {
		return
	}
	if e.Online == u.online && !u.forgiven {
		c.w.violate("%s tells twice that %s is online: %v", n.name, u.name, e.Online)
	}
	u.online = e.Online
	if !calm || time.Since(c.killed) < crowdMemory {
		return
	}
	longest := time.Duration(0)
	for _, since := range u.here {
		longest = max(longest, time.Since(since))
	}
	switch {
	case !e.Online && longest > crowdSlack:
		c.w.violate("%s tells that %s is offline, who has been there for %v", n.name, u.name, longest)
	case !e.Online && len(u.here) == 0 && time.Since(u.empty) < c.grace && !c.w.anyEnding():
		c.w.violate("%s tells that %s is offline %v after the last device went, and the grace is %v", n.name, u.name, time.Since(u.empty), c.grace)
	case e.Online && len(u.here) == 0 && time.Since(u.empty) > crowdSlack:
		c.w.violate("%s tells that %s is online, who went %v ago", n.name, u.name, time.Since(u.empty))
	}
}

func (c *crowd) toldDevice(n *node, e presence.DeviceEvent) {
	if n.isDead() {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.w.note("%s tells of device %s of %s, gone: %v, with its node: %v, %s", n.name, e.Socket, e.User.Name(), e.Gone, e.NodeGone, e.ID)
	if c.repeatedLocked(n, e.ID) {
		return
	}
	id := e.Socket + e.User.Name()
	s := c.sessions[id]
	if s == nil {
		s = new(session)
		c.sessions[id] = s
	}
	if s.here == !e.Gone && !s.forgiven {
		c.w.violate("%s tells twice that device %s of %s is gone: %v", n.name, e.Socket, e.User.Name(), e.Gone)
	}
	s.here = !e.Gone
}

// trouble notes that a link is about to break, or broken. The node behind it may be the only one that knows what one knew
// that was killed just before, or that could take what one knows that ends.
func (c *crowd) trouble() {
	heirless := c.w.anyParting() && c.w.allCut()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.troubled = time.Now()
	if time.Since(c.killed) < crowdMemory || heirless {
		c.forgiveLocked()
	}
}

// restless reports whether a link was broken a short time ago.
func (c *crowd) restless() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.troubled) < crowdMemory
}

// kill notes that a node is about to be killed. What it knew may be lost if another one that knew it was killed or
// cut off just before.
func (c *crowd) kill() {
	alone := len(c.w.live()) < 2
	c.mu.Lock()
	defer c.mu.Unlock()
	if alone || time.Since(c.killed) < crowdMemory || time.Since(c.troubled) < crowdMemory || c.w.broken() {
		c.forgiveLocked()
	}
	c.killed = time.Now()
}

// stop notes that a node is told to stop. It cannot hand over what it knows if a link is broken.
func (c *crowd) stop() {
	if c.w.broken() {
		c.kill()
	}
}

func (c *crowd) forgive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgiveLocked()
}

func (c *crowd) forgiveLocked() {
	for _, u := range c.users {
		u.forgiven = true
	}
	for _, s := range c.sessions {
		s.forgiven = true
	}
}

// broken reports whether a node that lives does not hear what the others say.
func (w *world) broken() bool {
	return slices.ContainsFunc(w.live(), func(n *node) bool {
		_, err := n.hub.Members()
		return err != nil || n.peer != nil && !n.peer.Troubled().IsZero()
	})
}

// allCut reports whether no link is whole of all nodes that live. One that has just started has had none yet.
func (w *world) allCut() bool {
	return !slices.ContainsFunc(w.live(), func(n *node) bool {
		return n.peer == nil || n.peer.Troubled().IsZero() || time.Since(n.born) < time.Second
	})
}

// anyParting reports whether a node was told to stop, and still runs.
func (w *world) anyParting() bool {
	return slices.ContainsFunc(w.nodes, func(n *node) bool {
		select {
		case <-n.ended:
			return false
		default:
			return n.ending() && !n.isDead()
		}
	})
}

// strangers reports whether no node of a cluster hears those that have been there for a while, as these are cut off: what
// they have told is not known then, and a node that is new tells it again.
func (w *world) strangers() bool {
	live := w.live()
	old := func(n *node) bool { return time.Since(n.born) > crowdNew }
	return slices.ContainsFunc(live, old) && !slices.ContainsFunc(live, func(n *node) bool { return old(n) && !n.silent })
}

// anyEnding reports whether a node drains, or has. Any goroutine may call it.
func (w *world) anyEnding() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.stops > 0
}

// inspect compares what was told with what is, at rest.
func (c *crowd) inspect() {
	c.mu.Lock()
	defer c.mu.Unlock()
	here := make(map[string]bool)
	for _, u := range c.users {
		maps.DeleteFunc(u.here, func(s *hub.Socket, _ time.Time) bool { // the hub's word, also where it has not told it
			_, in, _, _ := s.Registered(hub.User(u.name[len(s.Namespace().Name())+1:]))
			return !in
		})
		settled := time.Since(u.empty) > c.grace+crowdSlack
		for s, since := range u.here {
			here[s.ID()+u.name[len(s.Namespace().Name())+1:]] = true
			settled = time.Since(since) > crowdSlack
		}
		is := len(u.here) > 0
		if is == u.online {
			u.forgiven = false
		} else if settled && !u.forgiven {
			c.w.violate("%s has %d devices, and was told to be online: %v", u.name, len(u.here), u.online)
		}
	}
	if !c.devices {
		return
	}
	for id, s := range c.sessions {
		if s.here == here[id] {
			s.forgiven = false
		} else if s.here && !s.forgiven && time.Since(c.moved[id]) > crowdSlack {
			c.w.violate("device %s is not there, and was not told to be gone", id)
		}
	}
	for id := range here {
		if s := c.sessions[id]; (s == nil || !s.here && !s.forgiven) && time.Since(c.moved[id]) > crowdSlack {
			c.w.violate("device %s is there, and was not told to have come", id)
		}
	}
}

// settle waits until a grace is over.
func (c *crowd) settle() {
	time.Sleep(c.grace + crowdSlack + crowdNew)
	synctest.Wait()
}

// noter writes what a presence logs into the protocol.
type noter struct {
	w    *world
	node string
}

func (n noter) Write(line []byte) (int, error) {
	n.w.note("%s: %s", n.node, line)
	return len(line), nil
}
