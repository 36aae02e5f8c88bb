package main

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"tether/broker/drivers"
	"tether/examples/server/internal/client"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/deptest"
	"tether/transport"
)

func TestTheWorkerSaysWhetherTheUserIsThere(t *testing.T) {
	url := backend.Redis(t).URL
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	b, err := drivers.Mux().Open(ctx, url)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	var out strings.Builder
	if err := run(ctx, &out, url, t.Name(), "42", time.Millisecond, 2); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "report 1: user 42 is offline, send a mail\nreport 2: user 42 is offline, send a mail\n"; got != want {
		t.Errorf("got %s", got)
	}

	// A node that has somebody in user 42's room.
	h, err := hub.New(b, hub.Options{Prefix: t.Name(), DrainWindow: -1})
	if err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- h.Run(serving) }()
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "42") })
	sockets := transport.NewHandler(h, transport.Options{})
	defer sockets.Close()
	server := httptest.NewServer(sockets)
	defer server.Close()
	c, err := client.Dial(ctx, client.Options{URL: server.URL})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	out.Reset()
	if err := run(ctx, &out, url, t.Name(), "42", time.Millisecond, 1); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "report 1: 1 node took it\n"; got != want {
		t.Errorf("got %s", got)
	}
}

func TestTheWorkerLinksNoServer(t *testing.T) {
	const why = "a worker has no clients"
	deptest.Forbid(t, "tether/examples/server/recipes/worker", map[string]string{"tether/transport": why, "github.com/lxzan/gws": why})
}
