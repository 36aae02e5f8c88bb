// Auth is the way of a user's identity: from the login, through a token that the browser fetches, to
// the hub, which ends the connection when the token expires and no new one has come.
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
	"time"

	"tether/broker/drivers"
	"tether/examples/internal/serve"
	"tether/hub"
	"tether/refresh"
	"tether/token"
	"tether/transport"
)

//go:embed index.html
var page []byte

func main() {
	serve.Main("auth", func(ctx context.Context) error { return run(ctx, os.Args[1:], os.Stdout, os.Stderr) })
}

const usage = `Auth serves a page with a login: alice or bob, password "secret". The page fetches an encrypted
token and connects with it, and brings a new one before it expires; otherwise the hub ends the connection then. With -cookie the
session cookie of the login says who it is, and no token is needed.

The key of the tokens is TOKEN_KEY, and one for this process if that is not set; OLD_TOKEN_KEY opens
older ones.
`

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	f := flag.NewFlagSet("auth", flag.ContinueOnError)
	addr := f.String("addr", "127.0.0.1:3000", "`address` to listen on")
	brokerURL := f.String("broker", "memory://", "`URL` of the broker: memory://, redis://, rediss://, nats://")
	ttl := f.Duration("ttl", 10*time.Minute, "life of a token, and so of a connection that brings no new one")
	byCookie := f.Bool("cookie", false, "know users by the session cookie instead of a token")
	if ok, err := serve.Parse(f, usage, args, stderr); !ok {
		return err
	}
	keys, err := loadKeys(os.Getenv("TOKEN_KEY"), os.Getenv("OLD_TOKEN_KEY"))
	if err != nil {
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

	h, err := hub.New(b, hub.Options{
		ExpiryNotice: min(time.Minute, *ttl/2),
		Logger:       slog.New(slog.NewTextHandler(stderr, nil)),
		OnStart: func(context.Context, *hub.Hub) error {
			_, err := fmt.Fprintf(stdout, "listening on http://%s; log in as alice or bob, password \"secret\"\n", ln.Addr())
			return err
		},
	})
	if err != nil {
		return err
	}
	s := &site{keys: keys, ttl: *ttl, emitter: h.Emitter(), sessions: map[string]string{}}
	if *byCookie {
		h.Of("/").OnConnect(s.connectByCookie)
	} else {
		h.Of("/").OnConnect(s.connect)
		tokens, err := refresh.New(h, refresh.Options{Open: s.open})
		if err != nil {
			return err
		}
		h.Of("/").On(refresh.Event, tokens.Handle)
	}

	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		return err
	}
	app := http.NewServeMux()
	app.Handle("/socket.io/", sockets)
	s.mount(app)
	return sockets.Serve(ctx, ln, app, h, transport.ServeOptions{})
}

// loadKeys makes the keyring of the key that seals and the one that sealed before it, if there is
// one. Every node of the application has the same. Without a key it makes one for this process.
func loadKeys(current, legacy string) (*token.Keyring, error) {
	if current == "" {
		current = token.GenerateKey()
	}
	key, err := token.NewKey(current)
	if err != nil {
		return nil, fmt.Errorf("TOKEN_KEY: %w", err)
	}
	if legacy == "" {
		return token.NewKeyring(key), nil
	}
	old, err := token.NewKey(legacy)
	if err != nil {
		return nil, fmt.Errorf("OLD_TOKEN_KEY: %w", err)
	}
	return token.NewKeyring(key, old), nil
}
