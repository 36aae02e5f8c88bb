package transport

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

// onBoth runs f with a server of a hub on each carrier.
func onBoth(t *testing.T, o Options, f func(t *testing.T, h *hub.Hub, join func(room hub.Target) *wsClient)) {
	for _, carrier := range []string{"portable", "epoll"} {
		t.Run(carrier, func(t *testing.T) {
			h := running(t, memory.NewBus().Broker())
			sockets := make(chan *hub.Socket, 1)
			h.Of("/").OnConnect(func(_ context.Context, s *hub.Socket) error {
				sockets <- s
				return nil
			})
			o.Epoll = carrier == "epoll"
			s := serveWith(t, func(c engine.Conn, r *http.Request) (engine.Receiver, error) { return h.Attach(c, r) }, o)
			f(t, h, func(room hub.Target) *wsClient {
				c := s.websocket()
				c.send("40")
				if got := c.text(); !strings.HasPrefix(got, "40") {
					t.Fatalf("got %q, want the answer to CONNECT", got)
				}
				socket := receive(t, sockets)
				if err := socket.Wait(t.Context()); err != nil { // until nothing is held any more
					t.Fatal(err)
				}
				if err := socket.Join(t.Context(), room); err != nil {
					t.Fatal(err)
				}
				return c
			})
		})
	}
}

// TestWhatASlowClientGetsIsWhatWasEmitted has events, whose memory is used again as soon as Emit returns,
// wait for a client: in part, and as a whole.
func TestWhatASlowClientGetsIsWhatWasEmitted(t *testing.T) {
	const events, size = 40, 40_000
	o := Options{QueueBytes: 2 * events * size}
	onBoth(t, o, func(t *testing.T, h *hub.Hub, join func(hub.Target) *wsClient) {
		c := join(hub.Room("room"))
		text := func(i int) string { return fmt.Sprintf("%02d", i) + strings.Repeat(string(rune('a'+i%26)), size) }
		for i := range events {
			e := h.Emitter()
			if i%2 == 1 {
				e = e.Local()
			}
			if _, err := e.Emit(t.Context(), hub.Room("room"), "m", text(i)); err != nil {
				t.Fatal(err)
			}
		}
		for i := range events {
			c.wantText(`42["m","` + text(i) + `"]`)
		}
	})
}

// TestBurstsAreWhatWasEmitted has bursts for two clients in turn, by two emitters, so that the memory of what
// has left one queue is used again for what enters the other while it is being written. All of them fit into a queue.
func TestBurstsAreWhatWasEmitted(t *testing.T) {
	const bursts, burst = 300, 16
	onBoth(t, Options{QueueBytes: 16 << 20}, func(t *testing.T, h *hub.Hub, join func(hub.Target) *wsClient) {
		text := func(room hub.Target, i int) string {
			return fmt.Sprintf("%s%d", room, i) + strings.Repeat(room.Name(), 10+i%500)
		}
		var ends []func() error
		for _, rooms := range [][]hub.Target{{hub.Room("a"), hub.Room("b")}, {hub.Room("c"), hub.Room("d")}} {
			clients := []*wsClient{join(rooms[0]), join(rooms[1])}
			ends = append(ends, background(t, func() error {
				for i := range bursts * burst {
					for _, room := range rooms {
						if _, err := h.Emitter().Emit(t.Context(), room, "m", text(room, i)); err != nil {
							return err
						}
						if i%burst != 0 {
							continue
						}
						for j := 1; j < burst; j++ {
							if _, err := h.Emitter().Emit(t.Context(), room, "n", text(room, j)); err != nil {
								return err
							}
						}
					}
				}
				return nil
			}))
			for k, room := range rooms {
				ends = append(ends, background(t, func() error {
					for i := range bursts * burst {
						want := []string{`42["m","` + text(room, i) + `"]`}
						for j := 1; i%burst == 0 && j < burst; j++ {
							want = append(want, `42["n","`+text(room, j)+`"]`)
						}
						for _, want := range want {
							if _, got, err := clients[k].frame(); err != nil || string(got) != want {
								return fmt.Errorf("room %s, event %d: got %q, %v, want %q", room, i, got, err, want)
							}
						}
					}
					return nil
				}))
			}
		}
		for _, end := range ends {
			if err := end(); err != nil {
				t.Error(err)
			}
		}
	})
}
