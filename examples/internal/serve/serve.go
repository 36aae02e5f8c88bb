// Package serve is what the programs of the examples have in common: a command line, a listener, a signal.
package serve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	"tether/internal/tidy"
)

// Listen opens a TCP listener, and says what to do when the address is taken.
func Listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken by another program; choose another address with -addr", addr)
	}
	return ln, err
}

// Parse parses a command line that has flags and nothing else. It reports false after -h, which it has
// answered on w with the purpose of the program and its flags.
func Parse(f *flag.FlagSet, purpose string, args []string, w io.Writer) (bool, error) {
	f.SetOutput(io.Discard) // what is wrong is returned
	err := f.Parse(args)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Fprintf(w, "%s\n\n", strings.TrimSpace(purpose))
		f.SetOutput(w)
		f.PrintDefaults()
		return false, nil
	}
	if err == nil && f.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", f.Arg(0))
	}
	if err != nil {
		return false, fmt.Errorf("%w; -h explains", err)
	}
	return true, nil
}

// Main runs a program until the first Ctrl-C or SIGTERM, and exits with status 1 if it fails. A
// second signal ends the process at once.
func Main(name string, run func(ctx context.Context) error) {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	quiet := context.AfterFunc(ctx, func() {
		stop()
		fmt.Fprintf(os.Stderr, "%s: stopping; a second Ctrl-C ends the program at once\n", name)
	})
	var tidying sync.WaitGroup
	tidying.Go(func() { tidy.Run(ctx) })
	err := run(ctx)
	quiet()
	stop()
	tidying.Wait()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}
