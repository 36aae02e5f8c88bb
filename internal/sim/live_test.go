package sim

import (
	"slices"
	"strings"

	"tether/broker"
	"tether/hub"
)

// judge looks at what the receipt of an event says of connected clients, against the books of the sessions and the
// connections. What it says has to have been true at some moment of the emit.
func (w *recoveringWorld) judge(e *posted, r hub.Receipt) {
	done := w.now()
	outcome := "asked: " + []string{"exact", "at least", "unknown"}[r.Live.Bound]
	if r.Live.Nobody() {
		outcome = "asked: nobody"
	}
	w.mu.Lock()
	w.outcomes[outcome]++
	w.mu.Unlock()
	if r.Live.Bound == broker.Unknown {
		return
	}
	w.note("%v, with %+v", e, r)
	if n := w.linked(e, done); r.Live.Nodes > n {
		w.violate("%v: clients are said to be connected at %d nodes, and were at %d at most", e, r.Live.Nodes, n)
	}
	if n := w.surelyLive(e); r.Live.Bound == broker.Exact && r.Live.Nodes < n {
		w.violate("%v: clients are said to be connected at %d nodes, and were at %d all the time", e, r.Live.Nodes, n)
	}
}

// linked is at how many nodes there was a connection, in the time of the emit, that an event may be for.
func (w *recoveringWorld) linked(e *posted, done moment) (nodes int) {
	w.mu.Lock()
	all := slices.Clone(w.all)
	w.mu.Unlock()
	for _, n := range all {
		n.mu.Lock()
		links := slices.Clone(n.links)
		n.mu.Unlock()
		if slices.ContainsFunc(links, func(l *link) bool { return l.mayTake(e, done) }) {
			nodes++
		}
	}
	return nodes
}

func (l *link) mayTake(e *posted, done moment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.began.n == 0 || l.began.n > done.n || l.over.n != 0 && l.over.n < e.began.n || l.t.namespace != e.namespace {
		return false
	}
	return l.forged != "" || slices.ContainsFunc(e.to, func(room string) bool {
		return !strings.HasPrefix(room, userRoom("")) || room == userRoom(l.t.user)
	})
}

// surelyLive is at how many nodes a client was connected during the whole emit that had to get it.
func (w *recoveringWorld) surelyLive(e *posted) int {
	if e.volatile || !w.sound() {
		return 0
	}
	w.mu.Lock()
	accounts := slices.Clone(w.accounts)
	w.mu.Unlock()
	nodes := make(map[*recoveringNode]bool)
	for _, a := range accounts {
		if l := a.t.at(); a.t.account() == a && l != nil && l.isOpen() && !l.node.isEnding() && a.wasThere(e, l.node) {
			nodes[l.node] = true
		}
	}
	return len(nodes)
}

// wasThere reports whether the session has been connected to a node since before an emit, which is for it.
func (a *account) wasThere(e *posted, n *recoveringNode) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.kick || a.over || a.namespace != e.namespace || len(a.visits) == 0 {
		return false
	}
	for _, room := range e.except {
		if a.mayLocked(room, e) {
			return false
		}
	}
	last := a.visits[len(a.visits)-1]
	if last.node != n || !last.to.IsZero() || last.from.n >= e.began.n {
		return false
	}
	for _, room := range e.to { // it comes through the first one that the socket is in, or not if it is just joining that
		if slices.ContainsFunc(a.stays, func(s *staying) bool {
			return s.room == room && s.sure.n != 0 && s.sure.n < e.began.n && s.leaving.n == 0
		}) {
			return true
		}
		if a.mayLocked(room, e) {
			return false
		}
	}
	return false
}
