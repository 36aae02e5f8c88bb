package sim

import (
	"time"

	"tether/broker"
	"tether/internal/simbroker"
)

func (w *world) doStartNode() bool {
	if len(w.live()) > 3 {
		return false
	}
	n := w.start()
	w.note("%s starts", n.name)
	if w.strangers() {
		w.crowd.forgive()
	}
	return true
}

func (w *world) doStopNode() bool {
	live := w.live()
	if len(live) == 0 || len(live) == 1 && !w.chance(4) {
		return false
	}
	n := pick(w, live)
	w.note("%s is told to stop", n.name)
	w.crowd.stop()
	n.stop()
	return true
}

func (w *world) doKillNode() bool {
	live := w.live()
	if len(live) == 0 || len(live) == 1 && !w.chance(4) {
		return false
	}
	n := pick(w, live)
	w.note("%s is killed", n.name)
	w.crowd.kill()
	n.kill()
	return true
}

// doJump lets time pass, without anything being done.
func (w *world) doJump() bool {
	d := w.upTo(90 * time.Second)
	if w.chance(10) {
		d = time.Hour
	}
	w.note("%v pass", d)
	w.recover() // a handler that waits for a part of the broker for so long costs its client the connection
	away := w.broken() || w.crowd.restless()
	time.Sleep(d)
	if away && d > 9*time.Minute {
		w.crowd.forgive() // a node that is away for so long forgets whom it knew
	}
	return true
}

// doSetClock sets the wall clock of a node, forwards or backwards. Nothing but what is dated by it may
// notice.
func (w *world) doSetClock() bool {
	live := w.live()
	if len(live) == 0 || w.keys != nil { // with keys, clocks matter
		return false
	}
	n, most := pick(w, live), pick(w, []time.Duration{2 * time.Second, time.Minute, time.Hour, 48 * time.Hour})
	d := w.upTo(2*most) - most
	w.note("the wall clock of %s jumps by %v", n.name, d)
	n.clock.jump(d)
	return true
}

func (w *world) victim() *node {
	live := w.live()
	if w.cluster == nil || len(live) == 0 {
		return nil
	}
	w.crowd.trouble()
	w.setDisturbed(true)
	return pick(w, live)
}

// victimAgain is victim for a node that is about not to be heard. If a link was broken a moment ago, what it knows may
// not be known by two yet.
func (w *world) victimAgain() *node {
	again := w.crowd.restless()
	n := w.victim()
	if again && n != nil {
		w.crowd.forgive()
	}
	return n
}

func (w *world) doSilence() bool {
	n := w.victimAgain()
	if n == nil {
		return false
	}
	w.note("%s is cut off in silence", n.name)
	for _, o := range w.live() {
		if o != n && o.peer != nil && !o.peer.Troubled().IsZero() {
			w.crowd.forgive() // both that know a user may be away
		}
	}
	n.peer.Silence()
	n.silent = true
	if len(w.live()) > 1 && w.strangers() {
		w.crowd.forgive()
	}
	return true
}

func (w *world) doHeal() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("%s is well", n.name)
	n.peer.Heal()
	n.silent = false
	return true
}

func (w *world) doCut() bool {
	n := w.victimAgain()
	if n == nil {
		return false
	}
	w.note("the connection of %s is reset", n.name)
	n.peer.Cut()
	return true
}

func (w *world) doSlow() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("%s is slow", n.name)
	n.peer.SlowDown()
	return true
}

func (w *world) doRevoke() bool {
	n := w.victim()
	if n == nil {
		return false
	}
	w.note("the broker ends subscriptions of %s", n.name)
	n.peer.Revoke(1 + w.rng.IntN(5))
	return true
}

func (w *world) doAil() bool {
	if w.victim() == nil {
		return false
	}
	part, cause := w.rng.Uint32N(simbroker.Parts), pick(w, []error{broker.ErrUnavailable, broker.ErrRefused})
	w.note("part %d of the broker takes no subscriptions: %v", part, cause)
	w.cluster.Ail(part, cause)
	return true
}

func (w *world) doRecover() bool {
	if w.cluster == nil {
		return false
	}
	part := w.rng.Uint32N(simbroker.Parts)
	w.note("part %d of the broker is well", part)
	w.cluster.Ail(part, nil)
	return true
}

func (w *world) doStopBroker() bool {
	if w.victim() == nil {
		return false
	}
	w.note("the broker stops")
	w.cluster.Stop()
	return true
}

func (w *world) doStartBroker() bool {
	if w.cluster == nil {
		return false
	}
	w.note("the broker starts")
	w.cluster.Start()
	return true
}
