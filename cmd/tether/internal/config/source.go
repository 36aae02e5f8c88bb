package config

import (
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
	"go.yaml.in/yaml/v3"
)

// source is a place that settings come from: a file, or the environment.
type source struct {
	values map[string]setting // by key; for the environment by variable
	name   func(key string) string
}

type setting struct {
	text  string
	list  []any  // of strings; nil unless a list was written
	where string // for people
}

// resolver hands the values to kong, checked one by one, so that a mistake names its place. from gets
// the place of every value that is used.
func (s *source) resolver(from map[string]string) kong.Resolver {
	return kong.ResolverFunc(func(_ *kong.Context, _ *kong.Path, f *kong.Flag) (any, error) {
		key := f.Name
		if s.name != nil {
			key = s.name(key)
		}
		v, ok := s.values[key]
		if !ok || slices.Contains(notSettings, f.Name) {
			return nil, nil
		}
		if problem := try(f, v); problem != "" {
			return nil, &Mistake{Key: f.Name, Source: v.where, Problem: problem}
		}
		from[f.Name] = v.where
		if v.list != nil {
			return v.list, nil
		}
		return v.text, nil
	})
}

// try says what is wrong with a value, without changing anything.
func try(f *kong.Flag, v setting) string {
	if f.Target.Kind() == reflect.Slice {
		if v.list == nil {
			return tryEnum(f, strings.Split(v.text, ",")...)
		}
		texts := make([]string, len(v.list))
		for i, e := range v.list {
			texts[i], _ = e.(string)
		}
		return tryEnum(f, texts...)
	}
	if v.list != nil {
		return "a list is not possible here; " + kindOf(f) + " is right"
	}
	if problem := tryEnum(f, v.text); problem != "" {
		return problem
	}
	scan := kong.Scan().PushTyped(v.text, kong.FlagValueToken)
	if err := f.Parse(scan, reflect.New(f.Target.Type()).Elem()); err != nil {
		return fmt.Sprintf("%q is not %s", v.text, kindOf(f))
	}
	return ""
}

func tryEnum(f *kong.Flag, texts ...string) string {
	if f.Enum == "" {
		return ""
	}
	for _, t := range texts {
		if !slices.Contains(f.EnumSlice(), t) {
			return fmt.Sprintf("%q is not known; %s is right", t, strings.Join(f.EnumSlice(), " or "))
		}
	}
	return ""
}

// kindOf is the type of a setting in words, with an example.
func kindOf(f *kong.Flag) string {
	switch {
	case f.Enum != "":
		return strings.Join(f.EnumSlice(), " or ")
	case f.Target.Type() == durationType:
		return "a duration such as 10s or 1m30s"
	case f.Target.Kind() == reflect.Slice:
		return "a list"
	case f.Target.Kind() == reflect.Bool:
		return "true or false"
	case f.Target.Kind() == reflect.Int:
		return "a whole number"
	}
	return "text"
}

// envName is the variable of a key: http.idle-timeout is TETHER_HTTP_IDLE_TIMEOUT.
func envName(key string) string {
	return envPrefix + strings.ToUpper(strings.NewReplacer(".", "_", "-", "_").Replace(key))
}

// serviceLink matches what Kubernetes puts into the environment for a Service named tether….
var serviceLink = regexp.MustCompile(`_(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT|PORT_\d+_(TCP|UDP)(_.*)?)$`)

// readEnv takes the variables with the prefix. Those that are no setting are mistakes.
func readEnv(environ []string, model *kong.Application) (*source, error) {
	known := []string{envFile}
	for _, f := range Settings(model) {
		known = append(known, envName(f.Name))
	}
	s := &source{values: map[string]setting{}, name: envName}
	var wrong []error
	for _, e := range environ {
		variable, value, _ := strings.Cut(e, "=")
		switch {
		case !strings.HasPrefix(variable, envPrefix) || value == "":
		case slices.Contains(known, variable):
			s.values[variable] = setting{text: value, where: variable}
		case serviceLink.MatchString(variable):
			wrong = append(wrong, &Mistake{Key: variable, Problem: "unknown variable; it looks like a Kubernetes service link: " +
				"set enableServiceLinks: false in the pod, or give the Service a name that does not begin with tether"})
		default:
			wrong = append(wrong, &Mistake{Key: variable, Problem: "unknown variable" + didYouMean(variable, known)})
		}
	}
	return s, errors.Join(wrong...)
}

// readFile reads a YAML file. What is no setting in it is a mistake.
func readFile(path string, model *kong.Application) (*source, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return &source{}, &Mistake{Key: "config", Problem: err.Error()}
	}
	r := &fileReader{path: path, flags: map[string]*kong.Flag{}, values: map[string]setting{}}
	for _, f := range Settings(model) {
		r.flags[f.Name] = f
		r.known = append(r.known, f.Name)
	}
	var doc yaml.Node
	dec := yaml.NewDecoder(strings.NewReader(string(data)))
	if err := dec.Decode(&doc); err != nil && !errors.Is(err, io.EOF) {
		return &source{}, &Mistake{Source: path, Problem: "is not YAML" + lineOf(err, string(data))}
	}
	if err := dec.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return &source{}, &Mistake{Source: path, Problem: "holds more than one YAML document; one is right"}
	}
	if len(doc.Content) > 0 {
		r.section("", doc.Content[0])
	}
	return &source{values: r.values}, errors.Join(r.wrong...)
}

var (
	yamlLine = regexp.MustCompile(`line (\d+)`)
	yamlTab  = regexp.MustCompile(`^ *\t`)
)

// lineOf says where the mistake is. The decoder's error is about syntax, with a line; it may quote a part of
// that line, so nothing else of it is shown.
func lineOf(err error, text string) string {
	for i, line := range strings.Split(text, "\n") {
		if yamlTab.MatchString(line) {
			return fmt.Sprintf(": line %d begins with a tab; YAML wants spaces", i+1)
		}
	}
	if m := yamlLine.FindStringSubmatch(err.Error()); m != nil {
		return ": mistake near line " + m[1]
	}
	return ""
}

// fileReader flattens the sections of a file into keys.
type fileReader struct {
	path   string
	flags  map[string]*kong.Flag
	known  []string
	values map[string]setting
	wrong  []error
}

func (r *fileReader) at(n *yaml.Node) string { return fmt.Sprintf("%s:%d", r.path, n.Line) }

func (r *fileReader) mistake(key string, n *yaml.Node, problem string) {
	r.wrong = append(r.wrong, &Mistake{Key: key, Source: r.at(n), Problem: problem})
}

func (r *fileReader) section(prefix string, n *yaml.Node) {
	if n.Tag == "!!null" {
		return // a section with nothing in it
	}
	if n.Kind != yaml.MappingNode {
		r.mistake(strings.TrimSuffix(prefix, "."), n, "a section of keys is right here, key: value")
		return
	}
	for i := 0; i < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		key := prefix + name.Value
		f, ok := r.flags[key]
		switch {
		case ok && r.has(key):
			r.mistake(key, name, "is set twice")
		case ok:
			r.setting(f, value)
		case slices.ContainsFunc(r.known, func(k string) bool { return strings.HasPrefix(k, key+".") }):
			r.section(key+".", value)
		default:
			r.mistake(key, name, "unknown key"+didYouMean(key, r.known))
		}
	}
}

func (r *fileReader) setting(f *kong.Flag, n *yaml.Node) {
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag != "!!null":
		r.values[f.Name] = setting{text: n.Value, where: r.at(n)}
	case n.Kind == yaml.SequenceNode:
		v := setting{list: []any{}, where: r.at(n)}
		for _, e := range n.Content {
			if e.Kind != yaml.ScalarNode || e.Tag == "!!null" {
				r.mistake(f.Name, e, "a list of texts is right")
				return
			}
			v.list = append(v.list, e.Value)
		}
		r.values[f.Name] = v
	default:
		r.mistake(f.Name, n, "has no value; "+kindOf(f)+" is right")
	}
}

func (r *fileReader) has(key string) bool {
	_, ok := r.values[key]
	return ok
}

// didYouMean names the known word that is nearest to a misspelt one, if one is near.
func didYouMean(word string, known []string) string {
	best, least := "", len(word)/3+1
	for _, k := range known {
		if d := distance(word, k); d < least || d == least && best == "" {
			best, least = k, d
		}
	}
	if best == "" {
		return "; docs/configuration.md lists all, and so does -h"
	}
	return "; did you mean " + best + "?"
}

// distance is how many characters have to be put in, left out or replaced to turn a into b.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}
