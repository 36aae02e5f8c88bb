// Package event ties the names of events to the types of their arguments, so that a wrong payload does not
// compile, and what a client sends is checked before a handler sees it. Declare events once, as variables of a
// package that all parts of an application import:
//
//	var Ping = event.New[PingPayload]("/users/ping")
//
// Package types writes what has been declared down for TypeScript.
package event

import (
	"context"
	"reflect"

	"tether/hub"
)

// Declared is an [Event] or a [Call], for programs that write down what an application has declared.
type Declared interface {
	Name() string

	// Types are those of the argument and of the answer, which is nil for an Event.
	Types() (arg, answer reflect.Type)
}

// Event is an event's name, tied to the type of its one argument.
type Event[T any] struct {
	name   string
	strict *shape // nil: it is not
}

// New declares an event.
func New[T any](name string) Event[T] { return Event[T]{name: name} }

// Strict returns the event with an argument that has to fit T exactly when clients send it: a field that T does
// not have does not fit, nor one that is missing, unless its tag has omitempty or omitzero, nor null where T
// has no pointer, slice, map or interface. Names of fields are told apart by case. Otherwise T is filled as
// encoding/json does it, which forgives all that. Types that decode themselves decide themselves.
func (e Event[T]) Strict() Event[T] {
	e.strict = make(shapes).of(reflect.TypeFor[T]())
	return e
}

// Name is the event's name.
func (e Event[T]) Name() string { return e.name }

// Types implements [Declared].
func (e Event[T]) Types() (arg, answer reflect.Type) { return reflect.TypeFor[T](), nil }

// Emit emits the event: see [hub.Emitter.Emit].
func (e Event[T]) Emit(ctx context.Context, by *hub.Emitter, to hub.Target, v T) (hub.Receipt, error) {
	return by.Emit(ctx, to, e.name, v)
}

// EmitMany emits the event to each of the targets: see [hub.Emitter.EmitMany].
func (e Event[T]) EmitMany(ctx context.Context, by *hub.Emitter, to []hub.Target, v T) ([]hub.Receipt, error) {
	return by.EmitMany(ctx, to, e.name, v)
}

// EmitTo emits the event to one socket of this node: see [hub.Socket.Emit].
func (e Event[T]) EmitTo(s *hub.Socket, v T) error { return s.Emit(e.name, v) }

// Handle adds a handler for the event when clients send it: see [hub.Namespace.On]. An argument that does
// not fit T, see Strict, or that T as a [Validator] refuses, is the client's mistake: f is not called, it is
// counted in [hub.Stats], and a client that waits for an answer is told.
func (e Event[T]) Handle(n *hub.Namespace, f func(ctx context.Context, s *hub.Socket, v T) error) {
	mustHandle(e.name, f == nil)
	n.On(e.name, func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		v, err := accept[T](m, e.strict)
		if err != nil {
			return err
		}
		return f(ctx, s, v)
	})
}

// Call is an event that is answered: its name, tied to the types of its argument and of the answer.
type Call[Req, Resp any] struct {
	name   string
	strict *shape // nil: it is not
}

// NewCall declares a call.
func NewCall[Req, Resp any](name string) Call[Req, Resp] { return Call[Req, Resp]{name: name} }

// Strict returns the call with an argument that has to fit Req exactly when clients make it: see
// [Event.Strict].
func (c Call[Req, Resp]) Strict() Call[Req, Resp] {
	c.strict = make(shapes).of(reflect.TypeFor[Req]())
	return c
}

// Name is the name of the call's event.
func (c Call[Req, Resp]) Name() string { return c.name }

// Types implements [Declared].
func (c Call[Req, Resp]) Types() (arg, answer reflect.Type) {
	return reflect.TypeFor[Req](), reflect.TypeFor[Resp]()
}

// Handle adds a handler for the call when clients make it; what it returns is their answer. Of an error
// they are told what [hub.Namespace.On] says, and of an argument that does not fit what [Event.Handle] says.
func (c Call[Req, Resp]) Handle(n *hub.Namespace, f func(ctx context.Context, s *hub.Socket, req Req) (Resp, error)) {
	mustHandle(c.name, f == nil)
	n.On(c.name, func(ctx context.Context, s *hub.Socket, m *hub.Message) error {
		req, err := accept[Req](m, c.strict)
		if err != nil {
			return err
		}
		resp, err := f(ctx, s, req)
		if err != nil {
			return err
		}
		return m.Ack(resp)
	})
}

// Call makes the call to one socket and waits for the answer: see [hub.Socket.EmitAck]. An answer that
// does not fit Resp is an error that wraps [hub.ErrArgs].
func (c Call[Req, Resp]) Call(ctx context.Context, s *hub.Socket, req Req) (Resp, error) {
	var resp Resp
	m, err := s.EmitAck(ctx, c.name, req)
	if err != nil {
		return resp, err
	}
	return resp, m.Decode(0, &resp)
}

func mustHandle(name string, missing bool) {
	if missing {
		panic("event: Handle of " + name + ": the handler is nil")
	}
}
