package sim

import (
	"context"
	"log/slog"
	"slices"
	"sync"

	"tether/hub"
	"tether/presence"
)

// ends is what was told of sessions where no node dies: by presence, of their connections and their ends.
type ends struct {
	mu   sync.Mutex
	told map[string][]string // guarded by mu; by socket ID
	ids  map[string]bool     // guarded by mu
}

// attend gives a node its presence.
func (e *ends) attend(n *recoveringNode) error {
	_, err := presence.New(n.hub, presence.Options{
		Grace: -1, Logger: slog.New(slog.DiscardHandler),
		OnDevice: func(_ context.Context, d presence.DeviceEvent) {
			e.mu.Lock()
			defer e.mu.Unlock()
			what := "connect"
			switch {
			case d.Expired != "":
				what = string(d.Expired)
			case d.Gone:
				what = "disconnect"
			}
			n.w.note("%s tells %s of %s", n.name, what, d.Socket)
			if e.ids[d.ID] {
				n.w.violate("%s tells %s of %s, which was told before: %s", n.name, what, d.Socket, d.ID)
			}
			e.ids[d.ID] = true
			e.told[d.Socket] = append(e.told[d.Socket], what)
		},
	})
	return err
}

// inspect looks at a session when everybody has gone: each connection has an end, and behind all comes what the hub has said of
// the session; if it has moved, one of the nodes may be heard late. What is from the time before anybody decides may not be told.
func (e *ends) inspect(a *account, why hub.Reason) {
	e.mu.Lock()
	defer e.mu.Unlock()
	told := e.told[a.sid]
	if len(told) == 0 || a.visits[0].from.at.Sub(a.w.began) < 2*crowdNew {
		return
	}
	moved := slices.ContainsFunc(a.visits, func(v *visit) bool { return v.node != a.visits[0].node })
	open, last := 0, ""
	for _, what := range told {
		if last != "" && (!moved || what != "connect" && what != "disconnect") {
			a.w.violate("%v: %s is told after its end", a, what)
		}
		switch {
		case what == "connect":
			open++
		case what == "disconnect":
			open--
		default:
			last = what
		}
	}
	if open != 0 || last != string(why) {
		a.w.violate("%v has ended (%q), and was told of: %q", a, why, told)
	}
}
