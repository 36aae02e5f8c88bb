// Conformance is a server with fixed behaviours, so that any Socket.IO client, and any test from
// outside, can exercise a hub. What it does is in package internal/conformance.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"time"

	"tether/broker/drivers"
	"tether/engine"
	"tether/examples/internal/serve"
	"tether/hub"
	"tether/internal/conformance"
	"tether/token"
	"tether/transport"
)

func main() {
	serve.Main("conformance", func(ctx context.Context) error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) })
}

type options struct {
	addr, broker, tokenKey string
	suite, engine          bool
	hub                    hub.Options
	transport              transport.Options
}

// suiteDefaults are the defaults of flags with -suite and -engine.
var suiteDefaults = map[string]string{
	"ping-interval": "300ms", "ping-timeout": "200ms", "connect-timeout": "1s", "max-payload": "1000000", "cors": "*",
}

const usage = `Conformance is a Socket.IO server with fixed behaviours (echo, rooms, acknowledgements, binary, namespaces
with and without access), for tests of clients. Beside /socket.io/ it serves GET /healthz, GET /readyz and
POST /emit. It prints "listening on ADDRESS" when it is ready.
`

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var cors string
	f := flag.NewFlagSet("conformance", flag.ContinueOnError)
	f.StringVar(&o.addr, "addr", "127.0.0.1:3000", "`address` to listen on")
	f.StringVar(&o.broker, "broker", "memory://", "`URL` of the broker: memory://, redis://, rediss://, nats://")
	f.StringVar(&o.hub.Node, "node", "A", "`name` of this node")
	f.DurationVar(&o.transport.PingInterval, "ping-interval", 25*time.Second, "time between two pings to a client")
	f.DurationVar(&o.transport.PingTimeout, "ping-timeout", 20*time.Second, "time that a pong may take")
	f.DurationVar(&o.hub.ConnectTimeout, "connect-timeout", 45*time.Second, "time until a client has to have joined a namespace")
	f.IntVar(&o.transport.MaxPayload, "max-payload", 1_000_000, "largest message, in `bytes`")
	f.IntVar(&o.transport.QueueBytes, "queue-bytes", 1<<20, "what may wait for one client, in `bytes`")
	f.IntVar(&o.transport.TotalQueueBytes, "total-queue-bytes", 256<<20, "what may wait for all clients together, in `bytes`; negative: no limit")
	f.IntVar(&o.transport.ControlRate, "control-rate", 100, "pings, pongs and the like that a client may send in a second; negative: no limit")
	f.IntVar(&o.transport.MessageRate, "message-rate", 0, "messages of one client that are read in a second; 0: no limit")
	f.BoolVar(&o.transport.Epoll, "epoll", false, "WebSocket connections on the epoll carrier")
	f.StringVar(&cors, "cors", "", "allowed `origin`, \"*\" for any; none by default")
	f.StringVar(&o.tokenKey, "token-key", "", "`key` of the tokens of clients, in base64")
	f.BoolVar(&o.suite, "suite", false, "the behaviours and timings of a protocol test suite")
	f.BoolVar(&o.engine, "engine", false, "serve only /engine.io/: send every message back")
	if ok, err := serve.Parse(f, usage, args, stderr); err != nil {
		return o, err
	} else if !ok {
		return o, flag.ErrHelp
	}
	given := map[string]bool{}
	f.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if o.suite || o.engine {
		for name, value := range suiteDefaults {
			if !given[name] {
				f.Set(name, value)
			}
		}
	}
	for name, value := range map[string]int64{
		"ping-interval": int64(o.transport.PingInterval), "ping-timeout": int64(o.transport.PingTimeout),
		"connect-timeout": int64(o.hub.ConnectTimeout), "max-payload": int64(o.transport.MaxPayload),
	} {
		if value <= 0 {
			return o, fmt.Errorf("-%s must be more than 0", name)
		}
	}
	if cors != "" {
		if u, err := url.Parse(cors); cors != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
			return o, fmt.Errorf("-cors must be an origin, http://localhost:8080 say, or *; got %q", cors)
		}
		o.transport.CORS.Origins = []string{cors}
	}
	o.hub.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	o.transport.Logger = o.hub.Logger
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	return o.run(ctx, stdout)
}

// run serves until ctx is done, and says on stdout when it is ready.
func (o options) run(ctx context.Context, stdout io.Writer) error {
	var keys *token.Keyring
	if o.tokenKey != "" {
		key, err := token.NewKey(o.tokenKey)
		if err != nil {
			return err
		}
		keys = token.NewKeyring(key)
	}
	ln, err := serve.Listen(o.addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	b, err := drivers.Mux().Open(ctx, o.broker)
	if err != nil {
		return err
	}
	defer b.Close()

	o.hub.OnStart = func(context.Context, *hub.Hub) error {
		_, err := fmt.Fprintln(stdout, "listening on", ln.Addr())
		return err
	}
	h, err := hub.New(b, o.hub)
	if err != nil {
		return err
	}
	sockets, app, err := handlers(h, o, keys)
	if err != nil {
		return err
	}
	return sockets.Serve(ctx, ln, app, h, transport.ServeOptions{})
}

func handlers(h *hub.Hub, o options, keys *token.Keyring) (*transport.Handler, http.Handler, error) {
	if o.engine {
		o.transport.Path = "/engine.io/"
		echo, err := transport.NewHandler(engine.AttachFunc(echoEngine), o.transport)
		return echo, echo, err
	}
	if o.suite {
		conformance.InstallSuite(h)
	} else {
		conformance.Install(h, conformance.Options{Keys: keys})
	}
	sockets, err := transport.NewHandler(h, o.transport)
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", sockets)
	mux.Handle("/", conformance.Endpoints(h))
	return sockets, mux, nil
}
