package hub

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"tether/broker"
	"tether/engine"
	"tether/internal/socketio"
)

// Tracer follows some events from their emit to the connections, on all nodes, and events of clients to their
// handlers: packages follow and tracing have one each. What it does not follow costs a call of Sampled. Its
// methods may be called concurrently, and must return quickly.
//
// A Tracer that has a method Trace(mark []byte) *broker.Trace says by it what a mark means to other programs at the
// broker, those that read W3C Trace Context in the headers of NATS, say. It is called after Emit, and what it returns goes
// with the event in [broker.Message]: not if messages are sealed. Nil: nothing.
type Tracer interface {
	// Name tells the tracer from others. It is the same on all nodes, and has 1 to 16 bytes.
	Name() string

	// Sampled reports whether an emit is to be followed. It is asked for each target, until it says so.
	Sampled(ctx context.Context, namespace string, to Target, event string) bool

	// Emit is called at an emit that is followed. Mark, of 256 bytes at most, goes with the event to all nodes; a
	// longer one, and one that is empty, does not. Done is called when the broker has taken the event; for EmitAck,
	// which has no receipts, when the question is put.
	Emit(ctx context.Context, namespace string, to []Target, event string) (mark []byte, done func([]Receipt, error))

	// Arrived is called on each node that an event with a mark comes to, and not at all for an event in a form that
	// the node cannot read. What it returns is told what becomes of the event on this node; nil: nobody is.
	Arrived(mark []byte, namespace, event string) engine.Watcher

	// Handle is called before the handlers of an event of a client; declared says that On was called for its name,
	// and not only OnAny. The handlers get the context, and done, unless it is nil, their first error.
	Handle(ctx context.Context, s *Socket, m *Message, declared bool) (handled context.Context, done func(error))
}

// propagator is what a Tracer may have besides.
type propagator interface {
	Trace(mark []byte) *broker.Trace
}

const (
	maxTracers    = 4
	maxTracerName = 16
	maxMark       = 256
	maxMarks      = maxTracers*(maxMark+maxTracerName+4) + liveMarkSize // bytes in an envelope
)

func checkTracers(tracers []Tracer) error {
	if len(tracers) > maxTracers {
		return fmt.Errorf("%d Tracers; at most %d are possible", len(tracers), maxTracers)
	}
	seen := map[string]bool{}
	for _, t := range tracers {
		if t == nil {
			return errors.New("one of Tracers is nil")
		}
		name := t.Name()
		if name == "" || len(name) > maxTracerName || seen[name] {
			return fmt.Errorf("a tracer is called %.32q: each has a name of its own, of 1 to %d bytes", name, maxTracerName)
		}
		seen[name] = true
	}
	return nil
}

// emission is a call that emits and is followed.
type emission struct {
	marks []byte        // a name and a mark each, as texts
	trace *broker.Trace // of the first tracer that has one
	done  []func([]Receipt, error)
}

// follow asks the tracers about a call that emits; nil: none follows it.
func (p *publisher) follow(ctx context.Context, namespace string, to []Target, event string) (m *emission) {
	for _, t := range p.tracers {
		for i := range to {
			if t.Sampled(ctx, namespace, to[i], event) {
				if m == nil {
					m = new(emission)
				}
				m.begin(t, ctx, namespace, slices.Clone(to), event)
				break
			}
		}
	}
	return m
}

func (m *emission) begin(t Tracer, ctx context.Context, namespace string, to []Target, event string) {
	mark, done := t.Emit(ctx, namespace, to, event)
	if len(mark) > 0 && len(mark) <= maxMark {
		m.marks = appendText(appendText(m.marks, t.Name()), string(mark))
		if p, ok := t.(propagator); ok && m.trace == nil {
			m.trace = p.Trace(mark)
		}
	}
	if done != nil {
		m.done = append(m.done, done)
	}
}

// traced is the trace for others at the broker. m may be nil.
func (m *emission) traced() *broker.Trace {
	if m == nil {
		return nil
	}
	return m.trace
}

// end says what the broker has said. m may be nil.
func (m *emission) end(receipts []Receipt, err error) {
	if m == nil {
		return
	}
	kept := slices.Clone(receipts) // in a variable of its own: without tracers the receipts of an emit stay on its stack
	for _, done := range m.done {
		done(kept, err)
	}
}

// watchers are told what becomes of one event on this node.
type watchers []engine.Watcher

func (w watchers) Became(c engine.Conn, o engine.Outcome) {
	for _, one := range w {
		one.Became(c, o)
	}
}

func (w watchers) Routed(sockets int) {
	for _, one := range w {
		one.Routed(sockets)
	}
}

// follow has the tracers told what becomes of a packet, if it has come with marks of theirs, and notes it for its
// emitter, if that asks; see [Emitter.AskLive].
func (h *Hub) follow(p *engine.Packet, marks []byte, namespace, subject string) {
	var told watchers
	event := ""
	for len(marks) > 0 {
		name, rest, ok := cutText(marks)
		if !ok {
			break
		}
		mark, rest, ok := cutText(rest)
		if !ok {
			break
		}
		marks = rest
		if string(name) == liveName {
			if t := h.takings.add(mark, subject); t != nil {
				told = append(told, t)
			}
			continue
		}
		t := h.tracer(name)
		if t == nil {
			continue
		}
		if event == "" {
			event = eventOf(p)
		}
		if w := t.Arrived(slices.Clone(mark), namespace, event); w != nil {
			told = append(told, w)
		}
	}
	if len(told) > 0 {
		p.SetWatcher(told)
	}
}

func (h *Hub) tracer(name []byte) Tracer {
	for _, t := range h.options.Tracers {
		if t.Name() == string(name) {
			return t
		}
	}
	return nil
}

// eventOf is the name of an event, "" if it cannot be read.
func eventOf(p *engine.Packet) string {
	parsed, err := socketio.Parse(p.Text()[1:], socketio.Limits{})
	if err != nil {
		return ""
	}
	return newMessage(nil, parsed, parsed.Data, nil).event
}

// missed tells the tracers of an event that nobody is here for any more.
func (h *Hub) missed(subject string, e *envelope) {
	if e.kind != kindEvent || e.flags&flagMarks == 0 {
		return
	}
	if p := h.packet(subject, e); p != nil {
		p.Routed(0)
	}
}

// refused tells the watchers of a packet that a socket has not taken. Where ErrSlowConsumer comes from, they have been told.
func (s *Socket) refused(p *engine.Packet, err error) {
	if errors.Is(err, ErrDisconnected) {
		p.Became(s.conn, engine.Disconnected)
	}
}

// handling asks the tracers about an event of a client.
func (h *Hub) handling(ctx context.Context, s *Socket, m *Message, declared bool) (context.Context, []func(error)) {
	var ends []func(error)
	for _, t := range h.options.Tracers {
		handled, done := t.Handle(ctx, s, m, declared)
		if ctx = handled; done != nil {
			ends = append(ends, done)
		}
	}
	return ctx, ends
}
