// Package serve is what the servers of the examples have in common. It is short, so that an
// application can copy it.
package serve

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"tether/hub"
	"tether/internal/tidy"
	"tether/transport"
)

// Serve runs h and an HTTP server with app on ln until ctx is done, and then ends them in their
// order: the hub refuses new clients and sends the others away, the HTTP server finishes its
// requests, the transport waits for its connections. The caller closes the broker after that.
func Serve(ctx context.Context, ln net.Listener, h *hub.Hub, engine *transport.Handler, app http.Handler) error {
	var tidying sync.WaitGroup
	defer tidying.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	tidying.Go(func() { tidy.Run(ctx) })
	server := transport.NewServer("", app)
	served := make(chan error, 1)
	go func() { // until Shutdown; received from below
		served <- server.Serve(transport.Listener(ln))
		cancel()
	}()

	err := h.Run(ctx)

	closing, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	stopped := server.Shutdown(closing)
	if errors.Is(stopped, context.DeadlineExceeded) { // a client is slow; that is no failure of ours
		stopped = server.Close()
	}
	err = errors.Join(err, stopped, engine.Close())
	if e := <-served; !errors.Is(e, http.ErrServerClosed) {
		err = errors.Join(err, e)
	}
	return err
}

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
	context.AfterFunc(ctx, stop)
	if err := run(ctx); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}
