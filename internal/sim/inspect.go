package sim

import (
	"context"
	"maps"
	"slices"
	"time"

	"tether/hub"
)

func (w *world) setDisturbed(v bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.disturbed = v
}

func (w *world) wasDisturbed() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.disturbed
}

// mend ends every fault.
func (w *world) mend() {
	if w.cluster == nil {
		return
	}
	w.cluster.start()
	for _, n := range w.nodes {
		if !n.isDead() {
			n.peer.heal()
		}
	}
}

// look checks, after each step, what has to be true at any moment.
func (w *world) look() {
	for _, n := range w.live() {
		s := n.hub.Stats()
		if s.Malformed > 0 || s.Newer > 0 || s.ProtocolErrors > 0 || s.Panics > 0 {
			w.violate("%s counts impossible things: %+v", n.name, s)
		}
		if n.peer == nil {
			continue
		}
		if since := n.peer.troubled(); !since.IsZero() && time.Since(since) > 3*time.Second && n.hub.Ready() == nil {
			w.violate("%s says that it is ready, and its link has been down for %v", n.name, time.Since(since))
		}
	}
}

// disconnect disconnects a room.
func (w *world) disconnect(p *publisher, namespace, room string, closing bool) {
	k := &kick{namespace: namespace, room: room}
	name := namespace + "," + room
	now := w.book.Now()
	k.from = now.At
	for _, c := range w.present() {
		if c.namespace == namespace && c.rec.WasIn(name, now) {
			k.clients = append(k.clients, c)
		}
	}
	w.book.Disturb(name)
	w.kicks = append(w.kicks, k)
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := p.emitter.In(namespace).Disconnect(ctx, hub.Room(room), closing)
		w.mu.Lock()
		defer w.mu.Unlock()
		k.to = time.Now()
		if err != nil {
			k.clients = nil // it may or may not have been taken
		}
	})
}

// verify checks that a kick has reached everybody.
func (w *world) verify(k *kick) {
	for _, c := range k.clients {
		if c.alive() && c.stayed(k.room, k.from) && !w.book.Excused(c.node.name, k.from, k.to.Add(maxSlow+patience)) {
			w.violate("%s was to be disconnected with %q, and is still there", c, k.room)
		}
	}
}

// inspect compares a node at rest with what its clients say.
func (w *world) inspect(n *node) {
	if err := n.hub.Ready(); err != nil {
		w.violate("%s is not ready at rest: %v", n.name, err)
	}
	subjects := make(map[string]bool)
	connections, sockets, devices := 0, 0, make(map[string]int)
	for _, c := range w.present() {
		if c.node != n {
			continue
		}
		if c.wire.closedFor() == "" {
			connections++
		}
		if !c.alive() {
			continue
		}
		sockets++
		devices[c.room(c.user)]++
		subjects["tether:"+c.room("")] = true
		for _, r := range c.rooms() {
			subjects["tether:"+c.room(r)] = true
		}
		c.mu.Lock()
		if c.greeted != 1 {
			w.violate("%s was greeted %d times", c, c.greeted)
		}
		if len(c.questions) > 0 {
			w.violate("%s has %d questions without an answer", c, len(c.questions))
		}
		c.mu.Unlock()
	}
	s := n.hub.Stats()
	if s.Connections != connections || s.Sockets != sockets || s.Rooms != len(subjects) {
		w.violate("%s counts %d connections, %d sockets, %d rooms; there are %d, %d, %d",
			n.name, s.Connections, s.Sockets, s.Rooms, connections, sockets, len(subjects))
	}
	n.mu.Lock()
	if s.Gaps != n.gaps {
		w.violate("%s counts %d gaps, and reported %d", n.name, s.Gaps, n.gaps)
	}
	n.mu.Unlock()
	if got := n.subscriptions(); !w.sameSubjects(got, subjects) {
		w.violate("%s is subscribed to %q; its clients are in %q",
			n.name, slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(subjects)))
	}
	for who, count := range devices {
		if w.devices.Max > 0 && count > w.devices.Max {
			w.violate("%q has %d sockets on %s alone", who, count, n.name)
		}
	}
}

// sameSubjects compares subscriptions with rooms: beside them there is the node's own subject.
func (w *world) sameSubjects(got, want map[string]bool) bool {
	if len(got) != len(want)+1 {
		return false
	}
	for s := range want {
		if !got[s] {
			return false
		}
	}
	return true
}

// inspectEnd looks at a node whose Run has returned.
func (w *world) inspectEnd(n *node) {
	n.mu.Lock()
	err, dead := n.err, n.dead
	n.mu.Unlock()
	if err != nil && !dead {
		w.violate("Run of %s: %v", n.name, err)
	}
	if s := n.hub.Stats(); s.Connections != 0 || s.Sockets != 0 {
		w.violate("%s has ended with %d connections, %d sockets", n.name, s.Connections, s.Sockets)
	}
	if n.hub.Ready() == nil {
		w.violate("%s is ready although it has ended", n.name)
	}
	if n.peer != nil && len(n.peer.subscriptions()) > 0 {
		w.violate("%s has ended and is still subscribed", n.name)
	}
	conn := &wire{}
	if _, err := n.hub.Attach(conn, nil); err == nil {
		w.violate("%s takes connections although it has ended", n.name)
	}
}
