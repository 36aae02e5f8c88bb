package metrics

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"tether/broker/memory"
	"tether/hub"
	"tether/transport"
)

// TestEventsOfClientsAreCountedByName, if a handler is for the name, and the first 200.
func TestEventsOfClientsAreCountedByName(t *testing.T) {
	t.Parallel()
	s := serve(t, memory.NewBus().Broker(), transport.Options{}, withPresence(t))
	root := s.hub.Of("/")
	root.On("/orders", func(context.Context, *hub.Socket, *hub.Message) error { return nil })
	root.OnAny(func(context.Context, *hub.Socket, *hub.Message) error { return nil })
	c := s.dial(t)
	for _, name := range []string{"/orders", "a client's own", "/orders"} {
		if err := c.Emit(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	s.want(t, `tether_events_received_total{event="/orders",namespace="/"} 2.0`, `socket_io_events_received_total 3.0`,
		`tether_users 1.0`, `tether_presence_changes_total{to="online"} 1.0`, `tether_presence_changes_total{to="offline"} 0.0`)
	if text := s.text(t); strings.Contains(text, "a client's own") {
		t.Errorf("a name that a client has made up is a label:\n%s", text)
	}
	c.Close()
	s.want(t, `tether_users 0.0`, `tether_presence_changes_total{to="offline"} 1.0`)

	var e events
	for i := range maxEvents + 2 {
		for range 2 {
			e.count(handled{"/", fmt.Sprint(i)})
		}
	}
	shown, others := 0, 0.0
	e.show(func(v float64, labels ...string) {
		if labels[0] == "other" {
			others = v
		} else if shown++; v != 2 {
			t.Errorf("%v of %v", v, labels)
		}
	})
	if shown != maxEvents || others != 4 {
		t.Errorf("%d events have labels, %v have none; want %d and 4", shown, others, maxEvents)
	}
}
