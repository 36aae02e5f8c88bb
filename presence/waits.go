package presence

import (
	"slices"
	"time"

	"tether/hub"
)

// awaited is a session that waits on this node for its client. It waits for each user whose device its socket was, also if
// that user is taken away meanwhile: so one that was told to have gone is told to have expired.
type awaited struct {
	socket *hub.Socket
	of     []*holding
}

// waitLocked notes that the session of a socket waits.
func (p *Presence) waitLocked(key string, s *hub.Socket, since time.Time) {
	w := p.waits[s.ID()]
	if w == nil {
		w = &awaited{socket: s} // the next one of the session may be lost before this one is told to be over
		p.waits[s.ID()] = w
	}
	if !slices.Contains(w.of, p.holdings[key]) {
		w.of = append(w.of, p.holdLocked(key, held{socket: w.socket, since: since.UnixNano(), flags: deviceWaits | deviceTold}))
	}
}

// overLocked looks whether the session of a socket has waited. Then its client is back, here or on another node, or will not
// come.
func (p *Presence) overLocked(s *hub.Socket) {
	if len(p.waits) == 0 {
		return
	}
	id := s.ID()
	w := p.waits[id]
	if w == nil {
		return
	}
	_, _, kept, why := w.socket.Registered(hub.Target{})
	if kept && !w.socket.Connected() {
		return
	}
	delete(p.waits, id)
	for _, h := range w.of {
		p.letGoLocked(h, slices.IndexFunc(h.devices, func(d held) bool {
			return d.socket == w.socket && d.is(deviceWaits) && !d.is(deviceGone)
		}), why)
	}
}
