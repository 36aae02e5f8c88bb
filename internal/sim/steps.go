package sim

import (
	"strconv"
	"time"
)

// action is something that can happen. It reports false when it cannot happen now.
type action struct {
	weight int
	do     func(*world) bool
}

var actions = []action{
	{16, (*world).doConnect},
	{6, (*world).doHangUp},
	{6, (*world).doFlap},
	{10, (*world).doJoin},
	{8, (*world).doLeave},
	{6, (*world).doRejoin},
	{40, (*world).doEmit},
	{12, (*world).doBurst},
	{8, (*world).doUnion},
	{4, (*world).doEmitToOne},
	{5, (*world).doAsk},
	{1, (*world).doKick},
	{2, (*world).doStall},
	{2, (*world).doStartNode},
	{1, (*world).doStopNode},
	{1, (*world).doKillNode},
	{2, (*world).doSilence},
	{4, (*world).doHeal},
	{2, (*world).doCut},
	{1, (*world).doSlow},
	{1, (*world).doStopBroker},
	{2, (*world).doRevoke},
	{1, (*world).doAil},
	{2, (*world).doRecover},
	{3, (*world).doStartBroker},
	{1, (*world).doJump},
	{3, (*world).doSetClock},
	{3, (*world).doExpire},
	{4, (*world).doQuestion},
	{5, (*world).doFetch},
	{2, (*world).doGather},
	{3, (*world).doBlob},
	{3, (*world).doBroadcast},
	{3, (*world).doVolatile},
	{4, (*world).doProbe},
	{5, (*world).doQuit},
	{1, (*world).doLurk},
	{2, (*world).doChange},
	{3, (*world).doJoinMany},
	{2, (*world).doKnock},
}

// step does one thing.
func (w *world) step() {
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	for range 5 {
		at := w.rng.IntN(total)
		for _, a := range actions {
			if at -= a.weight; at < 0 {
				if a.do(w) {
					return
				}
				break
			}
		}
	}
}

func (w *world) doJoin() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	r := pick(w, rooms)
	w.note("%s joins %q", c, r)
	c.join(r)
	return true
}

func (w *world) doLeave() bool {
	c := w.client()
	if c == nil || !c.alive() || len(c.rooms()) == 0 {
		return false
	}
	r := pick(w, c.rooms())
	if w.devices.Max > 0 && r == userRoom(c.user) {
		return false // a member of a user's room that is not registered does not count as a device
	}
	w.note("%s leaves %q", c, r)
	c.leave(r)
	return true
}

// doRejoin leaves a room and joins it again, several times, without waiting.
func (w *world) doRejoin() bool {
	c := w.client()
	if c == nil || !c.alive() || len(c.rooms()) == 0 {
		return false
	}
	r, n := pick(w, c.rooms()), 1+w.rng.IntN(3)
	if w.devices.Max > 0 && r == userRoom(c.user) {
		return false
	}
	w.note("%s rejoins %q %d times", c, r, n)
	for range n {
		c.leave(r)
		c.join(r)
	}
	return true
}

func (w *world) doAsk() bool {
	c := w.client()
	if c == nil || !c.alive() {
		return false
	}
	for range 1 + w.rng.IntN(20) {
		d := strconv.FormatInt(w.rng.Int64N(int64(2*time.Millisecond)), 10)
		c.ask("echo", d, func(k packet) {
			if string(k.data) != "["+d+"]" {
				w.violate("%s got another answer than it asked for: %s", c, k.data)
			}
		})
	}
	return true
}

func (w *world) doKick() bool {
	c := w.client()
	if c == nil || !c.alive() || len(c.rooms()) == 0 {
		return false
	}
	r, p, closing := pick(w, c.rooms()), w.publisherOf(), w.chance(2)
	if w.chance(3) {
		r = c.id()
	}
	w.note("%s disconnects %q in %s", p.name, r, c.namespace)
	w.disconnect(p, c.namespace, r, closing)
	return true
}

// doStall makes a client stop reading for a while, perhaps until its queue is full.
func (w *world) doStall() bool {
	c := w.client()
	if c == nil {
		return false
	}
	d := w.upTo(3 * time.Second)
	w.note("%s does not read for %v", c, d)
	c.wire.mu.Lock()
	c.wire.stall = d
	c.wire.mu.Unlock()
	p, sid := w.publisherOf(), c.id()
	if sid != "" && w.chance(2) {
		w.emit(p, c.namespace, []string{sid}, nil, wireSize+5, false)
	}
	return true
}

// doJoinMany joins so many rooms at once that tables grow and batches are full. Few runs have that.
func (w *world) doJoinMany() bool {
	c := w.client()
	if !w.many || c == nil || !c.alive() || w.devices.Max > 0 {
		return false
	}
	n := 400 + w.rng.IntN(500)
	from := w.rng.IntN(3) * 700
	w.note("%s joins %d rooms", c, n)
	c.joinMany(from, n)
	for range 5 {
		to := manyRoom(from + w.rng.IntN(n))
		w.emit(w.publisherOf(), c.namespace, []string{to}, nil, 1, false)
	}
	return true
}
