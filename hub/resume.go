package hub

import (
	"context"
	"errors"
	"slices"
	"time"

	"tether/broker"
)

// Recovered reports whether the socket has come back: it has the ID, the rooms and the data of a socket whose
// connection was lost, and its client gets every event that it does not have. It is known when the middleware and
// the connect hooks run, which may refuse the socket all the same; one of them that registers a user whom the
// socket was not registered for, or has it leave one, ends the session, and the client connects as a new one. A hook that
// does not know whose the client is should have it leave all its [Socket.Users]: else it stays theirs. Of a socket whose client has been
// told that it is back, nothing is missing, unless the client is disconnected again at once: see Options.OnGap.
func (s *Socket) Recovered() bool {
	v := s.sessionOf()
	if v == nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return v.holder.Load() == s && v.taken
}

// admitAgain is admit for a socket whose client may come back, or comes back.
func (s *Socket) admitAgain(ctx context.Context, w *wish) error {
	if err := s.resume(ctx, w); err != nil {
		return err
	}
	if !s.Recovered() {
		if err := s.start(ctx); err != nil {
			return err
		}
		if err := s.admit(ctx); err != nil {
			return err
		}
		return s.record(ctx)
	}
	before := s.Users()
	if s.client.hub.options.Devices.Max > 0 {
		for _, user := range before {
			if err := s.readmit(ctx, user); err != nil {
				return err
			}
		}
	}
	if err := s.admit(ctx); err != nil {
		return err
	}
	if s.foreign(before) {
		return errForeign
	}
	if s.isGuest() {
		return s.fetch(ctx)
	}
	if err := *s.client.hub.state.Load(); err != nil && !errors.Is(err, broker.ErrPart) {
		return errLost // what this node has is not all, and when the broker is back a gap says so
	}
	return nil
}

// errForeign says that the hooks have registered another user, or none any more.
var errForeign = errors.New("hub: the client has come back as another user: it does not get the session")

// isGuest reports whether another node still has the session.
func (s *Socket) isGuest() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessionLocked().home != ""
}

// readmit is what the limit on devices says of a user's socket that has come back: while it was away it did not count.
func (s *Socket) readmit(ctx context.Context, user Target) error {
	h := s.client.hub
	c := h.devices.open(s, s.ns.subject+user.name, h.options.Time().UnixNano())
	defer h.devices.close(c)
	return h.devices.admit(ctx, h, c)
}

// leftLimit is how long a socket that comes back waits for the disconnect hooks of the socket that it was.
const leftLimit = time.Second

// errGone says that a socket that was to come back has ended meanwhile.
var errGone = errors.New("hub: the connection has ended")

// resume gives the socket, which is connecting, the session that its client wants back, or a new one.
func (s *Socket) resume(ctx context.Context, w *wish) error {
	h := s.client.hub
	why := lossNone
	if w.pid != "" {
		err := h.awaitLive(ctx) // other nodes may have to be asked
		if err != nil {
			return err
		}
		if why, err = s.take(ctx, w); err != nil {
			return err
		}
		if why == lossNone {
			return s.awaitHooks(ctx)
		}
	}
	s.begin(w.offset)
	if why != lossNone {
		h.counters.unrecovered[why].Add(1)
		h.log.Debug("a client does not get its session back", "socket", s.ID(), "reason", lossText[why])
	}
	return nil
}

// awaitHooks waits until the disconnect hooks of the socket before have run, so that an application that keeps
// something under the ID of a socket does not lose it. It does not wait for long.
func (s *Socket) awaitHooks(ctx context.Context) error {
	v := s.sessionOf()
	holder := v.lockHolder()
	left := v.left
	holder.mu.Unlock()
	if left == nil {
		return nil
	}
	limit := time.NewTimer(leftLimit)
	defer limit.Stop()
	select {
	case <-left:
	case <-limit.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}

// take finds the session and takes it over, from a socket that waits or from one whose connection seems to be alive,
// on this node or on another.
func (s *Socket) take(ctx context.Context, w *wish) (loss, error) {
	tag, place, secret, ok := parsePID(w.pid)
	if !ok {
		return lossUnknown, nil
	}
	h, k := s.client.hub, keyOf(tag, place, secret)
	asking, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	for {
		at, why, err := s.takeHere(w, k, secret)
		if at == "" {
			return why, err
		}
		why, again, err := s.takeFrom(asking, w, k, at)
		if again {
			continue
		}
		if errors.Is(err, errSilent) {
			if err = nil; h.kept != nil {
				why, err = s.inherit(ctx, w, k)
			}
		}
		if err == nil {
			err = ctx.Err()
		}
		return why, err
	}
}

// takeHere takes the session over from a socket of this node, or returns the tag of the node that may have it.
func (s *Socket) takeHere(w *wish, k key, secret []byte) (at string, why loss, err error) {
	h := s.client.hub
	for {
		o := h.holder(k)
		if o == nil {
			break
		}
		v := o.sessionOf()
		if o.ns != s.ns || !v.is(secret) {
			return "", lossUnknown, nil
		}
		why, at, done, err := o.handOver(s, v, w.offset)
		if err != nil || at != "" || done {
			return at, why, err
		}
	}
	if why = h.lapsed.whyOf(k.hash); why != lossUnknown {
		return "", why, nil
	}
	if at = h.departed.to(k.hash); at == "" && k.tag != h.tag {
		at = k.tag
	}
	return at, why, nil
}

// handOver has the session go from s to n, which is connecting. It reports false if it has to be looked for again.
// What cannot be recovered ends. At is the tag of another node that has the session.
func (s *Socket) handOver(n *Socket, v *session, offset string) (why loss, at string, done bool, err error) {
	s.mu.Lock()
	was := s.gate.State()
	if was >= stateMoved || v.holder.Load() != s {
		s.mu.Unlock()
		return lossNone, "", false, nil
	}
	if at := v.elsewhere(); at != "" { // it was about to come, or has gone
		coming := v.home != ""
		s.mu.Unlock()
		if coming {
			s.conn.Close(ReasonServerClose)
		}
		return lossNone, at, true, nil
	}
	from, why := v.missingLocked(offset)
	if was != stateParked && s.extra.acks != nil && len(s.extra.acks.waiting) > 0 {
		why = lossQuestion
	}
	if why != lossNone {
		v.why, v.away = why, v.away || connected(was)
		s.mu.Unlock()
		s.leave(ReasonTransportClose)
		s.conn.Close(ReasonServerClose)
		return why, "", true, nil
	}
	n.mu.Lock()
	if n.gate.State() != stateConnecting {
		n.mu.Unlock()
		s.mu.Unlock()
		return lossNone, "", true, errGone
	}
	var left chan struct{}
	if connected(was) {
		left = make(chan struct{})
		v.away, v.since, v.left = true, time.Now(), left
	}
	v.from, v.taken, v.given, v.claim = from, true, false, 0
	s.passLocked(n, v)
	admission := s.awayLocked(was, stateMoved)
	n.mu.Unlock()
	s.mu.Unlock()
	s.passed(was, admission, left)
	return lossNone, "", true, nil
}

// passLocked gives n what s is to the application and to the others. Both are locked.
func (s *Socket) passLocked(n *Socket, v *session) {
	h := s.client.hub
	n.rareLocked().session = v
	n.extra.data = s.extra.data
	n.place, n.nonce = s.place, s.nonce
	h.sockets.put(n.place, n)
	if s.named {
		h.guests.add(n, v)
	}
	for _, m := range s.rooms {
		n.addLocked(m)
		h.index.replace(m, n)
	}
	v.log.Move(&n.gate)
	v.holder.Store(n)
}

// passed is what has to be done when a socket has passed its session on.
func (s *Socket) passed(was uint32, admission *admission, left chan struct{}) {
	h := s.client.hub
	h.expiry.unset(s)
	h.parked.unset(s)
	h.release(s.ns)
	if was == stateParked {
		return
	}
	s.gone(was, admission)
	if connected(was) {
		s.client.enqueue(task{socket: s, reason: ReasonTransportClose, done: left})
	}
	s.conn.Close(ReasonServerClose)
}

// foreign reports whether a recovered socket has other users, when its hooks have run, than before.
func (s *Socket) foreign(before []Target) bool {
	now := s.Users()
	return len(now) != len(before) || slices.ContainsFunc(now, func(u Target) bool { return !slices.Contains(before, u) })
}
