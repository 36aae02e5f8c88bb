package hub

import (
	"context"
	"fmt"
	"slices"

	"tether/broker"
	"tether/engine"
	"tether/internal/socketio"
)

// Emitter emits events to rooms, on whatever nodes their sockets are. It is immutable and may be used
// concurrently; its methods return changed copies.
//
// Events that one emitter's process emits to one room in the order of the calls arrive in that order
// at each socket of the room. Between two rooms, and between a room and a single socket's own, there
// is no order. Emit is at most once: an error says that the broker may not have taken the event, and
// nothing is repeated.
type Emitter struct {
	post      *post
	namespace string
	except    []Room
	terms     engine.Terms
	local     bool
}

// EmitterOptions of NewEmitter. The zero value is ready to use.
type EmitterOptions struct {
	Prefix    string   // that of the hubs, see Options. Default "tether"
	Namespace string   // default "/"
	Events    []string // that may be emitted. Empty: any
}

// post is what the emitters of a hub, or of one NewEmitter, share.
type post struct {
	broker broker.Broker
	prefix string
	events map[string]struct{} // allowed; nil: any
	hub    *Hub                // nil if there is none
	lender broker.Lender       // the broker, if it is one
}

// NewEmitter returns an emitter that needs no hub: for a worker, which serves no clients. The broker
// need not be running. The caller closes it.
func NewEmitter(b broker.Broker, o EmitterOptions) *Emitter {
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	return &Emitter{post: newPost(b, o.Prefix, o.Events, nil), namespace: withSlash(o.Namespace)}
}

func newPost(b broker.Broker, prefix string, events []string, h *Hub) *post {
	p := &post{broker: b, prefix: prefix, hub: h}
	p.lender, _ = b.(broker.Lender)
	if len(events) > 0 {
		p.events = make(map[string]struct{}, len(events))
		for _, e := range events {
			p.events[e] = struct{}{}
		}
	}
	return p
}

// check reports whether an event may be emitted.
func (p *post) check(event string) error {
	if socketio.Reserved(event) {
		return fmt.Errorf("%w: %q", ErrReservedEvent, event)
	}
	if p.events == nil {
		return nil
	}
	if _, ok := p.events[event]; !ok {
		return fmt.Errorf("%w: %.64q", ErrUndeclaredEvent, event)
	}
	return nil
}

// In emits to another namespace. The slash that its name begins with is added if it is missing.
func (e *Emitter) In(namespace string) *Emitter {
	c := *e
	c.namespace = withSlash(namespace)
	return &c
}

// Except leaves out the sockets that are in one of the rooms when the event arrives at their node. The
// ID of a socket is a room too.
func (e *Emitter) Except(rooms ...Room) *Emitter {
	c := *e
	c.except = append(slices.Clip(c.except), rooms...)
	return &c
}

// Volatile emits events that are worth nothing later: a client that is not ready to take one now does
// not get it.
func (e *Emitter) Volatile() *Emitter {
	c := *e
	c.terms.Volatile = true
	return &c
}

// Overflow gives events a policy of their own for clients whose queue is full.
func (e *Emitter) Overflow(o Overflow) *Emitter {
	c := *e
	c.terms.Overflow = o
	return &c
}

// Latest emits events that replace each other, prices say: of those with the same key that wait for a
// client, only the newest stays. It waits where it came, behind what was emitted before it, so that
// what arrives still has the order in which it was emitted, and older ones are missing from it. What is
// being written to the client already is not called back. The key counts within the namespace, for all
// emitters and all rooms. Its length is at most MaxKey bytes; "" undoes it.
//
// When the queue is full nevertheless, of other keys, the policy decides: see Overflow.
func (e *Emitter) Latest(key string) *Emitter {
	c := *e
	c.terms.Key = key
	return &c
}

// Local emits to the sockets of this node only, without the broker. What it emits may overtake what
// is emitted through the broker, and be overtaken. An emitter without a hub then returns ErrNoHub.
func (e *Emitter) Local() *Emitter {
	c := *e
	c.local = true
	return &c
}

// Emit emits an event to a room; the ID of a socket is one. For args see [Socket.Emit]. The errors are
// those of Socket.Emit, ErrNamespace, ErrTooManyRooms, ErrTerms, the context's, and the broker's, wrapped.
func (e *Emitter) Emit(ctx context.Context, to Room, event string, args ...any) (Receipt, error) {
	rooms, receipts := [1]Room{to}, [1]Receipt{}
	err := e.emit(ctx, rooms[:], receipts[:], false, event, args)
	return receipts[0], err
}

// EmitUnion emits an event to each socket that is in one of the rooms, once. The receipt's nodes are
// those of the room with the most.
func (e *Emitter) EmitUnion(ctx context.Context, to []Room, event string, args ...any) (Receipt, error) {
	if slices.Contains(to, Everyone) {
		to = []Room{Everyone}
	}
	to = distinct(to)
	receipts := make([]Receipt, len(to))
	err := e.emit(ctx, to, receipts, true, event, args)
	var all Receipt
	for _, r := range receipts {
		all = either(all, r)
	}
	return all, err
}

// EmitMany emits an event to each of the rooms, in one pipeline, and returns a receipt for each: also
// with an error, for those that the broker took. A socket that is in several gets it several times.
func (e *Emitter) EmitMany(ctx context.Context, to []Room, event string, args ...any) ([]Receipt, error) {
	receipts := make([]Receipt, len(to))
	err := e.emit(ctx, to, receipts, false, event, args)
	return receipts, err
}

// Disconnect disconnects the sockets of a room on all nodes, as [Socket.Disconnect] does. It returns
// when the broker has taken it.
func (e *Emitter) Disconnect(ctx context.Context, to Room, closeConnections bool) (Receipt, error) {
	var f flags
	if closeConnections {
		f = flagClose
	}
	rooms, receipts := [1]Room{to}, [1]Receipt{{Bound: broker.Unknown}}
	m := mailing{emitter: e, kind: kindDisconnect, flags: f}
	err := m.send(ctx, rooms[:], receipts[:])
	return receipts[0], err
}

// emit emits one event to each room and writes a receipt for each.
func (e *Emitter) emit(ctx context.Context, to []Room, receipts []Receipt, union bool, event string, args []any) error {
	for i := range receipts {
		receipts[i].Bound = broker.Unknown
	}
	if err := e.post.check(event); err != nil {
		return err
	}
	if err := checkTerms(&e.terms); err != nil {
		return err
	}
	enc := newEncoder()
	defer enc.free()
	if err := enc.event(event, args); err != nil {
		return err
	}
	m := mailing{emitter: e, kind: kindEvent, union: union, encoder: enc, scratch: enc.messages}
	if e.terms.Volatile {
		m.flags = flagVolatile
	}
	if e.terms.Overflow != AsConfigured || e.terms.Key != "" {
		m.flags |= flagTerms
	}
	err := m.send(ctx, to, receipts)
	enc.messages = m.scratch
	return err
}

// mailing is the messages of one call.
type mailing struct {
	emitter *Emitter
	kind    kind
	flags   flags
	union   bool
	encoder *encoder // has the payload of an event; else nil

	scratch []broker.Message // what messages returned; its memory is used again
}

// send sends one message to each room; to a room that could be a socket's ID a second one, to the
// node that such a socket would be on. It sets the receipts, which are unknown, of those that the
// broker took.
func (m *mailing) send(ctx context.Context, to []Room, receipts []Receipt) error {
	e := m.emitter
	if !socketio.ValidNamespace(e.namespace) {
		return ErrNamespace
	}
	if len(e.except) > MaxTargets || m.union && len(e.except)+len(to) > MaxTargets {
		return ErrTooManyRooms
	}
	if len(to) == 0 {
		return nil
	}
	msgs := m.messages(to)
	if e.local {
		return m.sendLocal(to, receipts, msgs)
	}
	taken, err := m.publish(ctx, msgs)
	if len(taken) == len(msgs) { // else nothing is known of any
		next := 0
		for i, r := range to {
			receipts[i] = taken[next]
			next++
			if isID(string(r)) {
				receipts[i] = either(receipts[i], taken[next])
				next++
			}
		}
	}
	if err != nil {
		return fmt.Errorf("hub: emit: %w", err)
	}
	return nil
}

// lends reports whether the messages' memory is that of the encoder, and used again.
func (m *mailing) lends() bool {
	return m.encoder != nil && (m.emitter.local || m.emitter.post.lender != nil)
}

func (m *mailing) publish(ctx context.Context, msgs []broker.Message) ([]broker.Receipt, error) {
	if m.lends() {
		return m.emitter.post.lender.Lend(ctx, msgs...)
	}
	return m.emitter.post.broker.Publish(ctx, msgs...)
}

// sendLocal delivers messages to this node alone.
func (m *mailing) sendLocal(to []Room, receipts []Receipt, msgs []broker.Message) error {
	h := m.emitter.post.hub
	if h == nil {
		return ErrNoHub
	}
	route := h.route
	if m.lends() {
		route = h.routeLent
	}
	next := 0
	for i, r := range to {
		n := route(msgs[next])
		next++
		if isID(string(r)) {
			n += route(msgs[next])
			next++
		}
		receipts[i] = Receipt{Nodes: min(n, 1)}
	}
	return nil
}

func (m *mailing) messages(to []Room) []broker.Message {
	e := m.emitter
	msgs := slices.Grow(m.scratch[:0], len(to))
	var shared []byte // the envelope of rooms with the same exceptions
	for i, r := range to {
		subject := roomSubject(e.post.prefix, e.namespace, r)
		except := e.except
		if m.union { // who is in an earlier room gets it there
			except = append(slices.Clip(except), to[:i]...)
			shared = nil
		}
		if shared == nil {
			shared = m.envelope("", except)
		}
		msgs = append(msgs, broker.Message{Subject: subject, Data: shared})
		if isID(string(r)) {
			tag := string(r[:tagLength])
			msgs = append(msgs, broker.Message{
				Subject: nodeSubject(e.post.prefix, tag),
				Data:    m.envelope(subject, except),
			})
		}
	}
	m.scratch = msgs
	return msgs
}

func (m *mailing) envelope(target string, except []Room) []byte {
	head := socketio.Packet{Type: socketio.Event, Namespace: m.emitter.namespace}
	size := envelopeSize(target, except)
	if m.encoder != nil {
		size += m.encoder.size(head)
	}
	if m.flags&flagTerms != 0 {
		size += termsSize(m.emitter.terms.Key)
	}
	var data []byte
	if m.lends() {
		data = m.encoder.lend(size)
	} else {
		data = make([]byte, 0, size)
	}
	data = appendEnvelope(data, m.kind, m.flags, target, except)
	if m.flags&flagTerms != 0 {
		data = appendTerms(data, m.emitter.terms.Overflow, m.emitter.terms.Key)
	}
	if m.encoder != nil {
		data = m.encoder.frames(data, head)
	}
	return data
}

func distinct(rooms []Room) []Room {
	seen := make(map[Room]bool, len(rooms))
	return slices.DeleteFunc(slices.Clone(rooms), func(r Room) bool {
		was := seen[r]
		seen[r] = true
		return was
	})
}
