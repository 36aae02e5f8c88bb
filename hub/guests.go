package hub

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"tether/broker"
	"tether/cluster"
)

// guests are the sockets of this node whose sessions began on another one.
type guests struct {
	n atomic.Int32

	mu       sync.Mutex
	sessions map[[sha256.Size]byte]*Socket // guarded by mu
	ids      map[string]*Socket            // guarded by mu
}

// add is also called for the next socket of a session.
func (g *guests) add(s *Socket, v *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions == nil {
		g.sessions = make(map[[sha256.Size]byte]*Socket)
		g.ids = make(map[string]*Socket)
	}
	s.named = true
	g.sessions[v.key.hash], g.ids[v.id] = s, s
	g.n.Store(int32(len(g.ids)))
}

// remove forgets a socket, and its session unless that has another one.
func (g *guests) remove(s *Socket, v *session) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.sessions[v.key.hash] == s {
		delete(g.sessions, v.key.hash)
	}
	if g.ids[v.id] == s {
		delete(g.ids, v.id)
	}
	g.n.Store(int32(len(g.ids)))
}

func (g *guests) of(hash [sha256.Size]byte) *Socket {
	if g.n.Load() == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.sessions[hash]
}

func (g *guests) withID(id string) *Socket {
	if g.n.Load() == 0 {
		return nil
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.ids[id]
}

// departed remembers where sessions have gone that this node had, and passes on what comes for their sockets
// alone. It forgets the oldest.
type departed struct {
	n atomic.Int32 // IDs

	mu       sync.Mutex
	sessions recent[[sha256.Size]byte, string] // guarded by mu
	ids      recent[string, struct{}]          // guarded by mu
}

const maxDeparted = 1 << 16

func (d *departed) add(hash [sha256.Size]byte, to string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sessions.put(hash, to, maxDeparted)
}

func (d *departed) to(hash [sha256.Size]byte) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sessions.m[hash]
}

func (d *departed) forward(id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ids.put(id, struct{}{}, maxDeparted)
	d.n.Store(int32(len(d.ids.m)))
}

func (d *departed) has(id string) bool {
	if d.n.Load() == 0 {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.ids.m[id]
	return ok
}

// recent is a map that forgets what came first.
type recent[K comparable, V any] struct {
	m    map[K]V
	ring []K // the oldest at next once it is full
	next int
}

func (r *recent[K, V]) put(k K, v V, limit int) {
	if _, known := r.m[k]; known {
		r.m[k] = v
		return
	}
	if r.m == nil {
		r.m = make(map[K]V)
	}
	if len(r.ring) < limit {
		r.ring = append(r.ring, k)
	} else {
		delete(r.m, r.ring[r.next])
		r.ring[r.next] = k
		r.next = (r.next + 1) % limit
	}
	r.m[k] = v
}

// forwardable is the message that passes on what came on this node's subject for a socket that has moved.
func (e *envelope) forwardable() broker.Message {
	data := appendText([]byte{envelopeVersion, byte(e.kind), byte(e.flags)}, string(e.target))
	data = binary.AppendUvarint(data, uint64(e.excepts))
	data = append(data, e.except...)
	if e.flags&flagTerms != 0 {
		data = append(binary.AppendUvarint(data, uint64(len(e.terms))), e.terms...)
	}
	if e.flags&flagStamp != 0 {
		data = binary.BigEndian.AppendUint32(data, e.stamp)
	}
	if e.flags&flagOrigin != 0 {
		data = appendOriginOf(data, e.from, e.number)
	}
	if e.flags&flagMarks != 0 {
		data = append(binary.AppendUvarint(data, uint64(len(e.marks))), e.marks...)
	}
	m := broker.Message{Subject: string(e.target), Data: append(data, e.body...), Place: e.place}
	if e.place != 0 && e.flags&flagVolatile == 0 {
		m.Log = m.Subject
	}
	return m
}

// passed reports whether a message that has come on a subject is one that a node has passed on: it keeps its target.
func (e *envelope) passed(subject string) bool {
	return len(e.target) > 0 && string(e.target) == subject
}

// forwarded is a message that is to be passed on.
type forwarded struct {
	m  broker.Message
	at time.Time // when it came
}

// forwardTime is for how long a message that has come is passed on. The node that has the socket knows for longer what it
// has got meanwhile, so that it sees when this comes behind a later one: see engine.Log.
const forwardTime = 2 * time.Second

// forward has a message published. It does not wait: deliver calls it.
func (h *Hub) forward(e *envelope) {
	h.forwarding.Add(1)
	select {
	case h.forwards <- forwarded{e.forwardable(), time.Now()}:
	default:
		h.forwarding.Add(-1)
		h.counters.dropped.Add(1)
	}
}

const maxForwards = 4096

// forwarder publishes what forward was given, in order, until ctx is done.
func (h *Hub) forwarder(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case f := <-h.forwards:
			attempt, cancel := context.WithDeadline(ctx, f.at.Add(forwardTime))
			err := attempt.Err()
			if err == nil {
				_, err = h.broker.Publish(attempt, f.m)
			}
			cancel()
			if err != nil && ctx.Err() == nil {
				h.log.Warn("an event for a socket that has moved to another node is lost", "error", err)
			}
			h.forwarding.Add(-1)
		}
	}
}

// retireLimit is for how long retire waits.
const retireLimit = time.Second

// retire ends what this node gets for sockets that have moved, and returns when all that it has got has been passed on:
// what it is counted for arrives. Emitters find the sockets by themselves then.
// After an error there is nothing to wait for.
func (h *Hub) retire(err error) {
	if err != nil || h.departed.n.Load() == 0 {
		return
	}
	for _, m := range h.own {
		h.interest.leave(m)
	}
	ticker := time.NewTicker(drainPoll)
	defer ticker.Stop()
	for begin := time.Now(); time.Since(begin) < retireLimit; <-ticker.C {
		listens := slices.ContainsFunc(h.own, func(m membership) bool { return !h.index.settled(m.room) })
		if !listens && h.forwarding.Load() == 0 {
			return
		}
	}
}

// fences are what was sent through rooms to know when everything before it has arrived.
type fences struct {
	mu   sync.Mutex
	last uint64
	open map[uint64]*fence // guarded by mu
}

type fence struct {
	left int // rooms; guarded by the fences' mu
	done chan struct{}
}

// fence returns when everything has been delivered here that was published to the subjects, which this node is
// subscribed to, before the call.
func (h *Hub) fence(ctx context.Context, subjects []string) error {
	f := &fence{left: len(subjects), done: make(chan struct{})}
	if f.left == 0 {
		return nil
	}
	h.fences.mu.Lock()
	if h.fences.open == nil {
		h.fences.open = make(map[uint64]*fence)
	}
	h.fences.last++
	number := h.fences.last
	h.fences.open[number] = f
	h.fences.mu.Unlock()
	defer func() {
		h.fences.mu.Lock()
		delete(h.fences.open, number)
		h.fences.mu.Unlock()
	}()
	data := appendEnvelope(nil, kindFence, 0, "", nil)
	data = binary.AppendUvarint(append(data, h.tag...), number)
	msgs := make([]broker.Message, len(subjects))
	for i, subject := range subjects {
		msgs[i] = broker.Message{Subject: subject, Data: data}
		if h.kept != nil {
			msgs[i].Place = 1 // behind all that has one so far
		}
	}
	receipts, err := h.broker.Publish(ctx, msgs...)
	if err != nil {
		return err
	}
	select {
	case <-f.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	for _, r := range receipts {
		if r.Bound != broker.Exact {
			pause(ctx, fenceGrace)
			break
		}
	}
	return ctx.Err()
}

// arrived takes a fence that has come through one room.
func (h *Hub) fenceArrived(body []byte) {
	if len(body) < tagLength || string(body[:tagLength]) != h.tag {
		return
	}
	number, _ := binary.Uvarint(body[tagLength:])
	h.fences.mu.Lock()
	defer h.fences.mu.Unlock()
	if f := h.fences.open[number]; f != nil {
		if f.left--; f.left == 0 {
			close(f.done)
		}
	}
}

// gone remembers when nodes were first found to be gone.
type gone struct {
	mu    sync.Mutex
	since recent[string, time.Time] // guarded by mu; by tag
}

const maxGone = 1 << 10

// await returns when what a node has passed on last before it went has arrived.
func (g *gone) await(ctx context.Context, tag string) {
	g.mu.Lock()
	since, known := g.since.m[tag]
	if !known {
		since = time.Now()
		g.since.put(tag, since, maxGone)
	}
	g.mu.Unlock()
	if left := lateTime - time.Since(since); left > 0 {
		pause(ctx, left)
	}
}

// again publishes what was for single sockets whose nodes are gone: they may have moved. A broker may not know that of a
// message with a place; if the socket gets it twice it drops the second one, and an heir does: see Hub.had.
func (m *batch) again(ctx context.Context, to []Target, receipts []Receipt) error {
	e := m.emitter
	var msgs []broker.Message
	var places []int
	for i, t := range to {
		gone := receipts[i].Nobody() || e.publisher.placed && receipts[i].Bound == broker.Unknown
		if t.kind != single || !gone {
			continue
		}
		tag := t.name[:min(tagLength, len(t.name))]
		e.publisher.gone.await(ctx, tag)
		except := e.except
		if m.union {
			except = append(except[:len(except):len(except)], to[:i]...)
		}
		places = append(places, i)
		subject := roomSubject(e.publisher.prefix, e.namespace, t)
		first := cluster.NodeSubject(e.publisher.prefix, tag)
		msgs = append(msgs, m.message(subject, m.envelope(first, except), subject))
	}
	if len(msgs) == 0 {
		return nil
	}
	taken, err := e.publisher.broker.Publish(ctx, msgs...)
	for j, i := range places {
		if j < len(taken) {
			receipts[i] = receiptOf(taken[j])
		}
	}
	if err != nil {
		return fmt.Errorf("hub: emit to where a socket may have moved: %w", err)
	}
	return nil
}
