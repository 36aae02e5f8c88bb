package event

import (
	"errors"
	"fmt"
	"strconv"

	"tether/hub"
)

// Validator is a type of an [Event]'s or a [Call]'s argument that has something to say about its values. When
// clients send it, Validate is called before the handler, which is not called after an error: the client is
// told the error's text, or, if it is made by [hub.Refuse], its message and data.
type Validator interface{ Validate() error }

// misfit is why an argument does not fit, in words for the client that sent it.
type misfit struct {
	path string // of the value in the argument; "": the argument itself
	what string
}

// within is m of a value that stands in another: in its field, or at its index, "[7]" say.
func (m *misfit) within(where string) *misfit {
	if m.path != "" && m.path[0] != '[' {
		where += "."
	}
	m.path = where + m.path
	return m
}

func (m *misfit) Error() string {
	if m.path == "" {
		return m.what
	}
	return strconv.Quote(m.path) + " " + m.what
}

// refusal is m as the client hears of it.
func (m *misfit) refusal() error {
	return fmt.Errorf("%w: %w", hub.ErrArgs, hub.Refuse("arguments do not fit: "+m.Error(), nil))
}

// accept decodes and checks the argument of a typed event. The error wraps hub.ErrArgs.
func accept[T any](m *hub.Message, strict *shape) (v T, err error) {
	if strict != nil {
		if wrong := strict.check(m.Raw(0)); wrong != nil { // a missing one is left to Decode
			return v, wrong.refusal()
		}
	}
	if err := m.Decode(0, &v); err != nil {
		return v, err
	}
	checked, ok := any(&v).(Validator) // its method may be on the value or on the pointer
	if !ok {
		return v, nil
	}
	err = checked.Validate()
	switch {
	case err == nil:
		return v, nil
	case errors.As(err, new(*hub.Refusal)):
		return v, fmt.Errorf("%w: %w", hub.ErrArgs, err)
	}
	return v, (&misfit{what: err.Error()}).refusal()
}
