package hub

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync/atomic"

	"tether/broker"
	"tether/broker/seal"
	"tether/cluster"
	"tether/engine"
	"tether/internal/socketio"
)

// Emitter emits events to a [Target], on whatever nodes its sockets are. It is immutable and may be used
// concurrently; its methods return changed copies.
//
// Events that one emitter's process emits to one room in the order of the calls arrive in that order
// at each socket of the room. Between two rooms, and between a room and a single socket's own, there
// is no order. Emit is at most once: an error says that the broker may not have taken the event, and
// nothing is repeated.
type Emitter struct {
	publisher *publisher
	namespace string
	except    []Target
	terms     engine.Terms
	local     bool
	live      bool // see AskLive
}

// EmitterOptions of NewEmitter. The zero value is ready to use.
type EmitterOptions struct {
	Prefix    string   // that of the hubs, see Options. Default "tether"
	Namespace string   // default "/"
	Events    []string // that may be emitted. Empty: any

	// Key is that of the hubs, see Options. NewEmitter panics if it has an error.
	Key seal.Keys

	// Tracers are told of emits, as those of the hubs: see Options. NewEmitter panics if they are not right.
	Tracers []Tracer
}

// publisher is what the emitters of a hub, or of one NewEmitter, share.
type publisher struct {
	broker broker.Broker // sealed, or the caller's if there is no key
	sealed *seal.Broker  // on the caller's
	prefix string
	events map[string]struct{} // allowed; nil: any
	hub    *Hub                // nil if there is none

	tracers []Tracer

	// What tells its events from all others, for sockets that move from node to node; 0: nobody needs it.
	origin uint64
	number atomic.Uint64 // of the last event: see unionNumber
	gone   gone          // nodes that sockets' IDs name

	placed bool // the broker keeps a log

	cluster *cluster.Node // the hub's, or a guest that Emitter.Run runs
	tally   *tally
}

// NewEmitter returns an emitter that needs no hub: for a worker, which serves no clients. The broker
// need not be running. The caller closes it.
func NewEmitter(b broker.Broker, o EmitterOptions) *Emitter {
	if b == nil {
		panic("hub: NewEmitter: there is no broker")
	}
	if o.Prefix == "" {
		o.Prefix = defaultPrefix
	}
	p := newPublisher(seal.New(b, seal.Options{Keys: o.Key}), o.Prefix, o.Events, nil)
	p.identify()
	if err := checkTracers(o.Tracers); err != nil {
		panic("hub: NewEmitter: " + err.Error())
	}
	p.tracers = o.Tracers
	p.cluster = cluster.New(p.sealed, cluster.Options{Prefix: o.Prefix, Tag: newTag(), Head: clusterHead})
	return &Emitter{publisher: p, namespace: withSlash(o.Namespace)}
}

func newPublisher(b *seal.Broker, prefix string, events []string, h *Hub) *publisher {
	p := &publisher{broker: b, sealed: b, prefix: prefix, hub: h, tally: new(tally)}
	if b.Plain() {
		p.broker = b.Broker
	}
	_, err := b.Log()
	p.placed = err == nil
	if len(events) > 0 {
		p.events = make(map[string]struct{}, len(events))
		for _, e := range events {
			p.events[e] = struct{}{}
		}
	}
	return p
}

// stranger says why this process understands none of the others, if that is so.
func (p *publisher) stranger() error {
	err := p.sealed.Err()
	if err == nil {
		return nil
	}
	own := 0
	if p.hub != nil {
		own = 1
	}
	if list, _ := p.cluster.Members(); len(list) > own {
		return nil
	}
	return fmt.Errorf("hub: %w", err)
}

// identify has the publisher say of each event which it is.
func (p *publisher) identify() {
	for p.origin == 0 {
		p.origin = rand.Uint64()
	}
}

// check reports whether an event may be emitted.
func (p *publisher) check(event string) error {
	if socketio.Reserved(event) {
		return fmt.Errorf("%w: its name is reserved: %q", ErrEvent, event)
	}
	if p.events == nil {
		return nil
	}
	if _, ok := p.events[event]; !ok {
		return fmt.Errorf("%w: it is not declared: %.64q", ErrEvent, event)
	}
	return nil
}

// In emits to another namespace. The slash that its name begins with is added if it is missing.
func (e *Emitter) In(namespace string) *Emitter {
	c := *e
	c.namespace = withSlash(namespace)
	return &c
}

// Except leaves out the sockets that are among the targets when the event arrives at their node.
func (e *Emitter) Except(targets ...Target) *Emitter {
	c := *e
	c.except = append(slices.Clip(c.except), targets...)
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
// emitters and all rooms. Its length is at most 256 bytes; "" undoes it.
//
// When the queue is full nevertheless, of other keys, the policy decides: see Overflow.
func (e *Emitter) Latest(key string) *Emitter {
	c := *e
	c.terms.Key = key
	return &c
}

// Local emits to the sockets of this node only, without the broker. What it emits may overtake what
// is emitted through the broker, and be overtaken. For an emitter without a hub that is an error.
func (e *Emitter) Local() *Emitter {
	c := *e
	c.local = true
	return &c
}

// Emit emits an event. For args see [Socket.Emit]. The errors are those of Socket.Emit, ErrTarget,
// ErrNamespace, ErrTooMany, the context's, and the broker's, wrapped.
func (e *Emitter) Emit(ctx context.Context, to Target, event string, args ...any) (Receipt, error) {
	targets, receipts := [1]Target{to}, [1]Receipt{}
	err := e.emit(ctx, targets[:], receipts[:], false, event, args)
	return receipts[0], err
}

// EmitUnion emits an event to each socket that is among the targets, once. The receipt's nodes are those
// of the target with the most.
func (e *Emitter) EmitUnion(ctx context.Context, to []Target, event string, args ...any) (Receipt, error) {
	if slices.Contains(to, Everyone) && !slices.Contains(to, Target{}) {
		to = []Target{Everyone}
	}
	to = distinct(to)
	receipts := make([]Receipt, len(to))
	err := e.emit(ctx, to, receipts, true, event, args)
	var all Receipt
	for _, r := range receipts {
		all = both(all, r)
	}
	return all, err
}

// EmitMany emits an event to each of the targets, in one pipeline, and returns a receipt for each: also
// with an error, for those that the broker took. A socket that is among several gets it several times.
func (e *Emitter) EmitMany(ctx context.Context, to []Target, event string, args ...any) ([]Receipt, error) {
	receipts := make([]Receipt, len(to))
	err := e.emit(ctx, to, receipts, false, event, args)
	return receipts, err
}

// emit emits one event to each target and writes a receipt for each.
func (e *Emitter) emit(ctx context.Context, to []Target, receipts []Receipt, union bool, event string, args []any) error {
	for i := range receipts {
		receipts[i] = Receipt{unknown, unknown}
	}
	if e.live && !e.publisher.cluster.Running() {
		return questionError(cluster.ErrNotRunning)
	}
	if err := e.publisher.check(event); err != nil {
		return err
	}
	if err := checkTerms(&e.terms); err != nil {
		return err
	}
	var followed *emission
	if len(e.publisher.tracers) > 0 {
		followed = e.publisher.follow(ctx, e.namespace, to, event)
	}
	err := e.publish(ctx, to, receipts, union, event, args, followed)
	followed.end(receipts, err)
	return err
}

// publish is emit for terms and an event that are good.
func (e *Emitter) publish(ctx context.Context, to []Target, receipts []Receipt, union bool, event string, args []any, followed *emission) error {
	enc := newEncoder()
	defer enc.free()
	if err := enc.event(event, args); err != nil {
		return err
	}
	m := batch{emitter: e, union: union, encoder: enc, scratch: enc.messages, trace: followed.traced()}
	if followed != nil && len(followed.marks) > 0 {
		m.flags, m.marks = flagMarks, followed.marks
	}
	var id uint64
	if e.live {
		id = rand.Uint64()
		m.flags, m.marks = flagMarks, appendLiveMark(m.marks, id)
	}
	if e.terms.Volatile {
		m.flags |= flagVolatile
	}
	if e.publisher.tally.sample(len(to)) {
		m.flags |= flagStamp
		m.stamp = e.publisher.stamp()
	}
	if e.terms.Overflow != engine.AsConfigured || e.terms.Key != "" {
		m.flags |= flagTerms
	}
	if e.publisher.origin != 0 {
		m.flags |= flagOrigin
		if m.number = e.publisher.number.Add(2); union {
			m.number |= unionNumber
		}
	}
	err := m.send(ctx, to, receipts)
	enc.messages = m.scratch
	e.publisher.tally.taken(receipts, err)
	if e.live && err == nil {
		e.askLive(ctx, id, to, receipts)
	}
	return err
}

// unionNumber is set in the number of an event that a socket gets once, whichever of its rooms it comes through.
const unionNumber = 1

// batch is the messages of one call.
type batch struct {
	emitter *Emitter
	flags   flags
	number  uint64 // of the event, with flagOrigin
	union   bool
	stamp   uint32 // with flagStamp
	marks   []byte // with flagMarks
	trace   *broker.Trace
	encoder *encoder // has the payload of the event
	lent    bool     // the memory of the messages is the encoder's: one event for one room, the common case

	scratch []broker.Message // what messages returned; its memory is used again
}

// send sends one message to each target. It sets the receipts, which are unknown, of those that the
// broker took.
func (m *batch) send(ctx context.Context, to []Target, receipts []Receipt) error {
	e := m.emitter
	if !socketio.ValidNamespace(e.namespace) {
		return ErrNamespace
	}
	if len(e.except) > maxTargets || m.union && len(e.except)+len(to) > maxTargets {
		return errTooManyRooms
	}
	if slices.Contains(to, Target{}) || slices.Contains(e.except, Target{}) {
		return ErrTarget
	}
	if len(to) == 0 {
		return nil
	}
	msgs := m.messages(to)
	if e.local {
		return m.sendLocal(receipts, msgs)
	}
	taken, err := m.emitter.publisher.broker.Publish(ctx, msgs...)
	if len(taken) == len(msgs) { // else nothing is known of any
		for i, r := range taken {
			receipts[i] = receiptOf(r)
		}
	}
	if err != nil {
		return fmt.Errorf("hub: emit: %w", err)
	}
	if m.flags&flagOrigin == 0 {
		return nil
	}
	return m.again(ctx, to, receipts)
}

// sendLocal delivers messages to this node alone.
func (m *batch) sendLocal(receipts []Receipt, msgs []broker.Message) error {
	h := m.emitter.publisher.hub
	if h == nil {
		return errNoHub
	}
	for i, m := range msgs {
		m.Place, m.Log = 0, ""
		receipts[i] = receiptOf(broker.Receipt{Nodes: min(h.route(m), 1)})
	}
	return nil
}

// messages are one for each target. What is for a single socket goes to the node of that socket.
func (m *batch) messages(to []Target) []broker.Message {
	e := m.emitter
	msgs := slices.Grow(m.scratch[:0], len(to))
	m.lent = len(to) == 1
	var shared []byte // the envelope of rooms with the same exceptions
	for i, t := range to {
		subject := roomSubject(e.publisher.prefix, e.namespace, t)
		except := e.except
		if m.union { // a socket that is among earlier targets gets it there
			except = append(slices.Clip(except), to[:i]...)
			shared = nil
		}
		if t.kind == single {
			node := cluster.NodeSubject(e.publisher.prefix, t.name[:tagLength])
			msgs = append(msgs, m.message(node, m.envelope(subject, except), subject))
			continue
		}
		if shared == nil {
			shared = m.envelope("", except)
		}
		msgs = append(msgs, m.message(subject, shared, subject))
	}
	m.scratch = msgs
	return msgs
}

// message is one message of the batch, that goes into the log of a room.
func (m *batch) message(subject string, data []byte, room string) broker.Message {
	return m.emitter.placed(broker.Message{Subject: subject, Data: data, Lent: m.lent, Trace: m.trace}, room)
}

func (m *batch) envelope(target string, except []Target) []byte {
	head := socketio.Packet{Type: socketio.Event, Namespace: m.emitter.namespace}
	size := envelopeSize(target, except) + m.encoder.size(head)
	if m.flags&flagTerms != 0 {
		size += termsSize(m.emitter.terms.Key)
	}
	if m.flags&flagStamp != 0 {
		size += stampSize
	}
	if m.flags&flagOrigin != 0 {
		size += maxOriginSize
	}
	if m.flags&flagMarks != 0 {
		size += textSize(len(m.marks))
	}
	var data []byte
	if m.lent {
		data = m.encoder.lend(size)
	} else {
		data = make([]byte, 0, size)
	}
	data = appendEnvelope(data, kindEvent, m.flags, target, except)
	if m.flags&flagTerms != 0 {
		data = appendTerms(data, m.emitter.terms.Overflow, m.emitter.terms.Key)
	}
	if m.flags&flagStamp != 0 {
		data = binary.BigEndian.AppendUint32(data, m.stamp)
	}
	if m.flags&flagOrigin != 0 {
		data = appendOriginOf(data, m.emitter.publisher.origin, m.number)
	}
	if m.flags&flagMarks != 0 {
		data = appendText(data, string(m.marks))
	}
	return m.encoder.frames(data, head)
}
