// Worker emits to users from a process that serves nobody: it links the hub's emitter and a broker's
// driver, and no WebSocket code.
//
//	go run ./examples/server/recipes/worker -broker redis://127.0.0.1:6379 -user 42
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"tether/broker/drivers"
	"tether/hub"
)

// Report is the payload of reportReady.
type Report struct {
	ID  int    `json:"id"`
	URL string `json:"url"`
}

var reportReady = hub.NewEvent[Report]("/reports/ready")

func main() {
	brokerURL := flag.String("broker", "redis://127.0.0.1:6379", "URL of the broker of the hubs")
	prefix := flag.String("prefix", "tether", "prefix of the hubs")
	user := flag.String("user", "42", "whom to tell")
	every := flag.Duration("every", time.Second, "time between two reports")
	count := flag.Int("count", 0, "reports to make; 0: until interrupted")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Stdout, *brokerURL, *prefix, *user, *every, *count); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, out io.Writer, brokerURL, prefix, user string, every time.Duration, count int) error {
	b, err := drivers.Mux().Open(ctx, brokerURL)
	if err != nil {
		return err
	}
	defer b.Close()
	emitter := hub.NewEmitter(b, hub.EmitterOptions{Prefix: prefix})

	tick := time.NewTicker(every)
	defer tick.Stop()
	for id := 1; ; id++ {
		// ... the work that makes the report ...
		receipt, err := reportReady.Emit(ctx, emitter, hub.User(user), Report{ID: id, URL: fmt.Sprintf("/reports/%d", id)})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			fmt.Fprintf(out, "report %d: %v\n", id, err)
		case receipt.Nobody():
			fmt.Fprintf(out, "report %d: user %s is offline, send a mail\n", id, user)
		default:
			fmt.Fprintf(out, "report %d: %s\n", id, receipt)
		}
		if id == count {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}
