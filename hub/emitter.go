package hub

import (
	"context"
	"fmt"
	"slices"

	"tether/broker"
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
	volatile  bool
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
		return fmt.Errorf("%w: %q", ErrUndeclaredEvent, event)
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
	c.volatile = true
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
// those of Socket.Emit, ErrNamespace, ErrTooManyRooms, the context's, and the broker's, wrapped.
func (e *Emitter) Emit(ctx context.Context, to Room, event string, args ...any) (Receipt, error) {
	receipts, err := e.emit(ctx, []Room{to}, false, event, args)
	return receipts[0], err
}

// EmitUnion emits an event to each socket that is in one of the rooms, once. The receipt's nodes are
// those of the room with the most.
func (e *Emitter) EmitUnion(ctx context.Context, to []Room, event string, args ...any) (Receipt, error) {
	if slices.Contains(to, Everyone) {
		to = []Room{Everyone}
	}
	to = distinct(to)
	receipts, err := e.emit(ctx, to, true, event, args)
	var all Receipt
	for _, r := range receipts {
		all = all.either(r)
	}
	return all, err
}

// EmitMany emits an event to each of the rooms, in one pipeline, and returns a receipt for each: also
// with an error, for those that the broker took. A socket that is in several gets it several times.
func (e *Emitter) EmitMany(ctx context.Context, to []Room, event string, args ...any) ([]Receipt, error) {
	return e.emit(ctx, to, false, event, args)
}

// Disconnect disconnects the sockets of a room on all nodes, as [Socket.Disconnect] does. It returns
// when the broker has taken it.
func (e *Emitter) Disconnect(ctx context.Context, to Room, closeConnections bool) (Receipt, error) {
	var f flags
	if closeConnections {
		f = flagClose
	}
	receipts, err := e.send(ctx, []Room{to}, kindDisconnect, f, false, nil)
	return receipts[0], err
}

func (e *Emitter) emit(ctx context.Context, to []Room, union bool, event string, args []any) ([]Receipt, error) {
	if err := e.post.check(event); err != nil {
		return unknown(len(to)), err
	}
	enc := newEncoder()
	defer enc.free()
	if err := enc.event(event, args); err != nil {
		return unknown(len(to)), err
	}
	var f flags
	if e.volatile {
		f = flagVolatile
	}
	return e.send(ctx, to, kindEvent, f, union, enc)
}

// send sends one message to each room; to a room that could be a socket's ID a second one, to the
// node that such a socket would be on. enc has the payload of an event.
func (e *Emitter) send(ctx context.Context, to []Room, k kind, f flags, union bool, enc *encoder) ([]Receipt, error) {
	if !socketio.ValidNamespace(e.namespace) {
		return unknown(len(to)), ErrNamespace
	}
	if len(e.except) > MaxTargets || union && len(e.except)+len(to) > MaxTargets {
		return unknown(len(to)), ErrTooManyRooms
	}
	if len(to) == 0 {
		return nil, nil
	}
	m := mailing{emitter: e, kind: k, flags: f, union: union, encoder: enc}
	msgs := m.messages(to)
	if e.local {
		return e.sendLocal(to, msgs)
	}
	reach, err := e.post.broker.Publish(ctx, msgs...)
	receipts := make([]Receipt, len(to))
	if len(reach) < len(msgs) { // nothing is known of any
		receipts = unknown(len(to))
	} else {
		next := 0
		for i, r := range to {
			receipts[i] = Receipt(reach[next])
			next++
			if isID(string(r)) {
				receipts[i] = receipts[i].either(Receipt(reach[next]))
				next++
			}
		}
	}
	if err != nil {
		return receipts, fmt.Errorf("hub: emit: %w", err)
	}
	return receipts, nil
}

// sendLocal delivers messages to this node alone.
func (e *Emitter) sendLocal(to []Room, msgs []broker.Message) ([]Receipt, error) {
	h := e.post.hub
	if h == nil {
		return unknown(len(to)), ErrNoHub
	}
	receipts := make([]Receipt, len(to))
	next := 0
	for i, r := range to {
		n := h.route(msgs[next])
		next++
		if isID(string(r)) {
			n += h.route(msgs[next])
			next++
		}
		receipts[i].Nodes = min(n, 1)
	}
	return receipts, nil
}

// mailing makes the messages of one call.
type mailing struct {
	emitter *Emitter
	kind    kind
	flags   flags
	union   bool
	encoder *encoder
}

func (m *mailing) messages(to []Room) []broker.Message {
	e := m.emitter
	msgs := make([]broker.Message, 0, len(to))
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
	return msgs
}

func (m *mailing) envelope(target string, except []Room) []byte {
	size := envelopeSize(target, except)
	if m.encoder != nil {
		size += m.encoder.size(m.emitter.namespace)
	}
	data := appendEnvelope(make([]byte, 0, size), m.kind, m.flags, target, except)
	if m.encoder != nil {
		data = m.encoder.frames(data, socketio.Packet{Type: socketio.Event, Namespace: m.emitter.namespace})
	}
	return data
}

func unknown(n int) []Receipt {
	receipts := make([]Receipt, n)
	for i := range receipts {
		receipts[i].Bound = broker.Unknown
	}
	return receipts
}

func distinct(rooms []Room) []Room {
	seen := make(map[Room]bool, len(rooms))
	return slices.DeleteFunc(slices.Clone(rooms), func(r Room) bool {
		was := seen[r]
		seen[r] = true
		return was
	})
}
