package hub

import (
	"math"
	"time"

	"tether/engine"
	"tether/internal/socketio"
)

// expiry is which sockets end when, and when their clients are told of it.
type expiry struct {
	ends  deadlines[*Socket]
	tells deadlines[*Socket] // empty without Options.ExpiryNotice
}

func (e *expiry) unset(s *Socket) {
	e.ends.unset(s)
	e.tells.unset(s)
}

// ExpireAt disconnects the socket at t, as Disconnect(false) does: when its token expires, say. The
// time is kept to a quarter of a second. It is one of the wall clock: when that is set, the expiry comes
// earlier or later. The last call counts; the zero time means never. See also Options.ExpiryNotice, and
// package refresh for clients that bring a new token.
//
// A socket whose client may come back, see [Recovery], does not expire while it waits for the client: its connect
// hooks run again then, and look at the token that the client brings.
func (s *Socket) ExpireAt(t time.Time) {
	h := s.client.hub
	if t.IsZero() {
		h.expiry.unset(s)
		return
	}
	t = t.Round(0) // without the monotonic reading that it may have
	h.expiry.ends.set(s, t)
	if notice := h.options.ExpiryNotice; notice > 0 {
		h.expiry.tells.set(s, t.Add(-notice))
	}
	if s.gate.State() >= stateParked {
		h.expiry.unset(s)
	}
}

// sweepExpiry tells clients that their time is nearly over, and ends the sockets whose time is.
func (h *Hub) sweepExpiry(now time.Time) {
	for _, s := range h.expiry.tells.passed(now) {
		if end, ok := h.expiry.ends.when(s); ok && end.After(now) && s.gate.State() < stateParked {
			s.tellExpiry(end.Sub(now))
		}
	}
	for _, s := range h.expiry.ends.passed(now) {
		if s.gate.State() >= stateParked {
			continue
		}
		h.counters.expired.Add(1)
		s.Disconnect(false)
	}
}

func (s *Socket) tellExpiry(left time.Duration) {
	args := []any{struct {
		ExpiresIn int64 `json:"expiresIn"` // seconds
	}{int64(math.Round(left.Seconds()))}}
	// An error here is that the client has gone, or is too slow and goes.
	_ = s.send(socketio.Packet{Type: socketio.Event}, s.client.hub.options.ExpiryEvent, args, engine.Terms{})
}
