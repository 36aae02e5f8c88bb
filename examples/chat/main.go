// Chat is rooms: clients join and leave them, and what somebody says reaches everyone who is in the
// room, on whichever node. Everyone sees who is there, and who is typing. Run it twice with different addresses and one broker to see the latter.
package main

import (
	"context"
	_ "embed"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"

	"tether/broker/drivers"
	"tether/clientjs"
	"tether/examples/internal/serve"
	"tether/hub"
	"tether/transport"
)

//go:embed index.html
var page []byte

func main() {
	serve.Main("chat", func(ctx context.Context) error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) })
}

const usage = `Chat serves a page with rooms: clients join and leave them, and what somebody says reaches
everyone in the room, on whichever node, and all see who is there and who is typing. Open it in two windows. Over Redis or NATS, run it twice:

  go run ./examples/chat -broker redis://127.0.0.1:6379
  go run ./examples/chat -broker redis://127.0.0.1:6379 -addr 127.0.0.1:3001
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("chat", flag.ContinueOnError)
	addr := f.String("addr", "127.0.0.1:3000", "`address` to listen on")
	brokerURL := f.String("broker", "memory://", "`URL` of the broker: memory://, redis://, rediss://, nats://")
	if ok, err := serve.Parse(f, usage, args, stderr); !ok {
		return err
	}

	ln, err := serve.Listen(*addr)
	if err != nil {
		return err
	}
	defer ln.Close()
	b, err := drivers.Mux().Open(ctx, *brokerURL)
	if err != nil {
		return err
	}
	defer b.Close()

	h, err := newHub(b, hub.Options{
		Logger: slog.New(slog.NewTextHandler(stderr, nil)),
		OnStart: func(context.Context, *hub.Hub) error {
			_, err := fmt.Fprintf(stdout, "listening on http://%s\n", ln.Addr())
			return err
		},
	})
	if err != nil {
		return err
	}

	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		return err
	}
	app := http.NewServeMux()
	app.Handle("/socket.io/", sockets)
	app.Handle("GET /socket.io.min.js", clientjs.Handler())
	app.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Write(page)
	})
	return sockets.Serve(ctx, ln, app, h, transport.ServeOptions{})
}
