package types

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coder/guts"
	"github.com/coder/guts/bindings"
	"github.com/coder/guts/config"

	"tether/hub"
)

// named are the types with a name that events use.
type named struct {
	types map[reflect.Type]bool
	own   map[string]string // what types that encode themselves become, by full name
}

var errMain = errors.New("it is in a package main: declare it in a package of its own")

// add adds a type and those that it consists of.
func (n *named) add(t reflect.Type) error {
	if text, ok := own(t); ok {
		n.own[t.PkgPath()+"."+t.Name()] = text
		return nil
	}
	if n.types[t] {
		return nil
	}
	if t.Name() != "" && t.PkgPath() != "" {
		if t.PkgPath() == "main" {
			return fmt.Errorf("%s: %w", t, errMain)
		}
		n.types[t] = true
	}
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return n.add(t.Elem())
	case reflect.Struct:
		for i := range t.NumField() {
			f := t.Field(i)
			if f.Tag.Get("json") == "-" || !f.IsExported() && !f.Anonymous {
				continue
			}
			if err := n.add(f.Type); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	jsonMarshaler = reflect.TypeFor[json.Marshaler]()
	textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()
)

// own is what a type becomes that encodes itself.
func own(t reflect.Type) (text string, ok bool) {
	switch {
	case t == reflect.TypeFor[hub.Binary]():
		return "ArrayBuffer", true
	case t == reflect.TypeFor[time.Time]():
		return "string", true
	case t == reflect.TypeFor[time.Duration]():
		return "number", true
	case t.Kind() == reflect.Interface || t.Kind() == reflect.Pointer:
		return "", false
	case t.Implements(jsonMarshaler):
		return "unknown", true
	case t.Implements(textMarshaler):
		return "string", true
	}
	return "", false
}

// conversion is what guts has made of types.
type conversion struct {
	text     string
	comments map[string]string // of events, by name
}

// convert converts the types.
func convert(used named) (conversion, error) {
	c := conversion{comments: make(map[string]string)}
	packages, wanted := make(map[string]bool), make(map[string]bool)
	for t := range used.types {
		packages[t.PkgPath()] = true
		base, _, _ := strings.Cut(t.Name(), "[")
		wanted[base] = true
	}
	if len(packages) == 0 {
		return c, nil
	}
	parser, err := guts.NewGolangParser()
	if err != nil {
		return c, err
	}
	parser.PreserveComments()
	parser.IncludeCustomDeclaration(config.StandardMappings())
	for name, text := range used.own {
		parser.IncludeCustomDeclaration(map[string]guts.TypeOverride{name: reference(text)})
	}
	for _, path := range slices.Sorted(maps.Keys(packages)) {
		if err := parser.IncludeGenerate(path); err != nil {
			return c, err
		}
	}
	for _, p := range parser.Pkgs {
		if len(p.Errors) > 0 {
			return c, fmt.Errorf("package %s: %w", p.PkgPath, p.Errors[0])
		}
		for _, file := range p.Syntax {
			eventComments(file, c.comments)
		}
	}
	ts, err := parser.ToTypescript()
	if err != nil {
		return c, err
	}
	ts.ApplyMutations(config.EnumAsTypes, config.SimplifyOptional, config.ExportTypes)
	c.text, err = ts.SerializeInOrder(func(nodes map[string]bindings.Node) (list []bindings.Node) {
		for _, name := range slices.Sorted(maps.Keys(nodes)) {
			if wanted[name] {
				list = append(list, nodes[name])
			}
		}
		return list
	})
	_, c.text, _ = strings.Cut(c.text, "\n") // the line that says which program has made it
	return c, err
}

func reference(name string) guts.TypeOverride {
	return func() bindings.ExpressionType { return bindings.Reference(bindings.Identifier{Name: name}) }
}

// eventComments finds the comments of the events that a file declares.
func eventComments(file *ast.File, comments map[string]string) {
	for _, d := range file.Decls {
		g, ok := d.(*ast.GenDecl)
		if !ok || g.Tok != token.VAR {
			continue
		}
		for _, s := range g.Specs {
			v := s.(*ast.ValueSpec)
			doc := v.Doc
			if doc == nil && len(g.Specs) == 1 {
				doc = g.Doc
			}
			if doc == nil {
				doc = v.Comment
			}
			if len(v.Values) != 1 || doc == nil {
				continue
			}
			if name := eventName(v.Values[0]); name != "" {
				comments[name] = strings.Join(strings.Fields(doc.Text()), " ")
			}
		}
	}
}

// eventName is the name in an expression that declares an event, event.New[T]("name").Strict() say.
func eventName(e ast.Expr) string {
	name := ""
	ast.Inspect(e, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) != 1 || name != "" {
			return name == ""
		}
		if text, ok := call.Args[0].(*ast.BasicLit); ok && text.Kind == token.STRING {
			name, _ = strconv.Unquote(text.Value)
		}
		return name == ""
	})
	return name
}
