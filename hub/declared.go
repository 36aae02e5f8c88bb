package hub

import "reflect"

// Declared is an [Event] or a [Call], for programs that write down what an application has declared: package
// types does it for TypeScript.
type Declared interface {
	Name() string

	// Types are those of the argument and of the answer, which is nil for an Event.
	Types() (arg, answer reflect.Type)
}

// Types implements [Declared].
func (e Event[T]) Types() (arg, answer reflect.Type) { return reflect.TypeFor[T](), nil }

// Types implements [Declared].
func (c Call[Req, Resp]) Types() (arg, answer reflect.Type) {
	return reflect.TypeFor[Req](), reflect.TypeFor[Resp]()
}
