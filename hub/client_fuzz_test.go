package hub

import (
	"bytes"
	"context"
	"runtime"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/internal/socketio"
)

// A client that sends anything, in any order, ends its own connection at worst. Each line of the
// input is one message: after "%" a binary one, otherwise text. "." waits for what has been asked for.
func FuzzClient(f *testing.F) {
	h, err := New(memory.NewBus().Broker(), Options{DrainWindow: -1})
	if err != nil {
		f.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { // the cleanup waits for it
		defer close(ended)
		h.Run(ctx)
	}()
	f.Cleanup(func() { cancel(); <-ended })
	for _, name := range []string{"/", "/a"} {
		n := h.Of(name)
		n.OnConnect(func(ctx context.Context, s *Socket) error { return s.Join(ctx, Room("room")) })
		n.OnAny(func(ctx context.Context, s *Socket, m *Message) error {
			var v any
			for i := range m.Len() {
				if err := m.Decode(i, &v); err != nil && m.Event() != "big" {
					continue // 1e999
				}
			}
			if err := s.Emit("back", m.Args()...); err != nil {
				return err
			}
			return m.Ack(m.Args()...)
		})
		n.On("bye", func(_ context.Context, s *Socket, _ *Message) error { s.Disconnect(false); return nil })
		n.On("leave", func(_ context.Context, s *Socket, _ *Message) error { s.Leave(Room("room")); return nil })
	}
	h.Match(func(name string) bool { return len(name) > 4 })

	f.Add([]byte("0\n.\n2[\"x\"]\n21[\"x\",1]\n.\n1"))
	f.Add([]byte("0/a,{\"t\":1}\n.\n51-/a,[\"x\",{\"_placeholder\":true,\"num\":0}]\n%\x00\x01\n.\n1/a,\n0/a,"))
	f.Add([]byte("0\n.\n2[\"bye\"]\n.\n2[\"x\"]\n0\n.\n30[]\n"))
	f.Add([]byte("0/dynamic\n1/dynamic\n0/dynamic\n.\n2/dynamic,[\"leave\"]"))
	f.Add([]byte("0\n0"))
	f.Add([]byte("52-[\"x\"]\n%\n%"))
	f.Fuzz(func(t *testing.T, input []byte) {
		w := newWire()
		c, err := h.attach(w, bareRequest())
		if err != nil {
			t.Fatal(err)
		}
		w.client = c
		for i, line := range bytes.Split(input, []byte("\n")) {
			if i == 64 || w.closedFor() != "" {
				break
			}
			switch {
			case string(line) == ".":
				settled(t, c)
			case len(line) > 0 && line[0] == '%':
				err = c.Binary(line[1:])
			default:
				err = c.Text(line)
			}
			clear(line)
			if err != nil {
				break
			}
		}
		settled(t, c)
		w.Close(ReasonParseError)
		<-w.ended
		for len(w.packets) > 0 {
			p := <-w.packets
			packet, err := socketio.Parse(p.Text()[1:], socketio.Limits{})
			if err != nil || packet.Attachments != p.Attachments() {
				t.Errorf("client was sent %q with %d attachments: %v", p.Text(), p.Attachments(), err)
			}
		}
		if s := h.Stats(); s.Connections != 0 || s.Panics != 0 {
			t.Errorf("%+v", s)
		}
	})
}

// settled waits until the connection has no hook and no event under way.
func settled(t *testing.T, c *client) {
	for deadline := time.Now().Add(patience); ; runtime.Gosched() {
		c.mu.Lock()
		busy := c.inbox != nil
		for s := c.sockets; s != nil; s = s.next {
			busy = busy || s.gate.State() != stateConnected
		}
		c.mu.Unlock()
		if !busy {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("hooks or handlers did not end")
		}
	}
}
