package sim

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"tether/hub"
)

func (w *world) auth() auth {
	a := auth{User: pick(w, w.users), Refuse: w.chance(20), Emit: w.chance(4)}
	for _, r := range rooms {
		if w.chance(3) {
			a.Rooms = append(a.Rooms, r)
		}
	}
	if w.chance(3) {
		a.Pause = w.upTo(20 * time.Millisecond)
	}
	if w.chance(3) {
		a.Linger = w.upTo(20 * time.Millisecond)
	}
	if w.chance(12) {
		a.Expire = w.upTo(time.Minute) - time.Second
	}
	return a
}

// doConnect connects a client; often somebody emits to it in the instant in which it knows.
func (w *world) doConnect() bool {
	c := w.dial()
	return c != nil
}

func (w *world) dial() *client {
	live := w.live()
	if len(live) == 0 || len(w.present()) > 24 {
		return nil
	}
	n, namespace, a := pick(w, live), pick(w, namespaces), w.auth()
	// The emitter of an emit at once is chosen now, since the moment itself comes in another goroutine.
	p, also := w.publisherOf(), w.rng.IntN(6)
	var k *wire
	if w.chance(3) { // another namespace of a connection that there is
		k, namespace = w.roomy(namespace)
	}
	if k == nil {
		k = w.attach(n)
	}
	if k == nil {
		return nil
	}
	n = k.node
	if len(k.all()) > 0 && w.chance(4) {
		a.Refuse = true
	}
	c := w.connect(k, namespace, a)
	w.note("%s connects to %s: %+v", c, n.name, a)
	var to string
	switch also {
	case 0, 1:
		to = userRoom(a.User)
	case 2:
		to = everyone
	case 3:
		to = "own"
	default:
		return c
	}
	calm := !w.disturbed
	c.then(func(c *client) {
		if to == "own" {
			to = c.id()
		}
		w.jobs.Go(func() {
			room := namespace + "," + to
			token := w.token(p.name + room)
			token <- struct{}{}
			w.emitOne(p.emitter.In(namespace), p, []string{room}, nil, []hub.Target{target(to)}, false, calm)
			<-token
		})
	})
	return c
}

// roomy finds a connection that has not joined a namespace, or has left it for certain.
func (w *world) roomy(namespace string) (*wire, string) {
	var free []*wire
	for _, k := range w.wires {
		if k.closedFor() == "" && !k.node.ending() && k.free(namespace) {
			free = append(free, k)
		}
	}
	if len(free) == 0 {
		return nil, namespace
	}
	return pick(w, free), namespace
}

// free reports whether the connection may send CONNECT to a namespace.
func (w *wire) free(namespace string) bool {
	for _, c := range w.all() {
		if c.namespace != namespace {
			continue
		}
		c.mu.Lock()
		free := c.kicked || c.refused || c.quits && c.sid != ""
		c.mu.Unlock()
		if !free {
			return false
		}
	}
	return true
}

func (w *world) client() *client {
	present := w.present()
	if len(present) == 0 {
		return nil
	}
	return pick(w, present)
}

func (w *world) doHangUp() bool {
	c := w.client()
	if c == nil {
		return false
	}
	properly := w.chance(2)
	w.note("%s hangs up, properly: %v", c, properly)
	c.hangUp(properly)
	return true
}

// doFlap ends a client's connection about when it begins.
func (w *world) doFlap() bool {
	c := w.dial()
	if c == nil {
		return false
	}
	properly, after := w.chance(2), w.upTo(10*time.Millisecond)
	w.note("%s flaps", c)
	w.jobs.Go(func() {
		pause(after, c.wire.done)
		c.hangUp(properly)
	})
	return true
}

// doExpire gives a socket a time to go, on the wall clock of its node, or takes it away again.
func (w *world) doExpire() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	d := w.upTo(20*time.Second) - time.Second
	switch w.rng.IntN(4) {
	case 0:
		d = 0
	case 1:
		d = w.upTo(3 * time.Hour)
	}
	w.note("%s expires in %v", c, d)
	c.mu.Lock()
	c.expires = true
	c.mu.Unlock()
	c.ask("expire", strconv.FormatInt(int64(d), 10), func(packet) {})
	return true
}

// doQuit leaves a namespace and keeps the connection.
func (w *world) doQuit() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	w.note("%s quits its namespace", c)
	c.quit()
	return true
}

// doKnock asks a node that drains to take a connection.
func (w *world) doKnock() bool {
	for _, n := range w.nodes {
		if since := n.draining(); since > 0 && !n.isDead() {
			conn := &wire{w: w, node: n, closed: make(chan struct{})}
			r, _ := http.NewRequest("GET", "/socket.io/", nil)
			if _, err := n.hub.Attach(conn, r); !errors.Is(err, hub.ErrDraining) {
				w.violate("%s drains since %v, and answers a new connection with %v", n.name, since, err)
			}
			if n.hub.Ready() == nil {
				w.violate("%s drains since %v, and is ready", n.name, since)
			}
			return true
		}
	}
	return false
}

// doChange goes from one namespace of a connection to another, and is perhaps refused there.
func (w *world) doChange() bool {
	c := w.client()
	if c == nil || !c.alive() || c.node.ending() {
		return false
	}
	namespace, a := pick(w, namespaces), w.auth()
	if !c.wire.free(namespace) {
		return false
	}
	a.Refuse, a.Pause = w.chance(2), w.upTo(20*time.Millisecond)
	w.note("%s goes to %s: %+v", c, namespace, a)
	w.connect(c.wire, namespace, a)
	c.quit()
	return true
}

// doLurk connects, and says nothing.
func (w *world) doLurk() bool {
	live := w.live()
	if len(live) == 0 {
		return false
	}
	n := pick(w, live)
	w.note("somebody lurks on %s", n.name)
	w.attach(n)
	return true
}
