package interop

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"tether/hub"
)

// fire is a namespace that emits numbers to each socket from its connect on until it has been on
// WebSocket for a while, and checks the numbers that come from it.
type fire struct {
	emitting sync.WaitGroup
	t        *testing.T
	pause    time.Duration // between two to the room
}

const (
	afterSwap = 100 // numbers that are emitted after the upgrade
	upward    = 300 // numbers from the client
)

// counter checks numbers from one client. Events of one socket are handled one after the other.
type counter struct {
	next  int
	wrong string
}

func (f *fire) install(h *hub.Hub) {
	ns := h.Of("/fire")
	ns.OnConnect(func(ctx context.Context, s *hub.Socket) error {
		s.SetData(&counter{})
		if err := s.Join(ctx, hub.Room("fire")); err != nil {
			return err
		}
		f.emitting.Go(func() { f.emit(s) }) // the test waits
		return nil
	})
	ns.On("up", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		c := s.Data().(*counter)
		var i int
		if err := m.Bind(&i); err != nil {
			return err
		}
		if i != c.next && c.wrong == "" {
			c.wrong = fmt.Sprintf("got %d, want %d", i, c.next)
		}
		c.next++
		return nil
	})
	ns.On("check", func(_ context.Context, s *hub.Socket, m *hub.Message) error {
		c := s.Data().(*counter)
		return m.Ack(c.next, c.wrong)
	})
}

func (f *fire) emit(s *hub.Socket) {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	total, swapped := 0, -1
	for late := time.After(patience); swapped < 0 || total < swapped+afterSwap; {
		select {
		case <-tick.C:
		case <-late:
			f.t.Error("a client does not upgrade")
			return
		}
		for range 2 {
			if err := s.Emit("seq", total); err != nil {
				f.t.Errorf("emit %d: %v", total, err)
				return
			}
			total++
		}
		if swapped < 0 && s.Transport() == "websocket" {
			swapped = total
		}
	}
	if err := s.Emit("end", total); err != nil {
		f.t.Errorf("emit the end: %v", err)
	}
}

// broadcast emits numbers to the room until ctx is done.
func (f *fire) broadcast(ctx context.Context, h *hub.Hub) {
	tick := time.NewTicker(f.pause)
	defer tick.Stop()
	for i := 0; ; i++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if _, err := h.Of("/fire").Emitter().Emit(context.Background(), hub.Room("fire"), "room", i, hub.Binary{byte(i)}); err != nil {
			f.t.Errorf("emit %d to the room: %v", i, err)
		}
	}
}

func TestNothingIsLostDoubledOrReorderedWhileClientsUpgrade(t *testing.T) {
	t.Parallel()
	const clients = 25
	someWays(t, func(*kind) bool { return true }, []string{"default"}, func(t *testing.T, w way) {
		f := &fire{t: t, pause: 5 * time.Millisecond}
		if !w.js {
			f.pause *= 4 // one process of Python is all clients, and has to keep up with 25 copies
		}
		n := serve(t, setup{install: f.install})
		ctx, cancel := context.WithCancel(t.Context())
		var emitter sync.WaitGroup
		emitter.Go(func() { f.broadcast(ctx, n.hub) }) // waited for below
		defer emitter.Wait()
		defer cancel()
		defer f.emitting.Wait()

		all := make([]*client, clients)
		var bursts sync.WaitGroup
		for i := range all {
			c := w.dial(t, n, "/fire", nil)
			all[i] = c
			bursts.Go(func() { // waited for below
				if w.js { // it sends what is emitted before the connect as soon as it can
					c.d.do(t, map[string]any{"do": "burst", "client": c.name, "event": "up", "n": upward})
				}
			})
		}
		for _, c := range all {
			c.on(t, "connect")
		}
		bursts.Wait()
		for _, c := range all {
			checkFire(t, c)
			if !w.js {
				c.d.must(t, map[string]any{"do": "burst", "client": c.name, "event": "up", "n": upward})
			}
			if got, want := fmt.Sprint(c.call(t, "check")), fmt.Sprint([]any{upward, ""}); got != want {
				t.Errorf("%s: the server got %s, want %s", c.name, got, want)
			}
		}
	})
}

// checkFire takes events up to the end. Those to the room may begin anywhere.
func checkFire(t *testing.T, c *client) {
	t.Helper()
	seq, room := 0, -1
	for {
		l := c.next(t)
		number := -1
		if len(l.Args) > 0 {
			if f, ok := l.Args[0].(float64); ok {
				number = int(f)
			}
		}
		switch l.Event {
		case "seq":
			if number != seq {
				t.Fatalf("%s: got %v, want number %d", c.name, l, seq)
			}
			seq++
		case "room":
			if room >= 0 && number != room+1 || len(l.Args) != 2 || !equalJSON(l.Args[1], bin(byte(number))) {
				t.Fatalf("%s: got %v, want number %d", c.name, l, room+1)
			}
			room = number
		case "end":
			if number != seq {
				t.Fatalf("%s: got %d numbers, want %d", c.name, seq, number)
			}
			return
		default:
			t.Fatalf("%s: got %v", c.name, l)
		}
	}
}

func equalJSON(a, b any) bool {
	x, errX := json.Marshal(a)
	y, errY := json.Marshal(b)
	return errX == nil && errY == nil && string(x) == string(y)
}
