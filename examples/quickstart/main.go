// Quickstart runs several hub nodes in one process, joined by a broker, and serves a page to try
// them with. Run it with -h for what it can do.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"

	"tether/broker"
	"tether/broker/drivers"
	"tether/examples/internal/serve"
	"tether/token"
)

func main() {
	serve.Main("quickstart", func(ctx context.Context) error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) })
}

const usage = `Quickstart starts hub nodes on this machine and joins them by a broker. Open the page of each
node, log in as different users, and let them emit to each other.

  go run ./examples/quickstart                                    two nodes, the embedded broker
  go run ./examples/quickstart -broker redis://127.0.0.1:6379     the same over Redis
  go run ./examples/quickstart -broker nats://127.0.0.1:4222      the same over NATS
  go run ./examples/quickstart -addr 127.0.0.1:4000               one node, on another port

Over Redis or NATS, start it twice with different addresses: all nodes are one hub, and a token of one
is good at the others. go run ./examples/worker emits to it from a process without connections.
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("quickstart", flag.ContinueOnError)
	addrs := f.String("addr", "127.0.0.1:3000,127.0.0.1:3001", "`addresses` to listen on, with commas between them: a node for each")
	brokerURL := f.String("broker", "memory://", "`URL` of the broker: memory://, redis://, rediss://, nats://")
	if ok, err := serve.Parse(f, usage, args, stderr); !ok {
		return err
	}

	listeners, err := listen(strings.Split(*addrs, ","))
	defer closeAll(listeners)
	if err != nil {
		return err
	}
	key, err := token.NewKey(publicKey())
	if err != nil {
		return err
	}
	c := &cluster{
		brokers:   drivers.Mux(),
		brokerURL: *brokerURL,
		keys:      token.NewKeyring(key),
		listeners: listeners,
		log:       slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	}
	return c.run(ctx, func() { fmt.Fprint(stdout, c.guide()) })
}

// publicKey is the key of the tokens, the same for all nodes of all processes, so that a token of one is good at
// the others. It is no secret: here everybody may log in as anybody. A service has a key that
// [token.GenerateKey] made, in its configuration.
func publicKey() string {
	sum := sha256.Sum256([]byte("tether quickstart: no secret"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

// listen opens a listener for each address, before anything else is started.
func listen(addrs []string) ([]net.Listener, error) {
	var listeners []net.Listener
	for _, addr := range addrs {
		ln, err := serve.Listen(strings.TrimSpace(addr))
		if err != nil {
			return listeners, err
		}
		listeners = append(listeners, ln)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, ln := range listeners {
		ln.Close()
	}
}

// cluster is the nodes of this process.
type cluster struct {
	brokers   broker.Mux
	brokerURL string
	keys      *token.Keyring
	listeners []net.Listener // a node each
	log       *slog.Logger
}

// run runs the nodes until ctx is done or one of them fails. It calls ready once all are up.
func (c *cluster) run(ctx context.Context, ready func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var missing atomic.Int32
	missing.Store(int32(len(c.listeners)))
	var nodes sync.WaitGroup
	var once sync.Once
	var failure error // the first one; the other nodes end because of it
	for i := range c.listeners {
		nodes.Go(func() {
			defer cancel()
			err := c.node(ctx, i, func() {
				if missing.Add(-1) == 0 {
					ready()
				}
			})
			if err != nil {
				once.Do(func() { failure = fmt.Errorf("node %s: %w", c.name(i), err) })
			}
		})
	}
	nodes.Wait()
	return failure
}

// name is the port of a node, which no other process of this machine has.
func (c *cluster) name(i int) string {
	_, port, _ := net.SplitHostPort(c.listeners[i].Addr().String())
	return port
}

func (c *cluster) url(i int) string { return "http://" + c.listeners[i].Addr().String() }

// guide says what to do next.
func (c *cluster) guide() string {
	var b strings.Builder
	scheme, _, _ := strings.Cut(c.brokerURL, "://")
	nodes := "1 node"
	if n := len(c.listeners); n > 1 {
		nodes = fmt.Sprint(n, " nodes")
	}
	fmt.Fprintf(&b, "\nTether is up: %s in this process, joined by the broker %s.\n\n", nodes, scheme)
	for i := range c.listeners {
		fmt.Fprintf(&b, "  node %s   %s\n", c.name(i), c.url(i))
	}
	fmt.Fprintf(&b, `
Open two pages in a browser, log in as alice on one and as bob on the other, and emit to each other.
Or emit from a terminal:

  curl -d '{"user":"bob","event":"/users/ping","args":[{"hello":"from a terminal"}]}' %s/emit

Ctrl-C ends it. -h shows how to use Redis or NATS instead of the embedded broker.
`, c.url(0))
	return b.String()
}
