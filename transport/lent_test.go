package transport

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"tether/broker/memory"
	"tether/hub"
)

// TestWhatASlowClientGetsIsWhatWasEmitted has events, whose memory is used again as soon as Emit returns,
// wait for a client: in part, and as a whole.
func TestWhatASlowClientGetsIsWhatWasEmitted(t *testing.T) {
	const events, size = 40, 40_000
	for _, epoll := range []bool{false, true} {
		b := memory.NewBus().Broker()
		defer b.Close()
		h, err := hub.New(b, hub.Options{DrainWindow: -1, Greeting: hub.Greeting{Off: true}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ran := background(t, func() error { return h.Run(ctx) })
		sockets := make(chan *hub.Socket, 1)
		h.Of("/").OnConnect(func(_ context.Context, s *hub.Socket) error {
			sockets <- s
			return s.Join(ctx, "room")
		})
		s := serveWith(t, func(c hub.Conn, r *http.Request) (Receiver, error) { return h.Attach(c, r) },
			Options{Epoll: epoll, QueueBytes: 2 * events * size})
		c := s.websocket()
		c.send("40")
		if got := c.text(); !strings.HasPrefix(got, "40") {
			t.Fatalf("got %q, want the answer to CONNECT", got)
		}
		if err := receive(t, sockets).Wait(ctx); err != nil { // until nothing is held any more
			t.Fatal(err)
		}
		text := func(i int) string { return fmt.Sprintf("%02d", i) + strings.Repeat(string(rune('a'+i%26)), size) }
		e := h.Emitter()
		for i := range events {
			e = e.Local()
			if i%2 == 0 {
				e = h.Emitter()
			}
			if _, err := e.Emit(ctx, "room", "m", text(i)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range events {
			c.wantText(`42["m","` + text(i) + `"]`)
		}
		cancel()
		if err := ran(); err != nil {
			t.Error(err)
		}
	}
}
