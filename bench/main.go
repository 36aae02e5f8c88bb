// Command bench measures Socket.IO servers: this project's hub, Socket.IO on Node, or any other that
// speaks version 4, beside the physical limit of the machine. See bench -h.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
)

const usage = `bench measures Socket.IO servers, beside what the machine can do at all.

  bench run [NAME…]        start servers, brokers and clients, run scenarios, print a table
  bench load -url URL      connect many clients to any Socket.IO v4 server
  bench serve              run a hub node with a control port
  bench million            simulate a million registered users on one node
  bench report FILE…       make a page with plots of one or several results
  bench compare OLD NEW    say what got worse; exit status 1 when something did

Begin with one of these:

  bench run -list                          the scenarios, and what each shows
  bench run targeted                       our hub beside a bare loop of write calls
  bench run -peer hub,node -reps 3 -json new.json
  bench report -o new.html new.json
  bench load -url http://127.0.0.1:3000 -conns 10000 -emit echo -rate 2000 -ack

How to read the figures:

  Ratios are what counts. Every repetition runs our server and the limit within a minute of each
  other, with the same clients; absolute figures change with the machine and the hour.
  Latency is from the time a message was due by the schedule, so a server that stalls is charged
  for everything that should have been sent meanwhile. The warm-up is not in it.
  CPU is what the operating system says that the server's processes used in the timed part.
  Every message is numbered: what is lost, doubled, inverted or foreign is counted exactly.

Each command explains its flags: bench run -h. Clients, limits and CPU need Linux; serve, report and
compare work anywhere.
`

// Exit codes.
const (
	exitOK    = 0
	exitWorse = 1 // compare: something got worse; load and run: something failed
	exitUsage = 2
)

// errUsage says that the command line is wrong, and that the reason was printed.
var errUsage = errors.New("usage")

// errWorse says that a comparison found something worse, which was printed.
var errWorse = errors.New("worse")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends it at once
	err := dispatch(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case err == nil:
		os.Exit(exitOK)
	case errors.Is(err, errUsage):
		os.Exit(exitUsage)
	case !errors.Is(err, errWorse):
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	os.Exit(exitWorse)
}

func dispatch(ctx context.Context, args []string, out, errOut io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(errOut, usage)
		return errUsage
	}
	c := cli{out: out, err: errOut}
	switch name, rest := args[0], args[1:]; name {
	case "run":
		return c.run(ctx, rest)
	case "load":
		return c.load(ctx, rest)
	case "serve":
		return c.serve(ctx, rest)
	case "million":
		return c.million(ctx, rest)
	case "report":
		return c.report(rest)
	case "compare":
		return c.compare(rest)
	case "worker": // started by run and load
		return c.worker(ctx)
	case "-h", "-help", "--help", "help":
		fmt.Fprint(out, usage)
		return nil
	default:
		fmt.Fprintf(errOut, "bench: there is no command %q\n\n%s", name, usage)
		return errUsage
	}
}

// cli is where a command writes.
type cli struct{ out, err io.Writer }

// flags makes a flag set whose help begins with text.
func (c cli) flags(name, text string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(c.err)
	f.Usage = func() {
		fmt.Fprintf(f.Output(), "%s\n\nFlags:\n", strings.TrimSpace(text))
		f.PrintDefaults()
	}
	return f
}

// parse parses flags and names in any order, and tells a request for help from a mistake.
func (c cli) parse(f *flag.FlagSet, args []string) (names []string, help bool, err error) {
	for _, a := range args {
		if a == "-h" || a == "-help" || a == "--help" {
			f.SetOutput(c.out)
		}
	}
	for {
		switch err := f.Parse(args); {
		case errors.Is(err, flag.ErrHelp):
			return nil, true, nil
		case err != nil:
			return nil, false, errUsage
		case f.NArg() == 0:
			return names, false, nil
		}
		names = append(names, f.Arg(0))
		args = f.Args()[1:]
	}
}

// wrong reports a mistake on the command line.
func (c cli) wrong(f *flag.FlagSet, format string, args ...any) error {
	fmt.Fprintf(c.err, "bench %s: %s (bench %s -h explains)\n", f.Name(), fmt.Sprintf(format, args...), f.Name())
	return errUsage
}
