package hub

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync/atomic"

	"tether/internal/socketio"
)

// Namespace is one of the worlds that a connection can join: its sockets, rooms and events have
// nothing to do with those of another. Handlers may be added at any time; they serve what comes
// afterwards. To add nil, or a handler of an event that only Socket.IO itself sends, panics.
type Namespace struct {
	hub     *Hub
	name    string                 // immutable; "" for what Hub.Match returns
	subject string                 // immutable; of Everyone: a room's is this and its name
	pattern *Namespace             // immutable; what Hub.Match returned, for a namespace that it matched
	match   func(name string) bool // immutable; of what Hub.Match returned

	handlers  atomic.Pointer[handlers] // replaced, never changed; of a matched namespace the pattern's count
	connected atomic.Int64             // sockets

	users int // guarded by the hub's mu; sockets of a matched namespace, those that are connecting included
}

// handlers are what an application has given to a namespace, each list in the order of the calls.
type handlers struct {
	use        []hook
	connect    []hook
	disconnect []func(*Socket, Reason)
	failure    []func(*Socket, error)
	lost       []func(*Socket, Reason)
	useEvent   []handler
	on         map[string][]handler
	onAny      []handler
	outgoing   []func(s *Socket, event string, args []any)
	serverSide map[string]serverHandler
}

// hook decides about a socket that wants to connect.
type hook = func(ctx context.Context, s *Socket) error

// handler handles an event of a client.
type handler = func(ctx context.Context, s *Socket, m *Message) error

// Name is the namespace's name, "/admin" say. What [Hub.Match] returns has none.
func (n *Namespace) Name() string { return n.name }

// Len is the number of connected sockets on this node.
func (n *Namespace) Len() int {
	if n.match == nil {
		return int(n.connected.Load())
	}
	total := 0
	for _, c := range n.hub.childrenOf(n) {
		total += c.Len()
	}
	return total
}

// Sockets iterates over the connected sockets of this node. Those that connect or disconnect
// meanwhile may or may not be seen.
func (n *Namespace) Sockets() iter.Seq[*Socket] {
	return func(yield func(*Socket) bool) {
		namespaces := []*Namespace{n}
		if n.match != nil {
			namespaces = n.hub.childrenOf(n)
		}
		for _, c := range namespaces {
			for s := range n.hub.index.lookup(c.subject).each {
				if s.Connected() && !yield(s) {
					return
				}
			}
		}
	}
}

// Use adds a middleware: it runs at each CONNECT, before the connect hooks, in the order of the
// calls. The first error refuses the socket, under the terms of OnConnect.
func (n *Namespace) Use(f func(ctx context.Context, s *Socket) error) {
	mustHandle("Use", f == nil)
	n.change(func(h *handlers) { h.use = append(h.use, f) })
}

// OnConnect adds a hook that runs at each CONNECT, before the client is told that it is connected:
// what has to be joined or registered is joined here, and nothing that is emitted afterwards is
// missed. What it emits to the socket leaves after the answer.
//
// An error refuses the socket. The client is told what [Refuse] says and of other errors nothing but
// "connection refused"; its connection stays. When the broker is unavailable or the hooks take longer
// than Options.HookTimeout the connection is closed instead, since clients come back after that and
// not after a refusal. Ctx ends with that timeout, and when the client is gone.
func (n *Namespace) OnConnect(f func(ctx context.Context, s *Socket) error) {
	mustHandle("OnConnect", f == nil)
	n.change(func(h *handlers) { h.connect = append(h.connect, f) })
}

// OnDisconnect adds a hook that runs once for each socket that was connected, after its last event
// has been handled. The socket's rooms are still known, although it is no longer in them. A socket
// that was refused, or gone before it was connected, has none.
func (n *Namespace) OnDisconnect(f func(s *Socket, r Reason)) {
	mustHandle("OnDisconnect", f == nil)
	n.change(func(h *handlers) { h.disconnect = append(h.disconnect, f) })
}

// OnUnrecovered adds a hook that runs when it is certain that the client of a socket does not come back to it, see
// [Recovery]: once for each socket that OnDisconnect has told of, after that, unless it came back, or would not have
// whatever happens. The reason is "expired", "overflowed", "refused", which is also a disconnect by the server, "node
// lost", "gap" of the broker, "question" if an acknowledgement was awaited when the connection was lost, or "unknown" if
// the client named a position that it was never given. With Recovery.Log, "node lost" is not certain: this node ends, and the
// client may still come back to another one.
func (n *Namespace) OnUnrecovered(f func(s *Socket, r Reason)) {
	mustHandle("OnUnrecovered", f == nil)
	n.change(func(h *handlers) { h.lost = append(h.lost, f) })
}

// OnError adds a hook that is told, for each connected socket of a connection, of a packet of the client that
// breaks the protocol, after which the connection is closed. It must not wait. What the error says may be
// the client's words.
func (n *Namespace) OnError(f func(s *Socket, err error)) {
	mustHandle("OnError", f == nil)
	n.change(func(h *handlers) { h.failure = append(h.failure, f) })
}

// UseEvent adds a middleware that runs before the handlers of each event. An error ends the event,
// and is logged.
func (n *Namespace) UseEvent(f func(ctx context.Context, s *Socket, m *Message) error) {
	mustHandle("UseEvent", f == nil)
	n.change(func(h *handlers) { h.useEvent = append(h.useEvent, f) })
}

// On adds a handler of an event. The events of one connection are handled one at a time, in order; an
// event without a handler is counted. A handler's error is logged, its panic closes the connection. Ctx
// ends when [Hub.Run] will not wait any longer, and not when the client is gone: what it had sent before is
// handled.
//
// A client that waits for an acknowledgement, and has had none, is told of a [Refuse], of an error that
// wraps ErrArgs, and of an event without a handler: the answer is null, and a second argument
// {"message": …, "data": …}. Of other errors it is told nothing: its timeout tells it.
func (n *Namespace) On(event string, f func(ctx context.Context, s *Socket, m *Message) error) {
	mustHandle(fmt.Sprintf("On(%q)", event), f == nil)
	if socketio.Reserved(event) {
		panic(fmt.Sprintf("hub: On(%q): no client can send that; OnConnect and OnDisconnect are for what it means", event))
	}
	n.change(func(h *handlers) {
		on := make(map[string][]handler, len(h.on)+1)
		for name, list := range h.on {
			on[name] = list
		}
		on[event] = append(slices.Clip(on[event]), f)
		h.on = on
	})
}

// OnAny adds a handler of all events. It runs before those of On.
func (n *Namespace) OnAny(f func(ctx context.Context, s *Socket, m *Message) error) {
	mustHandle("OnAny", f == nil)
	n.change(func(h *handlers) { h.onAny = append(h.onAny, f) })
}

// OnAnyOutgoing adds a function that is told of each event on its way to a socket of this node, for
// logs. It must return quickly, must not call the broker, and must not change args.
func (n *Namespace) OnAnyOutgoing(f func(s *Socket, event string, args []any)) {
	mustHandle("OnAnyOutgoing", f == nil)
	n.hub.watched.Store(true)
	n.change(func(h *handlers) { h.outgoing = append(h.outgoing, f) })
}

// mustHandle panics if a handler is missing: nothing would ever come of it.
func mustHandle(call string, missing bool) {
	if missing {
		panic("hub: " + call + ": the handler is nil")
	}
}

// change replaces the handlers by a changed copy.
func (n *Namespace) change(f func(*handlers)) {
	n.hub.mu.Lock()
	defer n.hub.mu.Unlock()
	var h handlers
	if old := n.handlers.Load(); old != nil {
		h = *old
		h.use = slices.Clip(h.use)
		h.connect = slices.Clip(h.connect)
		h.disconnect = slices.Clip(h.disconnect)
		h.failure = slices.Clip(h.failure)
		h.lost = slices.Clip(h.lost)
		h.useEvent = slices.Clip(h.useEvent)
		h.onAny = slices.Clip(h.onAny)
		h.outgoing = slices.Clip(h.outgoing)
	}
	f(&h)
	n.handlers.Store(&h)
}

func (n *Namespace) handled() *handlers {
	if n.pattern != nil {
		n = n.pattern
	}
	if h := n.handlers.Load(); h != nil {
		return h
	}
	return &noHandlers
}

var noHandlers handlers

// Emitter returns an emitter to this namespace, on all nodes. What [Hub.Match] returns has none: its
// Emit returns ErrNamespace.
func (n *Namespace) Emitter() *Emitter {
	return &Emitter{publisher: n.hub.publisher, namespace: n.name}
}

// admit runs the middleware and connect hooks for s.
func (n *Namespace) admit(ctx context.Context, s *Socket) (err error) {
	defer recoverInto(&err)
	h := n.handled()
	for _, list := range [][]hook{h.use, h.connect} {
		for _, f := range list {
			if err := f(ctx, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// disconnected runs the disconnect hooks for s; all of them, even if one panics.
func (n *Namespace) disconnected(s *Socket, reason Reason) {
	for _, f := range n.handled().disconnect {
		n.hook("disconnect hook", s, func() { f(s, reason) })
	}
}

// unrecovered runs the hooks that are told that s does not come back; all of them, even if one panics.
func (n *Namespace) unrecovered(s *Socket, reason Reason) {
	for _, f := range n.handled().lost {
		n.hook("unrecovered hook", s, func() { f(s, reason) })
	}
}

// broken runs the error hooks for s; all of them, even if one panics.
func (n *Namespace) broken(s *Socket, err error) {
	for _, f := range n.handled().failure {
		n.hook("error hook", s, func() { f(s, err) })
	}
}

// hook calls f, and reports its panic.
func (n *Namespace) hook(where string, s *Socket, f func()) {
	err := func() (err error) {
		defer recoverInto(&err)
		f()
		return nil
	}()
	if err != nil {
		n.hub.failed(where, "", s, err)
	}
}

// dispatch runs the handlers of an event.
func (n *Namespace) dispatch(ctx context.Context, s *Socket, m *Message) {
	h := n.handled()
	on := h.on[m.event]
	if len(n.hub.options.Tracers) > 0 {
		n.traced(ctx, h, on, s, m)
		return
	}
	n.run(ctx, h, on, s, m)
}

// traced is run, and tells the tracers.
func (n *Namespace) traced(ctx context.Context, h *handlers, on []handler, s *Socket, m *Message) {
	handling, ends := n.hub.handling(ctx, s, m, len(on) > 0)
	err := n.run(handling, h, on, s, m)
	for _, done := range ends {
		done(err)
	}
}

// run runs the middleware and the handlers of an event, and returns the first error.
func (n *Namespace) run(ctx context.Context, h *handlers, on []handler, s *Socket, m *Message) (failure error) {
	for _, f := range h.useEvent {
		if err := call(ctx, f, s, m); err != nil {
			n.hub.failed("event", m.event, s, err)
			m.fail(err)
			return err
		}
	}
	if len(on)+len(h.onAny) == 0 {
		n.unhandled(s, m)
		return nil
	}
	for i := range len(h.onAny) + len(on) {
		list := h.onAny
		if i >= len(list) {
			list, i = on, i-len(list)
		}
		if err := call(ctx, list[i], s, m); err != nil {
			n.hub.failed("event", m.event, s, err)
			if failure == nil {
				failure = err
			}
		}
	}
	m.fail(failure)
	return failure
}

// unhandled deals with an event that no handler is for.
func (n *Namespace) unhandled(s *Socket, m *Message) {
	n.hub.counters.unhandled.Add(1)
	n.hub.log.Debug("event without a handler", "event", loggable(m.event, maxLoggedName),
		"namespace", loggable(n.name, maxLoggedName), "socket", s.ID())
	m.fail(Refuse(noHandler, nil))
}

func call(ctx context.Context, f handler, s *Socket, m *Message) (err error) {
	defer recoverInto(&err)
	return f(ctx, s, m)
}

// outgoing tells the functions of OnAnyOutgoing.
func (n *Namespace) outgoing(s *Socket, event string, args []any) {
	for _, f := range n.handled().outgoing {
		err := func() (err error) {
			defer recoverInto(&err)
			f(s, event, args)
			return nil
		}()
		if err != nil {
			n.hub.failed("outgoing hook", event, s, err)
		}
	}
}
