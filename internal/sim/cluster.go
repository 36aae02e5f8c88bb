package sim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"tether/hub"
	"tether/internal/simbroker"
)

// What nodes ask each other: every call ends, what it finds is there, and nobody is counted twice.

const (
	fetchPatience = 20 * time.Second // more than any question may take
	fetchLimit    = 7 * time.Second  // that it may take: a node that is gone is off the list within six
)

// gathering begins the names of rooms that only Emitter.Join puts sockets into.
const gathering = "gathering-"

func isGathering(t hub.Target) bool { return strings.HasPrefix(t.Name(), gathering) }

// doFetch asks who is in a room, and compares that with who is there for certain.
func (w *world) doFetch() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	p, namespace, room := w.publisherOf(), c.namespace, pick(w, append(c.rooms(), everyone))
	name := namespace + "," + room
	w.note("%s fetches %q in %s", p.name, room, namespace)
	calm, from := !w.disturbed, w.book.Now()
	var certain []*client
	for _, c := range w.present() {
		if c.namespace == namespace && c.rec.WasIn(name, from) {
			certain = append(certain, c)
		}
	}
	all := slices.Clone(w.clients)
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchPatience)
		defer cancel()
		sockets := p.emitter.In(namespace).FetchSockets(ctx, target(room), hub.FetchOptions{Rooms: true})
		seen := make(map[string]bool)
		for s := range sockets.All {
			if seen[s.ID] {
				w.violate("%s is found twice in %q", s.ID, name)
			}
			seen[s.ID] = true
		}
		w.checkFetched(p, sockets, name, seen, certain, all, calm, from.At)
	})
	return true
}

func (w *world) checkFetched(p *publisher, sockets *hub.Answers[hub.RemoteSocket], name string, seen map[string]bool, certain, all []*client, calm bool, from time.Time) {
	if p.node != nil && p.node.isDead() {
		return // nobody is there to take the answer
	}
	to := w.book.Now()
	if took := to.At.Sub(from); took > fetchLimit && !w.wasDisturbed() && calm {
		w.violate("to fetch %q took %s %v", name, p.name, took)
	}
	if sockets.Err() != nil || len(sockets.Missing()) > 0 {
		if calm && !errors.Is(sockets.Err(), hub.ErrNotRunning) && !w.wasDisturbed() && (p.node == nil || !p.node.ending()) && !w.ending() {
			w.violate("%s could not fetch %q although nothing was wrong: %v, missing %v", p.name, name, sockets.Err(), sockets.Missing())
		}
		return
	}
	room := name[strings.Index(name, ",")+1:]
	for _, c := range certain {
		switch {
		case seen[c.id()] || !c.stayed(room, from) || !c.alive() || c.node.expiry.passed(c.n, c.node.clock.now()) || w.kickedSince(c, from):
		case c.node.ending() || w.book.Excused(c.node.name, from.Add(-simbroker.Patience), to.At.Add(simbroker.MaxSlow+simbroker.Patience)):
		case !w.wasDisturbed() || w.cluster == nil:
			w.violate("%s is in %q, and %s has not found it", c, name, p.name)
		}
	}
}

// kickedSince reports whether somebody has had sockets of the client's namespace, or connection, disconnected.
func (w *world) kickedSince(c *client, from time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.kicks, func(k *kick) bool {
		return k.at.At.After(from.Add(-simbroker.MaxSlow)) && (k.closing || k.namespace == c.namespace)
	})
}

// ending reports whether a node drains, or has.
func (w *world) ending() bool { return slices.ContainsFunc(w.nodes, (*node).ending) }

// doGather puts everybody of a namespace into a room of its own, and takes them out again. It is in force
// as soon as the call has returned.
func (w *world) doGather() bool {
	if w.disturbed || w.ending() {
		return false
	}
	p, last, namespace := w.publisherOf(), pick(w, w.workers), pick(w, namespaces) // a node may end meanwhile, a worker does not
	w.gatherings++
	to := hub.Room(fmt.Sprint(gathering, w.gatherings))
	w.note("%s gathers %s in %v", p.name, namespace, to)
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), fetchPatience)
		defer cancel()
		e := p.emitter.In(namespace)
		c, err := e.Join(ctx, hub.Everyone, to)
		sure := err == nil && len(c.Missing) == 0 // nobody joins later
		if sure && c.Sockets > 0 {
			w.checkGathered(ctx, e, to, c)
		}
		w.disperse(last.emitter.In(namespace), to, sure)
	})
	return true
}

func (w *world) checkGathered(ctx context.Context, e *hub.Emitter, to hub.Target, c hub.Changed) {
	r, err := e.Emit(ctx, to, "probe")
	found := e.FetchSockets(ctx, to, hub.FetchOptions{})
	n := len(slices.Collect(found.All))
	if w.wasDisturbed() || err != nil || found.Err() != nil || len(found.Missing()) > 0 {
		return
	}
	if r.Nobody() && n > 0 {
		w.violate("%d sockets have joined %v on %d nodes, and an event reaches nobody", c.Sockets, to, len(c.Nodes))
	}
	if n > c.Sockets {
		w.violate("%d sockets have joined %v, and %d are in it", c.Sockets, to, n)
	}
}

// disperse takes everybody out of a room until nobody is in it for certain: twice in a row while nothing is
// broken, because a node that was cut off is not asked, and comes back with its sockets in the room.
func (w *world) disperse(e *hub.Emitter, to hub.Target, sure bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	for empty := 0; empty < 2 && ctx.Err() == nil; time.Sleep(time.Second) {
		c, err := e.Leave(ctx, hub.Everyone, to)
		left := e.FetchSockets(ctx, to, hub.FetchOptions{})
		n := len(slices.Collect(left.All))
		if err == nil && len(c.Missing) == 0 && left.Err() == nil && len(left.Missing()) == 0 && n == 0 {
			if w.mended.Load() {
				empty++
			}
			continue
		}
		if sure && n > 0 && err == nil && len(c.Missing) == 0 && !w.wasDisturbed() {
			w.violate("all have been taken out of %v, and %d are in it", to, n)
			return
		}
		empty = 0
	}
}

// inspectMembers checks that a node at rest knows who is there.
func (w *world) inspectMembers(n *node) {
	var want, got []string
	for _, o := range w.live() {
		want = append(want, o.name)
	}
	list, err := n.hub.Members()
	for _, m := range list {
		got = append(got, m.Name)
	}
	slices.Sort(want)
	if !slices.Equal(got, want) || err != nil {
		w.violate("%s knows the members %q (%v); there are %q", n.name, got, err, want)
	}
}
