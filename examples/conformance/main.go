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
	"strings"
	"time"

	"tether/broker"
	"tether/broker/drivers"
	"tether/broker/seal"
	"tether/engine"
	"tether/examples/internal/serve"
	"tether/hub"
	"tether/internal/conformance"
	"tether/presence"
	"tether/relay"
	"tether/revoke"
	"tether/token"
	"tether/transport"
)

func main() {
	serve.Main("conformance", func(ctx context.Context) error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) })
}

type options struct {
	addr, broker, key, tokenKey, peer string
	suite, engine                     bool
	grace                             time.Duration
	hub                               hub.Options
	transport                         transport.Options
}

// suiteDefaults are the defaults of flags with -suite and -engine.
var suiteDefaults = map[string]string{
	"ping-interval": "300ms", "ping-timeout": "200ms", "connect-timeout": "1s", "max-payload": "1000000", "cors": "*",
}

const usage = `Conformance is a Socket.IO server with fixed behaviours (echo, rooms, acknowledgements, binary, namespaces
with and without access), for tests of clients. Beside /socket.io/ it serves GET /healthz, /readyz and /stats, and
POST /emit, /online and /revoke. It prints "listening on ADDRESS" when it is ready, and a line when the first
device of a user comes, or the last one goes.
`

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	var cors, recoverFor string
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
	f.DurationVar(&o.hub.Recovery.Window, "recovery", 0, "how long a session waits for a client that has lost its connection; 0: it does not")
	f.StringVar(&recoverFor, "recovery-for", "all", "`who` gets recovery: all, or asked: the clients that ask for it")
	f.BoolVar(&o.hub.Recovery.Log, "recovery-log", false, "the broker keeps events too, so that the death of a node loses none; adds log= to the URL of -broker, if it has none. Other emitters need the same")
	f.StringVar(&cors, "cors", "", "allowed `origin`, \"*\" for any; none by default")
	f.StringVar(&o.key, "key", "", "`key` that all nodes of the cluster share, in base64: what they say through the broker is authenticated with it")
	f.BoolVar(&o.hub.Key.Seal, "seal", false, "encrypt that with -key, too")
	f.StringVar(&o.peer, "peer", "", "`URL` at which other nodes reach this one, http://ADDRESS; none: they go through the broker")
	f.StringVar(&o.tokenKey, "token-key", "", "`key` of the tokens of clients, in base64")
	f.DurationVar(&o.grace, "grace", 0, "how long a user whose last device has gone still counts as online")
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
	return o, o.complete(cors, recoverFor, stderr)
}

// complete checks the options, and adds what follows from them.
func (o *options) complete(cors, recoverFor string, stderr io.Writer) error {
	for name, value := range map[string]int64{
		"ping-interval": int64(o.transport.PingInterval), "ping-timeout": int64(o.transport.PingTimeout),
		"connect-timeout": int64(o.hub.ConnectTimeout), "max-payload": int64(o.transport.MaxPayload),
	} {
		if value <= 0 {
			return fmt.Errorf("-%s must be more than 0", name)
		}
	}
	o.hub.Recovery.On = o.hub.Recovery.Window > 0
	o.hub.Recovery.All = o.hub.Recovery.On && recoverFor == "all"
	o.hub.Recovery.Data = conformance.Data
	if recoverFor != "all" && recoverFor != "asked" {
		return fmt.Errorf("-recovery-for must be all or asked; got %q", recoverFor)
	}
	if o.hub.Recovery.Window < 0 {
		return errors.New("-recovery must not be less than 0")
	}
	if o.hub.Recovery.Log {
		if !o.hub.Recovery.On {
			return errors.New("-recovery-log needs -recovery too, -recovery=2m say")
		}
		o.broker = logged(o.broker, o.hub.Recovery.Window)
	}
	if cors != "" {
		if u, err := url.Parse(cors); cors != "*" && (err != nil || u.Scheme == "" || u.Host == "" || u.Path != "") {
			return fmt.Errorf("-cors must be an origin, http://localhost:8080 say, or *; got %q", cors)
		}
		o.transport.CORS.Origins = []string{cors}
	}
	if o.key != "" {
		key, err := seal.ParseKey(o.key)
		if err != nil {
			return fmt.Errorf("-key: %w", err)
		}
		o.hub.Key.Current = key
	}
	o.hub.Logger = slog.New(slog.NewTextHandler(stderr, nil))
	o.transport.Logger = o.hub.Logger
	return nil
}

// logged is a broker's URL with a log that is long enough for a window of recovery, if it says nothing about one.
func logged(raw string, window time.Duration) string {
	u, err := broker.ParseURL(raw)
	if err != nil || u.Query().Has("log") {
		return raw // what is wrong with it is said where it is opened
	}
	separator := "?"
	if strings.Contains(raw, "?") {
		separator = "&"
	}
	return raw + separator + "log=" + max(2*window, 10*time.Second).String()
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
	sockets, app, err := handlers(h, o, keys, stdout)
	if err != nil {
		return err
	}
	return sockets.Serve(ctx, ln, app, h, transport.ServeOptions{})
}

func handlers(h *hub.Hub, o options, keys *token.Keyring, stdout io.Writer) (*transport.Handler, http.Handler, error) {
	if o.engine {
		o.transport.Path = "/engine.io/"
		echo, err := transport.NewHandler(engine.AttachFunc(echoEngine), o.transport)
		return echo, echo, err
	}
	list, err := revoke.New(h, revoke.Options{Logger: o.hub.Logger})
	if err != nil {
		return nil, nil, err
	}
	if err := watch(h, o, stdout); err != nil {
		return nil, nil, err
	}
	if o.suite {
		conformance.InstallSuite(h)
	} else {
		conformance.Install(h, conformance.Options{Keys: keys, List: list})
	}
	link, err := relay.New(h.Emitter().Cluster(), relay.Options{Peer: o.peer, Keys: o.hub.Key})
	if err != nil {
		return nil, nil, err
	}
	o.transport.Relay = link
	sockets, err := transport.NewHandler(h, o.transport)
	if err != nil {
		return nil, nil, err
	}
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", sockets)
	mux.Handle(relay.Path, link)
	mux.Handle("/", conformance.Endpoints(h, list))
	return sockets, mux, nil
}

// watch writes down when a user's first device comes, and when the last one goes: on one node of the cluster.
func watch(h *hub.Hub, o options, stdout io.Writer) error {
	if o.grace == 0 {
		o.grace = -1
	}
	_, err := presence.New(h, presence.Options{Grace: o.grace, Logger: o.hub.Logger, OnChange: func(_ context.Context, e presence.Event) {
		what := "offline"
		if e.Online {
			what = "online"
		}
		fmt.Fprintf(stdout, "%s %s\n", what, e.User.Name()) // one write, so that lines stay whole
	}})
	return err
}
