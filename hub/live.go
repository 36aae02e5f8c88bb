package hub

import (
	"context"
	"encoding/binary"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/cluster"
	"tether/engine"
)

// An emitter that wants to know where connected clients took its event gives it a mark, as a tracer does. Nodes
// remember what became of such an event, and are asked for it behind the event, on the same subject.

const (
	liveTime   = time.Second // after which it is unknown what nodes have not said
	liveAtOnce = 64          // questions of one call that are under way
	maxTakings = 4096        // that a node remembers

	liveName     = "" // no tracer has this name
	liveIDSize   = 8
	liveMarkSize = 1 + 1 + liveIDSize
)

// What a node says of an event.
const (
	liveNo     byte = iota // no client that is connected took it
	liveYes                // one did
	liveUnsure             // it is not through, or has not come, and clients are connected
)

// AskLive has each emit ask the nodes that took the event whether a connected client did: the answer is [Receipt.Live].
// It is one message more to each of these nodes, or with NATS to all nodes, and one from each, and the emit waits for
// them, for a second at most; what has not been answered then is unknown. An emitter without a hub needs its Run for
// it: an emit fails with ErrNotRunning before that, and emits nothing.
func (e *Emitter) AskLive() *Emitter {
	c := *e
	c.live = true
	return &c
}

// appendLiveMark appends a mark with an ID that nobody else has.
func appendLiveMark(dst []byte, id uint64) []byte {
	return appendText(appendText(dst, liveName), string(binary.BigEndian.AppendUint64(nil, id)))
}

// askLive completes the receipts of an event with a mark.
func (e *Emitter) askLive(ctx context.Context, id uint64, to []Target, receipts []Receipt) {
	ctx, cancel := context.WithTimeout(ctx, liveTime)
	defer cancel()
	var next atomic.Int64
	ask := func() {
		for i := next.Add(1) - 1; i < int64(len(to)); i = next.Add(1) - 1 {
			if r := &receipts[i]; !r.Nobody() {
				r.Live = e.liveOf(ctx, id, to[i], r.Receipt)
			}
		}
	}
	var wg sync.WaitGroup
	for range min(len(to), liveAtOnce) - 1 {
		wg.Go(ask)
	}
	ask()
	wg.Wait()
}

// liveOf asks where connected clients took the event that nodes took for a target.
func (e *Emitter) liveOf(ctx context.Context, id uint64, to Target, took broker.Receipt) broker.Receipt {
	a, err := e.ask(ctx, topicLive, to, false, binary.BigEndian.AppendUint64(nil, id), nil)
	if err != nil {
		return unknown
	}
	live, known, unsure := 0, 0, false
	for _, page := range a.Pages {
		switch {
		case len(page) == 0:
		case page[0] == liveYes:
			live, known = live+1, known+1
		case page[0] == liveNo:
			known++
		default:
			unsure = true
		}
	}
	all := took.Bound == broker.Exact || a.Err() == nil && len(a.Missing()) == 0 && !unsure
	switch {
	case all && known >= took.Nodes:
		return broker.Receipt{Nodes: live}
	case live > 0:
		return broker.Receipt{Nodes: live, Bound: broker.AtLeast}
	}
	return unknown
}

// answerLive says what became of an event on this node. Of a socket that has gone on to another node, that one says it.
func (h *Hub) answerLive(ctx context.Context, q *cluster.Request, a *about) error {
	if len(a.rest) != liveIDSize {
		h.count(errEnvelopeMalformed)
		return errEnvelopeMalformed
	}
	if a.to.kind == single && h.departed.has(a.to.name) {
		return nil
	}
	k := takingKey{binary.BigEndian.Uint64(a.rest), roomSubject(h.options.Prefix, a.namespace, a.to)}
	t := h.takings.of(k)
	switch {
	case t != nil && t.live.Load():
		return q.Send(ctx, []byte{liveYes})
	case t != nil && t.nobody():
		return q.Send(ctx, []byte{liveNo})
	}
	for s := range h.among(a) {
		if s.gate.State() < stateParked {
			return q.Send(ctx, []byte{liveUnsure})
		}
	}
	return nil
}

// taking is what became of an event on this node. It is an [engine.Watcher].
type taking struct {
	live   atomic.Bool  // a connected client took it
	open   atomic.Int64 // sockets of which nothing is known, once it is routed
	routed atomic.Bool
}

// Became implements [engine.Watcher].
func (t *taking) Became(_ engine.Conn, o engine.Outcome) {
	if o == engine.Parked || o.Dropped() {
		t.open.Add(-1)
	} else {
		t.live.Store(true)
	}
}

// Routed implements [engine.Watcher].
func (t *taking) Routed(sockets int) {
	t.open.Add(int64(sockets))
	t.routed.Store(true)
}

// nobody reports whether it is certain that no connected client took the event.
func (t *taking) nobody() bool { return t.routed.Load() && t.open.Load() <= 0 && !t.live.Load() }

// takings are those of the last events that came with a mark. The zero value is ready to use.
type takings struct {
	mu    sync.Mutex
	known map[takingKey]*taking // guarded by mu
	order []takingKey           // guarded by mu; a ring
	next  int                   // guarded by mu; the place of the oldest, once the ring is full
}

// takingKey is the ID of an event, and the subject of the room that it is for.
type takingKey struct {
	id      uint64
	subject string
}

func (x *takings) of(k takingKey) *taking {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.known[k]
}

// add remembers an event. The mark is an emitter's; nil: it is none.
func (x *takings) add(mark []byte, subject string) *taking {
	if len(mark) != liveIDSize {
		return nil
	}
	k := takingKey{binary.BigEndian.Uint64(mark), strings.Clone(subject)} // which may stand in the message
	x.mu.Lock()
	defer x.mu.Unlock()
	if t := x.known[k]; t != nil {
		return t // it has come twice
	}
	if x.known == nil {
		x.known = make(map[takingKey]*taking)
	}
	if len(x.order) < maxTakings {
		x.order = append(x.order, k)
	} else {
		delete(x.known, x.order[x.next])
		x.order[x.next] = k
		x.next = (x.next + 1) % maxTakings
	}
	t := new(taking)
	x.known[k] = t
	return t
}
