// Tether is the event hub as a program. tether serve runs a node; the other commands are for people who
// operate one. README.md says how to start, and docs/configuration.md what can be set.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"tether/cmd/tether/internal/config"
)

// The exit codes, as -h documents them.
const (
	exitDone     = 0
	exitFailed   = 1
	exitMistake  = 2
	exitCutShort = 3
	exitNobody   = 4
	exitUnknown  = 5
)

// commandLine is the grammar of kong. Each command has a file, and names the settings that it uses unless
// it uses all.
type commandLine struct {
	Serve       serveCommand       `cmd:"" help:"Run a node."`
	Emit        emitCommand        `cmd:"" uses:"broker,prefix,key,seal,plain,emit.events,admin.keys" help:"Emit an event, and say whether anybody was there."`
	Follow      followCommand      `cmd:"" uses:"broker,prefix,key,seal,plain,admin.keys" help:"Say what becomes of events to somebody, on all nodes and for each client."`
	Nodes       nodesCommand       `cmd:"" uses:"broker,prefix,key,seal,plain" help:"List the live nodes of the cluster."`
	Top         topCommand         `cmd:"" uses:"broker,prefix,key,seal,plain" help:"Show the nodes of the cluster and how they are, live."`
	Who         whoCommand         `cmd:"" uses:"broker,prefix,key,seal,plain" help:"List the sockets of all nodes."`
	Online      onlineCommand      `cmd:"" uses:"broker,prefix,key,seal,plain" help:"Say which users are online, and on which devices."`
	Kick        kickCommand        `cmd:"" uses:"broker,prefix,key,seal,plain" help:"Disconnect sockets on all nodes."`
	Revoke      revokeCommand      `cmd:"" uses:"broker,prefix,key,seal,plain" help:"Put users or tokens out on all nodes, and keep them out."`
	Rebalance   rebalanceCommand   `cmd:"" uses:"broker,prefix,key,seal,plain" help:"Have nodes with too many connections give some up, to the others."`
	Token       tokenCommand       `cmd:"" uses:"auth.keys,auth.leeway" help:"Make and open tokens of clients."`
	Key         keyCommand         `cmd:"" uses:"" help:"Print a new random key, good for key, auth.keys, emit.keys and stats.keys."`
	Types       typesCommand       `cmd:"" uses:"" help:"Write TypeScript from the events that a package declares."`
	CheckConfig checkConfigCommand `cmd:"" help:"Check the configuration, and what it refers to."`
	PrintConfig printConfigCommand `cmd:"" help:"Print the configuration and where each value comes from, secrets hidden."`
	Probe       probeCommand       `cmd:"" uses:"" help:"Ask a running node once, for the health checks of containers."`

	config.Flags `embed:""`
}

// command is what can be done.
type command interface {
	// run returns the exit code.
	run(p *program, l *config.Loaded) int
}

// program is what a command has of its process.
type program struct {
	loader         config.Loader
	stdin          io.Reader
	stdout, stderr io.Writer
}

func main() {
	p := program{
		loader: config.Loader{Args: os.Args[1:], Environ: os.Environ(), Grammar: grammar},
		stdin:  os.Stdin, stdout: os.Stdout, stderr: os.Stderr,
	}
	os.Exit(p.run())
}

func grammar() (any, *config.Flags) {
	c := &commandLine{}
	return c, &c.Flags
}

// run does what the command line says and returns the exit code. A question for help or the version is
// answered even if the rest is wrong.
func (p *program) run() int {
	switch args := beforeDashes(p.loader.Args); {
	case len(args) == 0:
		p.end(printHelp(p.stderr, nil))
		return exitMistake
	case slices.ContainsFunc(args, isOneOf("-h", "-help", "--help")):
		return p.end(printHelp(p.stdout, args))
	case slices.ContainsFunc(args, isOneOf("-version", "--version")):
		return p.print(version())
	}
	l, err := p.loader.Load()
	if err != nil {
		return p.end(err)
	}
	return l.Command.Target.Addr().Interface().(command).run(p, l)
}

// beforeDashes are the arguments up to "--", after which nothing is a flag.
func beforeDashes(args []string) []string {
	if i := slices.Index(args, "--"); i >= 0 {
		return args[:i]
	}
	return args
}

func isOneOf(words ...string) func(string) bool {
	return func(s string) bool { return slices.Contains(words, s) }
}

// print writes a line to the standard output, and returns the exit code.
func (p *program) print(line string) int {
	_, err := fmt.Fprintln(p.stdout, line)
	return p.end(err)
}

// end reports an error, if there is one, and returns the exit code.
func (p *program) end(err error) int {
	if err == nil {
		return exitDone
	}
	fmt.Fprintln(p.stderr, err)
	if errors.As(err, new(*config.Mistake)) {
		return exitMistake
	}
	return exitFailed
}
