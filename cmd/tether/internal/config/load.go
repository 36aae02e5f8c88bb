package config

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
)

const (
	envPrefix = "TETHER_"
	envFile   = envPrefix + "CONFIG"
)

// Flags are what every command of the program has: the configuration, where its file is, and what to print
// instead of doing anything.
type Flags struct {
	File    string `name:"config" placeholder:"FILE" help:"YAML file with the configuration. Also TETHER_CONFIG. Default: none."`
	Help    bool   `short:"h" help:"Print this and exit."`
	Version bool   `help:"Print the version of the program and exit."`

	Config `embed:""`
}

// notSettings are the flags of Flags that are no keys of the configuration.
var notSettings = []string{"config", "help", "version"}

// A Loader reads the configuration from the same places, as often as it is asked to.
type Loader struct {
	Args    []string // without the program's name
	Environ []string // as of os.Environ

	// Grammar makes the struct of kong that the command line is parsed into, and returns the Flags in it. A
	// command that does not use all settings has a tag uses with the keys of those that it does. Default:
	// Flags alone.
	Grammar func() (any, *Flags)
}

// Loaded is the outcome.
type Loaded struct {
	*Flags
	Command *kong.Node // nil without commands

	from  map[string]string // key -> source, for keys that are not at their default
	model *kong.Application
	files map[string][sha256.Size]byte // key -> what was in the files that a secret names
}

// Load reads and checks the configuration. Every error is a *Mistake, or several joined.
func (l Loader) Load() (*Loaded, error) {
	flags := &Flags{}
	grammar := any(flags)
	if l.Grammar != nil {
		grammar, flags = l.Grammar()
	}
	parser, err := NewParser(grammar)
	if err != nil {
		return nil, err
	}
	out := &Loaded{Flags: flags, from: map[string]string{}, model: parser.Model}
	env, err := readEnv(l.Environ, parser.Model)
	if err != nil {
		return nil, err
	}
	file := &source{}
	afterFlags := kong.WithBeforeResolve(func(ctx *kong.Context) error {
		path := env.values[envFile].text
		for _, p := range ctx.Path {
			if p.Flag != nil && p.Flag.Name == "config" {
				path, _ = ctx.FlagValue(p.Flag).(string)
			} else if p.Flag != nil {
				out.from[p.Flag.Name] = "flag"
			}
		}
		var err error
		if path != "" {
			file, err = readFile(path, ctx.Model)
		}
		ctx.AddResolver(file.resolver(out.from))
		ctx.AddResolver(env.resolver(out.from)) // the last one wins
		return err
	})
	if err := afterFlags.Apply(parser); err != nil {
		return nil, err
	}
	ctx, err := parser.Parse(twoDashes(l.Args))
	if err != nil {
		return nil, toMistake(err)
	}
	out.Command = ctx.Selected()
	if out.Node == "" {
		if out.Node, err = os.Hostname(); err != nil {
			out.Node = "node"
		}
	}
	out.files = readSecrets(parser.Model)
	return out, out.check()
}

// readSecrets hashes what is in the files that secrets name.
func readSecrets(model *kong.Application) map[string][sha256.Size]byte {
	files := map[string][sha256.Size]byte{}
	for _, f := range Settings(model) {
		var values []Secret
		switch v := f.Target.Interface().(type) {
		case Secret:
			values = []Secret{v}
		case []Secret:
			values = v
		}
		if contents, err := Expand(values); err == nil && !slices.Equal(contents, values) { // an error is the check's
			text := ""
			for _, c := range contents {
				text += string(c) + "\n"
			}
			files[f.Name] = sha256.Sum256([]byte(text))
		}
	}
	return files
}

// NewParser makes the parser of a grammar. It prints nothing and does not exit.
func NewParser(grammar any) (*kong.Kong, error) {
	return kong.New(grammar, kong.Name("tether"), kong.NoDefaultHelp(), kong.Writers(io.Discard, io.Discard), kong.Exit(func(int) {}))
}

// twoDashes turns -key, as the Go tools spell it, into --key, up to an argument --.
func twoDashes(args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		if a == "--" {
			break
		}
		if len(a) > 2 && a[0] == '-' && 'a' <= a[1] && a[1] <= 'z' {
			out[i] = "-" + a
		}
	}
	return out
}

// Settings are the flags that are keys of the configuration, in the order of the struct.
func Settings(model *kong.Application) []*kong.Flag {
	var out []*kong.Flag
	for _, f := range model.Flags {
		if !slices.Contains(notSettings, f.Name) {
			out = append(out, f)
		}
	}
	return out
}

// Uses reports whether a command uses a setting: its tag uses, or that of the command above it, says so.
// Without a tag it uses all.
func Uses(command *kong.Node, key string) bool {
	for ; command != nil; command = command.Parent {
		if command.Tag != nil && command.Tag.Has("uses") {
			return slices.Contains(strings.Split(command.Tag.Get("uses"), ","), key)
		}
	}
	return true
}

// check is what the tags say, then what the fields say together, for the settings that the command uses.
func (l *Loaded) check() error {
	var all []error
	for _, f := range Settings(l.model) {
		if problem := checkBounds(f); problem != "" {
			all = append(all, &Mistake{Key: f.Name, Source: l.SourceOf(f.Name), Problem: problem})
		}
		if l.from[f.Name] == "flag" && !Uses(l.Command, f.Name) {
			return &Mistake{Key: f.Name, Source: "flag", Problem: "is not used by tether " + l.Command.Path()}
		}
	}
	all = append(all, l.checkTogether()...)
	return errors.Join(slices.DeleteFunc(all, func(err error) bool {
		m := (*Mistake)(nil)
		return errors.As(err, &m) && !Uses(l.Command, m.Key)
	})...)
}

// SourceOf says where the value of a key came from.
func (l *Loaded) SourceOf(key string) string {
	if s, ok := l.from[key]; ok {
		return s
	}
	return "default"
}

// Differ names the settings that differ from those of next and are not marked with the tag reload. A secret differs, too,
// if another is in its file.
func (l *Loaded) Differ(next *Loaded) []string {
	var keys []string
	was := Settings(l.model)
	for i, f := range Settings(next.model) {
		same := reflect.DeepEqual(was[i].Target.Interface(), f.Target.Interface()) && l.files[f.Name] == next.files[f.Name]
		if !f.Tag.Has("reload") && !same {
			keys = append(keys, f.Name)
		}
	}
	return keys
}

// checkBounds compares a number or a duration with its tags min and max.
func checkBounds(f *kong.Flag) string {
	if !f.Tag.Has("min") {
		return ""
	}
	lowest, highest := f.Tag.Get("min"), f.Tag.Get("max")
	low, high := Bound(f, lowest), Bound(f, highest)
	if v := f.Target.Int(); v < low || v > high {
		return fmt.Sprintf("%v is out of range; %s to %s is right", f.Target.Interface(), lowest, highest)
	}
	return ""
}

var durationType = reflect.TypeFor[time.Duration]()

// Bound parses the tag min or max of a setting. A tag that does not parse panics; a test loads them all.
func Bound(f *kong.Flag, text string) int64 {
	if f.Target.Type() == durationType {
		d, err := time.ParseDuration(text)
		if err != nil {
			panic(f.Name + ": " + err.Error())
		}
		return int64(d)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		panic(f.Name + ": " + err.Error())
	}
	return n
}
