package sim

import (
	"context"
	"fmt"
	"slices"
	"time"

	"tether/hub"
)

// act does one thing.
func (w *recoveringWorld) act() {
	live := w.live()
	if len(live) == 0 {
		w.start()
		return
	}
	t := w.travellers[w.rng.IntN(len(w.travellers))]
	switch at := w.rng.IntN(100); {
	case at < 22:
		w.note("%v loses its connection", t)
		t.lose(w.rng.IntN(3) == 0)
	case at < 30:
		room := fmt.Sprint("r", w.rng.IntN(3))
		w.note("%v joins %s", t, room)
		t.say("join", room)
	case at < 36:
		room := fmt.Sprint("r", w.rng.IntN(3))
		w.note("%v leaves %s", t, room)
		t.say("leave", room)
	case at < 62:
		w.publish(live, t)
	case at < 64:
		w.strand(t)
	case at < 68:
		w.note("%v is poked", t)
		t.say("poke", "")
	case at < 72:
		w.ask(t)
	case at < 77:
		w.move(t)
	case at < 79:
		t.stall(time.Duration(w.rng.Int64N(int64(2 * time.Second))))
	case at < 82:
		w.forge(t, live)
	case at < 84:
		w.kick(t)
	case at < 86:
		w.ban(t)
	case at < 88 && len(live) < 4:
		w.start()
	case at < 91 && len(live) > 1:
		n := live[w.rng.IntN(len(live))]
		w.note("%s is told to stop", n.name)
		n.end(false)
	case at < 92 && len(w.travellers) < 12:
		w.travel()
	case at < 93:
		d := time.Duration(w.rng.Int64N(int64(2 * w.recovery.Window)))
		w.note("%v pass", d)
		time.Sleep(d)
	case !w.calm:
		w.fail(live)
	}
}

// fail breaks something.
func (w *recoveringWorld) fail(live []*recoveringNode) {
	n := live[w.rng.IntN(len(live))]
	at := w.rng.IntN(6)
	if n.peer == nil && at > 0 {
		return
	}
	if at > 0 {
		w.trouble()
	}
	switch at {
	case 0:
		w.note("%s is killed", n.name)
		n.end(true)
	case 1:
		w.note("%s is cut off in silence", n.name)
		w.cut(n)
		n.peer.Silence()
	case 2:
		w.note("the connection of %s is reset", n.name)
		w.cut(n)
		n.peer.Cut()
	case 3:
		w.note("%s is slow", n.name)
		n.peer.SlowDown()
	case 4:
		w.note("the broker ends subscriptions of %s", n.name)
		n.peer.Revoke(3)
	default:
		w.mend()
	}
}

func (w *recoveringWorld) trouble() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubled, w.unsound = time.Now(), true
}

// sound reports whether no link is broken: a node that is cut off is not asked.
func (w *recoveringWorld) sound() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.unsound
}

func (w *recoveringWorld) mend() {
	w.mu.Lock()
	w.banned = make(map[string]moment)
	w.mu.Unlock()
	for _, n := range w.live() {
		if n.peer != nil && !w.calm {
			w.trouble()
			n.peer.Heal()
		}
	}
}

// publisher is the one that emits next.
func (w *recoveringWorld) publisher(live []*recoveringNode) (name string, e *hub.Emitter) {
	if w.rng.IntN(2) == 0 {
		n := live[w.rng.IntN(len(live))]
		return n.name, n.hub.Emitter()
	}
	i := w.rng.IntN(len(w.workers))
	return fmt.Sprint("worker-", i), w.workers[i]
}

// publish emits some events, one after the other.
func (w *recoveringWorld) publish(live []*recoveringNode, t *traveller) {
	name, e := w.publisher(live)
	p := posting{w: w, by: name, namespace: t.namespace, emitter: e.In(t.namespace), size: 40}
	switch w.rng.IntN(6) {
	case 0:
		p.to = []string{everyone}
	case 1, 2:
		p.to = []string{fmt.Sprint("r", w.rng.IntN(3))}
	case 3:
		if sid := t.id(); sid != "" {
			p.to = []string{sid}
			break
		}
		fallthrough
	case 4:
		p.to = []string{userRoom(t.user)}
	default:
		p.to = []string{userRoom(t.user), fmt.Sprint("r", w.rng.IntN(3)), fmt.Sprint("w", w.rng.IntN(2))}
		if w.rng.IntN(2) == 0 {
			slices.Reverse(p.to)
		}
	}
	if w.rng.IntN(6) == 0 {
		p.except = []string{fmt.Sprint("r", w.rng.IntN(3))}
	}
	p.asks = w.rng.IntN(3) == 0
	n := 1
	switch w.rng.IntN(4) {
	case 0:
		p.binary = true
	case 1:
		p.volatile = w.rng.IntN(3) == 0
	case 2:
		n = 2 + w.rng.IntN(12)
		if w.small {
			p.size = 600
		}
	}
	w.note("%s emits %d to %q except %q in %s, binary: %v, volatile: %v", name, n, p.to, p.except, p.namespace, p.binary, p.volatile)
	w.jobs.Go(func() {
		for range n {
			p.emit()
		}
	})
}

// strand has somebody emit to a socket that has moved, one event after the other, while the node that its ID names, which
// passes them on, loses its link, or ends.
func (w *recoveringWorld) strand(t *traveller) {
	a, live := t.account(), w.live()
	if a == nil || len(live) < 2 {
		return
	}
	home := a.firstNode()
	if home == nil || home.isEnding() {
		return
	}
	i := w.rng.IntN(len(w.workers))
	p := posting{w: w, by: fmt.Sprint("worker-", i), namespace: t.namespace, emitter: w.workers[i].In(t.namespace), to: []string{a.sid}, size: 40}
	w.note("%s emits to %q while %s loses its link", p.by, p.to, home.name)
	w.jobs.Go(func() {
		for range 20 {
			p.emit()
		}
	})
	time.Sleep(time.Duration(w.rng.Int64N(int64(20 * time.Millisecond))))
	switch at := w.rng.IntN(4); {
	case w.calm || home.peer == nil || at == 0:
		w.note("%s is told to stop", home.name)
		home.end(false)
	case at == 1:
		w.trouble()
		w.note("%s is cut off in silence", home.name)
		w.cut(home)
		home.peer.Silence()
	default:
		w.trouble()
		w.note("the connection of %s is reset", home.name)
		w.cut(home)
		home.peer.Cut()
	}
}

// cut remembers when the link of a node was cut.
func (w *recoveringWorld) cut(n *recoveringNode) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cuts[n.name] = append(w.cuts[n.name], time.Now())
}

// ask has the application ask a client something.
func (w *recoveringWorld) ask(t *traveller) {
	n, s, a := t.socket()
	if s == nil {
		return
	}
	w.note("%v is asked", t)
	w.jobs.Go(func() {
		q := a.question(w.now())
		began := time.Now()
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		_, err := s.EmitAck(ctx, "ask", q)
		if n.isDead() {
			return
		}
		a.answered(q, err, began)
	})
}

// shift is what move does: sessions that begin meanwhile may be moved too.
type shift struct{ namespace, user, room string }

// move has somebody put the sockets of a user into a room, or take them out of it.
func (w *recoveringWorld) move(t *traveller) {
	e := w.workers[w.rng.IntN(len(w.workers))].In(t.namespace)
	m, in, to := shift{t.namespace, t.user, fmt.Sprint("w", w.rng.IntN(2))}, w.rng.IntN(2) == 0, userRoom(t.user)
	if sid := t.id(); sid != "" && w.rng.IntN(3) == 0 {
		to = sid
	}
	w.note("the sockets of %q in %s are put into %s: %v", to, m.namespace, m.room, in)
	w.jobs.Go(func() {
		token := w.token(m.namespace + m.user + m.room)
		token <- struct{}{}
		defer func() { <-token }()
		began := w.now()
		var of []*account
		w.mu.Lock()
		for _, a := range w.accounts {
			if a.namespace == m.namespace && a.user == m.user && (to == a.sid || to == userRoom(m.user)) {
				of = append(of, a)
			}
		}
		if in {
			w.shifts[m]++
		}
		w.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if !in {
			for _, a := range of {
				a.leave(m.room)
			}
			c, err := e.Leave(ctx, target(to), hub.Room(m.room))
			for _, a := range of {
				a.left(m.room, err == nil && len(c.Missing) == 0 && w.sound())
			}
			return
		}
		stays := make([]*staying, len(of))
		for i, a := range of {
			stays[i] = a.ask(m.room)
		}
		c, err := e.Join(ctx, target(to), hub.Room(m.room))
		all := err == nil && len(c.Missing) == 0 && w.sound()
		for i, a := range of {
			a.joined(stays[i], all && a.wasIn(to, began))
		}
		if all { // else it may still come
			w.mu.Lock()
			w.shifts[m]--
			w.mu.Unlock()
		}
	})
}

// kick disconnects a socket, or all of a user.
func (w *recoveringWorld) kick(t *traveller) {
	a, e := t.account(), w.workers[w.rng.IntN(len(w.workers))].In(t.namespace)
	if a == nil {
		return
	}
	to := userRoom(t.user)
	if w.rng.IntN(2) == 0 {
		to = a.sid
	}
	w.note("%q is disconnected in %s", to, t.namespace)
	order := shift{t.namespace, to, ""}
	w.mu.Lock()
	w.kicks[order]++
	for _, o := range w.accounts {
		if o.namespace == t.namespace && o.user == t.user {
			o.kicking()
		}
	}
	w.mu.Unlock()
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		began := w.now()
		c, err := e.Disconnect(ctx, target(to), false)
		all := err == nil && len(c.Missing) == 0 && w.sound()
		if all && a.wasIn(to, began) {
			a.kickedAt(w.now())
		}
		if all { // else it may still come
			w.mu.Lock()
			w.kicks[order]--
			w.mu.Unlock()
		}
	})
}

// ban has hooks refuse a user for a while.
func (w *recoveringWorld) ban(t *traveller) {
	now := w.now()
	w.mu.Lock()
	w.banned[t.user] = now
	w.mu.Unlock()
	w.note("user %s is banned", t.user)
	d := time.Duration(w.rng.Int64N(int64(3 * time.Second)))
	w.jobs.Go(func() {
		time.Sleep(d)
		w.mu.Lock()
		delete(w.banned, t.user)
		w.mu.Unlock()
		w.note("user %s is pardoned", t.user)
	})
}

// bannedSince is since when a user is banned, the zero moment if it is not.
func (w *recoveringWorld) bannedSince(user string) moment {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.banned[user]
}

func (w *recoveringWorld) token(stream string) chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	t := w.streams[stream]
	if t == nil {
		t = make(chan struct{}, 1)
		w.streams[stream] = t
	}
	return t
}
