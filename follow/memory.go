package follow

import (
	"slices"
	"sync"
	"time"

	"tether/engine"
	"tether/hub"
)

// memory is what a process knows of the latest events.
type memory struct {
	events int
	keep   time.Duration

	mu     sync.Mutex
	known  map[ID]*event // guarded by mu
	latest []ID          // guarded by mu; the oldest first
}

type event struct {
	since    time.Time
	emit     *emit // nil: another process has emitted it
	arrivals []*arrival
	received *received // nil: no client has sent it
}

// maxArrivals is how many messages of one event a node remembers: an emit to several targets has several.
const maxArrivals = 16

func (m *memory) emitted(id ID, e *emit) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ofLocked(id).emit = e
}

func (m *memory) received(id ID, r *received) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ofLocked(id).received = r
}

func (m *memory) arrived(id ID, a *arrival) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.ofLocked(id); len(e.arrivals) < maxArrivals {
		e.arrivals = append(e.arrivals, a)
	}
}

func (m *memory) ofLocked(id ID) *event {
	if e := m.known[id]; e != nil {
		return e
	}
	m.forgetLocked(m.events - 1)
	e := &event{since: time.Now()}
	if m.known == nil {
		m.known = make(map[ID]*event)
	}
	m.known[id] = e
	m.latest = append(m.latest, id)
	return e
}

// forgetLocked forgets what is as old as that, and the oldest until at most max are left.
func (m *memory) forgetLocked(max int) {
	for len(m.latest) > 0 && (len(m.latest) > max || time.Since(m.known[m.latest[0]].since) >= m.keep) {
		delete(m.known, m.latest[0])
		m.latest = m.latest[1:]
	}
}

// find returns the events with the IDs, or without IDs the last up to limit that were emitted to a target here; to
// any if it is "".
func (m *memory) find(q question) (found []Event) {
	m.mu.Lock()
	m.forgetLocked(m.events)
	var ids []ID
	for _, id := range m.latest {
		e := m.known[id]
		switch {
		case q.IDs != nil && !slices.Contains(q.IDs, id):
		case q.To != "" && !e.isOf(q.To):
		default:
			ids = append(ids, id)
		}
	}
	ids = ids[max(0, len(ids)-q.Limit):]
	events := make([]event, len(ids)) // whose reports ask connections: an event that comes to a node does not wait for them
	for i, id := range ids {
		events[i] = *m.known[id]
	}
	m.mu.Unlock()
	for i := range events {
		found = append(found, events[i].report(ids[i]))
	}
	return found
}

func (e *event) isOf(target string) bool {
	return e.emit != nil && e.emit.isTo(target) || e.received != nil && slices.Contains(e.received.of, target)
}

func (e *event) report(id ID) Event {
	r := Event{ID: id}
	if got := e.received; got != nil {
		r.Name, r.Namespace, r.By, r.At, r.From = got.name, got.namespace, got.node, got.at.UTC(), got.socket
	}
	if e.emit != nil {
		e.emit.report(&r)
	}
	for _, a := range e.arrivals {
		r.Name, r.Namespace = a.name, a.namespace
		r.Arrivals = append(r.Arrivals, a.report())
	}
	return r
}

// received is an event that a client of this node has sent.
type received struct {
	node, name, namespace, socket string
	at                            time.Time
	of                            []string // targets of rules that the socket was among
}

// emit is an event that this process has emitted.
type emit struct {
	node, name, namespace string
	to                    []hub.Target
	at                    time.Time

	mu       sync.Mutex
	ended    bool          // guarded by mu
	receipts []hub.Receipt // guarded by mu
	err      error         // guarded by mu
}

func (e *emit) done(receipts []hub.Receipt, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.ended, e.receipts, e.err = true, receipts, err
}

func (e *emit) isTo(name string) bool {
	return slices.ContainsFunc(e.to, func(t hub.Target) bool { return t.String() == name })
}

func (e *emit) report(r *Event) {
	e.mu.Lock()
	defer e.mu.Unlock()
	r.Name, r.Namespace, r.By, r.At = e.name, e.namespace, e.node, e.at.UTC()
	for _, t := range e.to[:min(len(e.to), maxTargets)] {
		r.To = append(r.To, t.String())
	}
	r.MoreTargets = len(e.to) - len(r.To)
	switch {
	case e.err != nil:
		r.Error = e.err.Error()
	case e.ended:
		r.Nobody = len(e.receipts) > 0
		for i, receipt := range e.receipts {
			r.Nodes, r.Nobody = r.Nodes+receipt.Nodes, r.Nobody && receipt.Nobody()
			if i < maxTargets {
				r.Receipts = append(r.Receipts, receipt.String())
			}
		}
	default:
		r.Error = "the broker has not answered yet"
	}
}

const unrouted = -1

// arrival is one message of an event that has come to this node. It is an [engine.Watcher].
type arrival struct {
	node, name, namespace string
	max                   int
	taken                 time.Time

	mu      sync.Mutex
	sockets int                     // guarded by mu; unrouted at first
	fates   map[engine.Conn]*Client // guarded by mu
	order   []engine.Conn           // guarded by mu
	beyond  Beyond                  // guarded by mu
}

// Routed implements [engine.Watcher].
func (a *arrival) Routed(sockets int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.sockets = sockets
}

// Became implements [engine.Watcher].
func (a *arrival) Became(c engine.Conn, o engine.Outcome) {
	now := time.Now()
	a.mu.Lock()
	defer a.mu.Unlock()
	f := a.fates[c]
	if f == nil {
		if len(a.fates) == a.max {
			a.beyond.count(o)
			return
		}
		if a.fates == nil {
			a.fates = make(map[engine.Conn]*Client)
		}
		f = new(Client)
		a.fates[c] = f
		a.order = append(a.order, c)
	}
	f.become(o, now.UTC())
}

// report asks connections for their names: none of their locks is held here.
func (a *arrival) report() Arrival {
	a.mu.Lock()
	r := Arrival{Node: a.node, Taken: a.taken.UTC(), Sockets: max(a.sockets, 0), Beyond: a.beyond, Routed: a.sockets != unrouted}
	conns := slices.Clone(a.order)
	for _, c := range conns {
		r.Clients = append(r.Clients, *a.fates[c])
	}
	a.mu.Unlock()
	for i, c := range conns {
		r.Clients[i].Connection, r.Clients[i].Transport = engine.PublicID(c.ID()), c.Transport()
	}
	return r
}
