// Worker emits to users from a process that has nothing but a broker: no hub, no connections, no
// WebSocket code. Start the quickstart with the same broker to see what it emits arrive.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"time"

	"tether/broker/drivers"
	"tether/event"
)

// Ping is an event: a name, and the type of what comes with it.
var Ping = event.New[PingPayload]("/users/ping")

// PingPayload is what comes with a Ping.
type PingPayload struct {
	Hello string    `json:"hello"`
	Sent  time.Time `json:"sent"`
}

func main() {
	if err := run(context.Background(), os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "worker:", err)
		os.Exit(1)
	}
}

const usage = `Worker emits /users/ping to users, from a process that has nothing but a broker.

  worker [-broker URL] [-hello TEXT] USER...

To see it work, with a Redis at hand:

  go run ./examples/quickstart -broker redis://127.0.0.1:6379     # log in as alice
  go run ./examples/worker -broker redis://127.0.0.1:6379 alice bob

`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("worker", flag.ContinueOnError)
	f.SetOutput(io.Discard) // what is wrong is returned
	brokerURL := f.String("broker", "redis://127.0.0.1:6379", "`URL` of the broker that the hubs use: redis://, rediss://, nats://")
	hello := f.String("hello", "from a worker", "`text` of the payload")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		fmt.Fprint(stderr, usage)
		f.SetOutput(stderr)
		f.PrintDefaults()
		return nil
	} else if err != nil {
		return fmt.Errorf("%w; -h explains", err)
	}
	users := f.Args()
	if len(users) == 0 {
		return errors.New("name a user, or several; -h explains")
	}

	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	b, err := drivers.Mux().Open(ctx, *brokerURL)
	if err != nil {
		return err
	}
	defer b.Close()

	return ping(ctx, b, *hello, users, stdout)
}
