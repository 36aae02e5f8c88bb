package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"tether/broker/drivers"
	"tether/examples/internal/exampletest"
	"tether/examples/internal/serve"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/long"
	"tether/transport"
)

// serveUsers serves a hub that takes a client's word for who it is, and prints its address.
func serveUsers(ctx context.Context, args []string, stdout, _ io.Writer) error {
	b, err := drivers.Mux().Open(ctx, args[0])
	if err != nil {
		return err
	}
	defer b.Close()
	ln, err := serve.Listen("127.0.0.1:0")
	if err != nil {
		return err
	}
	defer ln.Close()
	h, err := hub.New(b, hub.Options{
		Greeting:    hub.Greeting{Off: true},
		DrainWindow: -1,
		OnStart: func(context.Context, *hub.Hub) error {
			_, err := io.WriteString(stdout, "http://"+ln.Addr().String())
			return err
		},
	})
	if err != nil {
		return err
	}
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error {
		return s.Register(ctx, s.Handshake().Query.Get("user"))
	})
	sockets, err := transport.NewHandler(h, transport.Options{})
	if err != nil {
		return err
	}
	app := http.NewServeMux()
	app.Handle("/socket.io/", sockets)
	return sockets.Serve(ctx, ln, app, h, transport.ServeOptions{})
}

func TestTheWorkerReachesUsersOfAHub(t *testing.T) {
	for name, server := range map[string]*backend.Server{"redis": backend.Redis(t), "nats": backend.NATS(t)} {
		t.Run(name, func(t *testing.T) {
			base, _ := exampletest.Start(t, serveUsers, server.URL)
			alice := exampletest.ConnectQuery(t, base, "user=alice")
			alice.Want(`40{"sid":"…`)

			var out strings.Builder
			if err := run(t.Context(), []string{"-broker", server.URL, "-hello", "you", "alice", "bob"}, &out, t.Output()); err != nil {
				t.Fatal(err)
			}
			want := "alice: 1 node took it\nbob: nobody is there\nbob: gets a mail instead\n"
			if got := strings.ReplaceAll(out.String(), "1 node or more took it", "1 node took it"); got != want && !late(name, got) {
				t.Errorf("printed %q, want %q", got, want)
			}
			alice.Want(`42["/users/ping",{"hello":"you","sent":"…`)
		})
	}
}

// late reports whether NATS has not answered within a second, as on a machine that has other work.
func late(broker, printed string) bool {
	return broker == "nats" && strings.Contains(printed, "the broker cannot tell") && long.Limit(time.Second) > time.Second
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	for _, args := range [][]string{{}, {"-nope"}, {"-broker", "redos://x", "alice"}, {"-broker", "redis://user:secret@[", "alice"}} {
		err := run(t.Context(), args, io.Discard, io.Discard)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", args, err)
		}
	}
}

func TestHelpTeaches(t *testing.T) {
	var help strings.Builder
	if err := run(t.Context(), []string{"-h"}, io.Discard, &help); err != nil || !strings.Contains(help.String(), "examples/quickstart -broker") {
		t.Errorf("%v:\n%s", err, &help)
	}
}
