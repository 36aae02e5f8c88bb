package sim

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"time"

	"tether/hub"
	"tether/internal/ledger"
	"tether/internal/simbroker"
)

// expirySlack is how late an expiry may be.
const expirySlack = 300 * time.Millisecond

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
	for _, k := range w.wires {
		k.mu.Lock()
		k.stall = 0
		k.mu.Unlock()
	}
	if w.cluster == nil {
		return
	}
	w.cluster.Start()
	w.recover()
	for _, n := range w.nodes {
		if !n.isDead() {
			n.peer.Heal()
			n.silent = false
		}
	}
}

// recover has all parts of the broker take subscriptions.
func (w *world) recover() {
	if w.cluster == nil {
		return
	}
	for part := range uint32(simbroker.Parts) {
		w.cluster.Ail(part, nil)
	}
}

// look checks, after each step, what has to be true at any moment.
func (w *world) look() {
	if w.broken() {
		w.crowd.trouble()
	}
	for _, n := range w.live() {
		s := n.hub.Stats()
		if s.Malformed > 0 || s.Newer > 0 || s.ProtocolErrors > 0 || s.Panics > 0 {
			w.violate("%s counts impossible things: %+v", n.name, s)
		}
		if n.peer == nil {
			continue
		}
		if since := n.peer.Troubled(); !since.IsZero() && time.Since(since) > 3*time.Second && n.hub.Ready() == nil {
			w.violate("%s says that it is ready, and its link has been down for %v", n.name, time.Since(since))
		}
	}
	for _, c := range w.present() {
		if c.node.ending() || !c.alive() || c.dismissed() {
			continue
		}
		if late := c.node.expiry.overdue(c.n, c.node.clock.now()); late > expirySlack {
			w.violate("%s expired %v ago, and is still there", c, late)
		}
	}
	for _, k := range w.wires {
		k.mu.Lock()
		idle := k.idle
		if !idle.IsZero() && k.reason == "" && !k.node.ending() && time.Since(idle) > joinTimeout+hookTimeout+time.Second {
			k.idle = time.Time{} // said once
			w.violate("a connection to %s has had no namespace for %v: %v", k.node.name, time.Since(idle), k.clients)
		}
		k.mu.Unlock()
	}
}

// judge says whether there was a reason to disconnect a client. The wire's lock is held.
func (w *world) judge(c *client, now ledger.Moment) {
	n := c.node
	if w.devices.Max > 0 || n.expiry.passed(c.n, n.clock.now()) || !n.clock.steady(expirySlack) {
		return
	}
	w.mu.Lock()
	kicks := slices.Clone(w.kicks)
	w.mu.Unlock()
	for _, k := range kicks {
		of := []*client{c}
		if k.closing {
			of = c.wire.clients
		}
		for _, o := range of {
			if o.namespace == k.namespace && o.rec.MayHaveBeenIn(k.namespace+","+k.room, k.at, now) {
				return
			}
		}
	}
	w.violate("%s is disconnected for no reason", c)
}

// refusal looks at an answer that refuses a client: the newest device is only refused when others come at
// the same time, or when that is the policy.
func (w *world) refusal(c *client, k packet) {
	var answer struct{ Message string }
	if err := json.Unmarshal(k.data, &answer); err != nil || answer.Message == "" {
		w.violate("%s was refused with %s", c, k.data)
	}
	switch answer.Message {
	case "no":
		return
	case "disconnected", "connection refused":
		return
	case "too many devices":
	default:
		w.violate("%s was refused with %s", c, k.data)
	}
	if w.devices.Max == 0 {
		w.violate("%s is one too many, and there is no limit", c)
	}
	if w.devices.RefuseNew {
		return
	}
	w.mu.Lock()
	rivals := slices.Clone(w.rivals[c.room(c.user)])
	w.mu.Unlock()
	for _, r := range rivals {
		if r.client != c && r.at.After(c.asked.At.Add(-rivalry)) {
			return
		}
	}
	w.violate("%s, the newest device, was refused, and no other has come meanwhile", c)
}

// rival is a device of a user that connects.
type rival struct {
	client *client
	at     time.Time
}

const rivalry = 3 * time.Second // that a registration may take

// inspectOver looks at what a client's disconnect hook was told, at rest.
func (w *world) inspectOver(c *client) {
	o, told := c.node.guests.ended(c.n)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.node.isDead() || c.sid == "":
		return
	case o.times > 1:
		w.violate("%s: the disconnect hook has run %d times", c, o.times)
	case told == (c.left.IsZero() && !c.kicked && !c.over):
		w.violate("%s: left %v, kicked %v, over %v, and its disconnect hook was called: %v", c, !c.left.IsZero(), c.kicked, c.over, told)
	case !told:
		return
	case c.kicked && o.reason != hub.ReasonServerDisconnect:
		w.violate("%s was disconnected by the server, and its hook was told %q", c, o.reason)
	}
	for name, stay := range c.stays {
		if name != everyone && stay.Known() && !slices.Contains(o.rooms, name) {
			w.violate("%s was in %q, and its disconnect hook saw %q", c, name, o.rooms)
		}
	}
	for _, name := range o.rooms {
		if c.stays[name] == nil && (c.gone[name] || c.moved[name].IsZero()) {
			w.violate("%s was not in %q, and its disconnect hook saw %q", c, name, o.rooms)
		}
	}
}

// disconnect disconnects a room.
func (w *world) disconnect(p *publisher, namespace, room string, closing bool) {
	k := &kick{namespace: namespace, room: room, closing: closing}
	name := namespace + "," + room
	now := w.book.Now()
	k.at, k.from = now, now.At
	for _, c := range w.present() {
		if c.namespace == namespace && c.rec.WasIn(name, now) {
			k.clients = append(k.clients, c)
		}
		if closing && c.namespace == namespace && c.rec.MayHaveBeenIn(name, now, now) {
			for _, o := range c.wire.all() {
				o.rec.Leave("*", now)
			}
		}
	}
	w.book.Disturb(name)
	w.mu.Lock()
	w.kicks = append(w.kicks, k)
	w.mu.Unlock()
	w.jobs.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_, err := p.emitter.In(namespace).Disconnect(ctx, target(room), closing)
		w.book.Disturb(name) // it may have met sockets that have come meanwhile
		w.mu.Lock()
		defer w.mu.Unlock()
		k.to = time.Now()
		if err != nil {
			k.clients = nil // it may or may not have been taken
		}
	})
}

// verifyKicks checks that the kicks so far have reached everybody.
func (w *world) verifyKicks() {
	w.mu.Lock()
	kicks := slices.Clone(w.kicks)
	w.mu.Unlock()
	for _, k := range kicks {
		if !k.verified {
			k.verified = true
			// Of two kicks, the one that does not close may have been first.
			alone := !slices.ContainsFunc(kicks, func(o *kick) bool { return o != k && o.namespace == k.namespace })
			w.verify(k, alone)
		}
	}
}

func (w *world) verify(k *kick, alone bool) {
	for _, c := range k.clients {
		if !c.stayed(k.room, k.from) || w.book.Excused(c.node.name, k.from, k.to.Add(simbroker.MaxSlow+simbroker.Patience)) {
			continue
		}
		if c.alive() {
			w.violate("%s was to be disconnected with %q, and is still there", c, k.room)
		}
		if k.closing && alone && !c.mayStayOpen() && c.wire.closedFor() == "" {
			w.violate("%s was to be closed with %q, and is still open", c, k.room)
		}
	}
}

// inspect compares a node at rest with what its clients say.
func (w *world) inspect(n *node) (devices map[string]int) {
	if err := n.hub.Ready(); err != nil {
		w.violate("%s is not ready at rest: %v", n.name, err)
	}
	subjects := make(map[string]bool)
	connections, sockets := 0, 0
	devices = make(map[string]int)
	for _, k := range w.wires {
		if k.node == n && k.closedFor() == "" {
			connections++
		}
	}
	for _, c := range w.clients {
		if c.node != n {
			continue
		}
		if c.alive() && c.dismissed() {
			continue // it has expired just now
		}
		w.inspectOver(c)
		if !c.alive() {
			continue
		}
		sockets++
		devices[c.room(c.user)]++
		subjects[subject(c.namespace, everyone)] = true
		for _, r := range c.rooms() {
			subjects[subject(c.namespace, r)] = true
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
	return devices
}

// inspectDevices checks the limit on devices in the whole cluster.
func (w *world) inspectDevices(all []map[string]int) {
	total := make(map[string]int)
	for _, devices := range all {
		for who, count := range devices {
			total[who] += count
		}
	}
	for who, count := range total {
		if w.devices.Max > 0 && count > w.devices.Max {
			w.violate("%q has %d sockets, %d are allowed", who, count, w.devices.Max)
		}
	}
}

// sameSubjects compares subscriptions with rooms: beside them there are the node's own subject and that of all.
func (w *world) sameSubjects(got, want map[string]bool) bool {
	if len(got) != len(want)+2 {
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
	if !dead {
		n.pace()
	}
	if n.peer != nil && len(n.peer.Subscriptions()) > 0 {
		w.violate("%s has ended and is still subscribed", n.name)
	}
	conn := &wire{w: w, node: n}
	if _, err := n.hub.Attach(conn, nil); err == nil {
		w.violate("%s takes connections although it has ended", n.name)
	}
}
