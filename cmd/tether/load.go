package main

import (
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

// commandLine is all flags: what to do, and the configuration.
type commandLine struct {
	ConfigFile  string `name:"config" placeholder:"FILE" help:"YAML file with the configuration. Also TETHER_CONFIG. Default: none."`
	CheckConfig bool   `help:"Check the configuration, and what it refers to, and exit."`
	PrintConfig bool   `help:"Print the configuration and where each value comes from, secrets hidden, and exit."`
	NewKey      bool   `help:"Print a new random key, good for auth.keys and emit.keys, and exit."`
	NewToken    string `placeholder:"USER" help:"Print a token for a user, good for an hour, sealed with the first of auth.keys, and exit."`
	Probe       string `placeholder:"URL" help:"Ask a running server, http://127.0.0.1:3000/readyz say, and exit with 0 if the answer is 200 and 1 if not. For container health checks."`
	Help        bool   `short:"h" help:"Print this and exit."`

	Config `embed:""`
}

// notSettings are the flags that are not keys of the configuration.
var notSettings = []string{"config", "check-config", "print-config", "new-key", "new-token", "probe", "help"}

const (
	envPrefix = "TETHER_"
	envConfig = envPrefix + "CONFIG"
	name      = "tether-server"
	purpose   = `The Tether event hub as a program: Socket.IO clients connect to /socket.io/, and any language emits to them through POST /emit.

Every setting is a flag, a key of the YAML file and an environment variable: --http.idle-timeout=2m is idle-timeout in the section http, and TETHER_HTTP_IDLE_TIMEOUT. Flags win over the environment, and the environment over the file. Lists are separated by commas. An empty variable counts as not set. One dash is as good as two.

Exit codes: 0 after a drain, or when -check-config and the like succeeded; 1 when the server could not start or run; 2 for a mistake in the configuration or the command line; 3 when a second signal cut the drain short.`
)

// A mistake is an error in the configuration. It names the key, where its value came from, and what
// would be right; it never quotes a secret.
type mistake struct {
	Key     string // empty when the mistake is not about one key
	Source  string // "flag", "TETHER_ADDR", "server.yaml:3", "default"
	Problem string
}

func (m *mistake) Error() string {
	switch {
	case m.Key == "" && m.Source == "":
		return m.Problem
	case m.Key == "":
		return m.Source + ": " + m.Problem
	case m.Source == "":
		return m.Key + ": " + m.Problem
	}
	return m.Key + " (" + m.Source + "): " + m.Problem
}

// A loader reads the configuration from the same places, as often as it is asked to.
type loader struct {
	args    []string // without the program's name
	environ []string // as of os.Environ
}

// loaded is the outcome.
type loaded struct {
	commandLine
	from  map[string]string // key -> source, for keys that are not at their default
	model *kong.Application
}

// load reads and checks the configuration. Every error is a *mistake, or several joined.
func (l loader) load() (*loaded, error) {
	out := &loaded{from: map[string]string{}}
	parser, err := newParser(&out.commandLine)
	if err != nil {
		return nil, err
	}
	out.model = parser.Model
	env, err := readEnv(l.environ, parser.Model)
	if err != nil {
		return nil, err
	}
	file := &source{}
	afterFlags := kong.WithBeforeResolve(func(ctx *kong.Context) error {
		path := env.values[envConfig].text
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
	if _, err := parser.Parse(twoDashes(l.args)); err != nil {
		return nil, toMistake(err)
	}
	if out.Node == "" {
		if out.Node, err = os.Hostname(); err != nil {
			out.Node = "node"
		}
	}
	return out, out.check()
}

func newParser(into *commandLine) (*kong.Kong, error) {
	return kong.New(into,
		kong.Name(name), kong.Description(purpose), kong.NoDefaultHelp(),
		kong.Writers(io.Discard, io.Discard),
		kong.Exit(func(int) {}))
}

// printHelp writes the list of flags, whatever else is on the command line.
func printHelp(w io.Writer) error {
	parser, err := newParser(&commandLine{})
	if err != nil {
		return err
	}
	ctx, err := kong.Trace(parser, nil)
	if err != nil {
		return err
	}
	ctx.Stdout = w
	return kong.DefaultHelpPrinter(kong.HelpOptions{WrapUpperBound: 100, ValueFormatter: kong.DefaultHelpValueFormatter}, ctx)
}

// wantsHelp reports whether the command line asks for help, even if the rest of it is wrong.
func wantsHelp(args []string) bool {
	return slices.ContainsFunc(args, func(a string) bool { return a == "-h" || a == "-help" || a == "--help" })
}

// twoDashes turns -key, as the Go tools spell it, into --key.
func twoDashes(args []string) []string {
	out := slices.Clone(args)
	for i, a := range out {
		if len(a) > 2 && a[0] == '-' && 'a' <= a[1] && a[1] <= 'z' {
			out[i] = "-" + a
		}
	}
	return out
}

// toMistake says in the words of this program what the parser found.
func toMistake(err error) error {
	if m := (*mistake)(nil); errors.As(err, &m) {
		return m
	}
	text := err.Error()
	if strings.HasPrefix(text, "unexpected argument") {
		return &mistake{Problem: "unexpected argument without a key; a setting is --key=value, see -h"}
	}
	text = strings.ReplaceAll(text, "--", "")
	return &mistake{Source: "command line", Problem: text}
}

// settings are the flags that are keys of the configuration, in the order of the struct.
func settings(model *kong.Application) []*kong.Flag {
	var out []*kong.Flag
	for _, f := range model.Flags {
		if !slices.Contains(notSettings, f.Name) {
			out = append(out, f)
		}
	}
	return out
}

// check is what the tags say, then what the fields say together.
func (l *loaded) check() error {
	var all []error
	for _, f := range settings(l.model) {
		if err := checkBounds(f); err != "" {
			all = append(all, &mistake{Key: f.Name, Source: l.sourceOf(f.Name), Problem: err})
		}
	}
	return errors.Join(append(all, l.checkTogether()...)...)
}

func (l *loaded) sourceOf(key string) string {
	if s, ok := l.from[key]; ok {
		return s
	}
	return "default"
}

// checkBounds compares a number or a duration with its tags min and max.
func checkBounds(f *kong.Flag) string {
	if !f.Tag.Has("min") {
		return ""
	}
	lowest, highest := f.Tag.Get("min"), f.Tag.Get("max")
	low, high := bound(f, lowest), bound(f, highest)
	if v := f.Target.Int(); v < low || v > high {
		return fmt.Sprintf("%v is out of range; %s to %s is right", f.Target.Interface(), lowest, highest)
	}
	return ""
}

var durationType = reflect.TypeFor[time.Duration]()

// bound parses the tags of Config; a test loads them all.
func bound(f *kong.Flag, text string) int64 {
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
