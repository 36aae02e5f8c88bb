package event

import (
	"encoding"
	"encoding/json"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"tether/internal/socketio"
)

// shape is what a strict event asks of JSON before it is decoded into a type. The nil shape asks nothing.
type shape struct {
	fields   map[string]field // of a struct; nil: it is none
	required []string         // names of fields that must be there, in the order of the struct
	elem     *shape           // of the elements of an array, a slice or a map
	object   bool             // elem is of a map
	nullable bool             // null is a value
	points   *shape           // to, for a pointer
}

type field struct {
	*shape
	number int // in required; -1: it may be missing
}

var (
	jsonUnmarshaler = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// shapes are those of the types that one shape consists of.
type shapes map[reflect.Type]*shape

// of returns the shape of a type. A type that decodes itself asks nothing.
func (all shapes) of(t reflect.Type) *shape {
	if s, ok := all[t]; ok {
		return s
	}
	for _, own := range []reflect.Type{jsonUnmarshaler, textUnmarshaler} {
		if t.Implements(own) || reflect.PointerTo(t).Implements(own) {
			return nil
		}
	}
	s := &shape{}
	all[t] = s // a type may have itself inside
	switch t.Kind() {
	case reflect.Pointer:
		s.nullable, s.points = true, all.of(t.Elem())
	case reflect.Interface:
		s.nullable = true
	case reflect.Slice, reflect.Array:
		s.nullable = t.Kind() == reflect.Slice
		if t.Elem().Kind() != reflect.Uint8 { // []byte is text
			s.elem = all.of(t.Elem())
		}
	case reflect.Map:
		s.nullable, s.object, s.elem = true, true, all.of(t.Elem())
	case reflect.Struct:
		s.fields = make(map[string]field)
		all.addFields(s, t, false, nil)
	}
	return s
}

// addFields adds the fields of a struct, as encoding/json sees them. outer are the structs that it is embedded in.
func (all shapes) addFields(s *shape, t reflect.Type, optional bool, outer []reflect.Type) {
	if slices.Contains(outer, t) {
		return
	}
	var embedded []reflect.StructField
	for i := range t.NumField() {
		f := t.Field(i)
		tag := f.Tag.Get("json")
		name, options, _ := strings.Cut(tag, ",")
		if f.Anonymous && name == "" && structBelow(f.Type) != nil {
			embedded = append(embedded, f)
			continue
		}
		if !f.IsExported() || tag == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		if _, there := s.fields[name]; there {
			continue // an outer one hides it
		}
		added := field{all.of(f.Type), -1}
		if strings.Contains(options, "string") {
			added.shape = nil
		}
		if !optional && !strings.Contains(options, "omit") {
			added.number = len(s.required)
			s.required = append(s.required, name)
		}
		s.fields[name] = added
	}
	for _, f := range embedded {
		all.addFields(s, structBelow(f.Type), optional || f.Type.Kind() == reflect.Pointer, append(outer, t))
	}
}

// structBelow is t, or what it points to, if that is a struct; nil if it is none.
func structBelow(t reflect.Type) reflect.Type {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t.Kind() == reflect.Struct {
		return t
	}
	return nil
}

// check reports what of raw, JSON that has been checked, does not have the shape; nil: nothing. What has another
// type altogether is left to the decoder.
func (s *shape) check(raw []byte) *misfit {
	switch {
	case s == nil || len(raw) == 0:
		return nil
	case raw[0] == 'n' && !s.nullable:
		return &misfit{what: "is null"}
	case s.points != nil && raw[0] != 'n':
		return s.points.check(raw)
	case raw[0] == '{' && s.fields != nil:
		return s.checkFields(raw)
	case raw[0] == '{' && s.object && s.elem != nil:
		for name, value := range socketio.Members(raw) {
			if wrong := s.elem.check(value); wrong != nil {
				return wrong.within("[" + strconv.Quote(string(name)) + "]")
			}
		}
	case raw[0] == '[' && !s.object && s.elem != nil:
		i := 0
		for value := range socketio.Elements(raw) {
			if wrong := s.elem.check(value); wrong != nil {
				return wrong.within("[" + strconv.Itoa(i) + "]")
			}
			i++
		}
	}
	return nil
}

func (s *shape) checkFields(raw []byte) *misfit {
	var few [32]bool // on the stack
	there := few[:]
	if len(s.required) > len(few) {
		there = make([]bool, len(s.required))
	}
	for name, value := range socketio.Members(raw) {
		f, known := s.fields[string(name)]
		if !known {
			return &misfit{printable(string(name)), "is not known"}
		}
		if f.number >= 0 {
			there[f.number] = true
		}
		if wrong := f.check(value); wrong != nil {
			return wrong.within(string(name))
		}
	}
	for i, name := range s.required {
		if !there[i] {
			return &misfit{name, "is missing"}
		}
	}
	return nil
}

const maxName = 64 // bytes of a name that a client has made up

// printable is text of a client as it may be logged: its beginning, without what does not print.
func printable(text string) string {
	if len(text) > maxName {
		text = text[:maxName]
	}
	return strings.Map(func(r rune) rune {
		if strconv.IsPrint(r) {
			return r
		}
		return utf8.RuneError
	}, text)
}
