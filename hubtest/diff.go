package hubtest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// fit reports whether arguments are what is wanted, and decodes them into the pointers among the wants. No
// wants fit everything.
func fit(wants []any, args []json.RawMessage) bool {
	if len(wants) == 0 {
		return true
	}
	if len(wants) != len(args) {
		return false
	}
	for i, want := range wants {
		if !isTarget(want) && !same(want, args[i]) {
			return false
		}
	}
	for i, want := range wants {
		if isTarget(want) && json.Unmarshal(args[i], want) != nil {
			return false
		}
	}
	return true
}

// isTarget reports whether the want is to be decoded into.
func isTarget(want any) bool { return want != nil && reflect.TypeOf(want).Kind() == reflect.Pointer }

// same reports whether an argument is what is wanted.
func same(want any, arg json.RawMessage) bool {
	got, err := like(want, arg)
	return err == nil && bytes.Equal(canonical(got), canonical(marshal(want)))
}

// like is the JSON of an argument that has been decoded into the type of want.
func like(want any, arg json.RawMessage) ([]byte, error) {
	if want == nil {
		return arg, nil
	}
	v := reflect.New(reflect.TypeOf(want))
	if err := json.Unmarshal(arg, v.Interface()); err != nil {
		return nil, err
	}
	return marshal(v.Elem().Interface()), nil
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		return []byte(fmt.Sprintf("%q", err.Error()))
	}
	return readable(text)
}

// canonical is JSON text with its keys in order.
func canonical(text []byte) []byte { return marshal(value(text)) }

func value(text []byte) any {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var v any
	if d.Decode(&v) != nil {
		return string(text)
	}
	return v
}

// wanted shows an event that is wanted.
func wanted(event string, wants []any) string {
	if len(wants) == 0 {
		return event
	}
	var args []json.RawMessage
	for _, want := range wants {
		if isTarget(want) {
			args = append(args, json.RawMessage(fmt.Sprintf("a %s", reflect.TypeOf(want).Elem())))
		} else {
			args = append(args, marshal(want))
		}
	}
	return show(event, args)
}

// show shows an event or an answer, abridged.
func show(name string, args []json.RawMessage) string {
	const most = 500
	var list []string
	for _, a := range args {
		text := string(a)
		if len(text) > most {
			text = text[:most] + "…"
		}
		list = append(list, text)
	}
	return name + "(" + strings.Join(list, ", ") + ")"
}

// maxDifferences is how many differences are listed.
const maxDifferences = 10

// differences lists where arguments are not what is wanted, a line each.
func differences(wants []any, args []json.RawMessage) string {
	if len(wants) == 0 {
		return ""
	}
	var list []string
	if len(wants) != len(args) {
		list = append(list, fmt.Sprintf("%d arguments, want %d", len(args), len(wants)))
	}
	for i := range min(len(wants), len(args)) {
		path := ""
		if len(wants) > 1 {
			path = fmt.Sprintf("argument %d", i)
		}
		got, err := like(wants[i], args[i])
		switch {
		case isTarget(wants[i]):
			err = json.Unmarshal(args[i], reflect.New(reflect.TypeOf(wants[i]).Elem()).Interface())
			fallthrough
		case err != nil:
			if err != nil {
				list = append(list, strings.TrimSpace(path+" "+err.Error()))
			}
		default:
			list = compare(list, path, value(marshal(wants[i])), value(got))
		}
	}
	if len(list) > maxDifferences {
		list = append(list[:maxDifferences], fmt.Sprintf("and %d more", len(list)-maxDifferences))
	}
	var b strings.Builder
	for _, line := range list {
		b.WriteString("       " + line + "\n")
	}
	return b.String()
}

// compare appends where got differs from want.
func compare(list []string, path string, want, got any) []string {
	switch w := want.(type) {
	case map[string]any:
		if g, ok := got.(map[string]any); ok {
			return compareFields(list, path, w, g)
		}
	case []any:
		if g, ok := got.([]any); ok && len(g) == len(w) {
			for i := range w {
				list = compare(list, fmt.Sprintf("%s[%d]", path, i), w[i], g[i])
			}
			return list
		}
	}
	if reflect.DeepEqual(want, got) {
		return list
	}
	return append(list, strings.TrimSpace(fmt.Sprintf("%s want %s, got %s", path, marshal(want), marshal(got))))
}

func compareFields(list []string, path string, want, got map[string]any) []string {
	fields := maps.Clone(want)
	maps.Copy(fields, got)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		w, wanted := want[name]
		g, there := got[name]
		switch at := path + "." + name; {
		case !there:
			list = append(list, fmt.Sprintf("%s is missing, want %s", at, marshal(w)))
		case !wanted:
			list = append(list, fmt.Sprintf("%s was not wanted, got %s", at, marshal(g)))
		default:
			list = compare(list, at, w, g)
		}
	}
	return list
}
