package hub

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"tether/engine"
)

// takeFrom gives s, which is connecting, a session that another node has. Again says that it is coming to this one.
func (s *Socket) takeFrom(ctx context.Context, w *wish, k key, at string) (why loss, again bool, err error) {
	h := s.client.hub
	claim := 1 + rand.Uint64N(math.MaxUint64)
	body := k.question(sessionClaim, h.tag, claim, appendText(nil, s.ns.name), appendText(nil, w.offset))
	for range maxHops {
		answer, err := h.askSession(ctx, at, body)
		switch {
		case err != nil:
			return lossNode, false, err
		case answer == nil && at != "" && h.kept == nil && h.maySearch(): // else the broker knows
			at = "" // that node is gone: perhaps it has passed the session on
			continue
		case answer == nil || at == "" && answer[0] == byte(lossUnknown):
			return lossNode, false, errSilent
		case answer[0] == sessionMoved:
			if at = string(answer[1:]); at != h.tag {
				continue
			}
			if h.holder(k) == nil {
				return h.lapsed.whyOf(k.hash), false, nil
			}
			pause(ctx, hopPause)
			return lossNode, ctx.Err() == nil, nil
		case answer[0] != sessionHere:
			return loss(min(answer[0], byte(losses)-1)), false, nil
		}
		c, ok := parseOffer(answer[1:])
		if !ok {
			h.count(errEnvelopeMalformed)
			return lossNode, false, nil
		}
		data, err := h.revive(c.data)
		if err != nil {
			h.log.Error("data of a socket that comes from another node cannot be decoded", "socket", c.id, "error", err)
			return lossNode, false, nil
		}
		return lossNone, false, s.adopt(ctx, newGuest(s, w, k, claim, c), c, data)
	}
	return lossNode, false, errSilent
}

// errSilent says that no node has said what has become of a session.
var errSilent = errors.New("hub: no node answers for the session")

// maySearch bounds how often all nodes are asked: a client can name any node in a pid.
func (h *Hub) maySearch() bool {
	second := time.Now().Unix()
	if h.searches.second.Swap(second) != second {
		h.searches.n.Store(0)
	}
	return h.searches.n.Add(1) <= searchLimit
}

// newGuest is what s has of a session that another node offers.
func newGuest(s *Socket, w *wish, k key, claim uint64, c offer) *session {
	h := s.client.hub
	_, _, secret, _ := parsePID(w.pid)
	v := &session{
		secret: [secretBytes]byte(secret), begin: w.offset, pid: w.pid, id: c.id, key: k,
		log: engine.NewLog(&s.gate, h.options.Recovery.SessionBytes, h.logs), taken: true, home: c.node, claim: claim,
		moves: c.moves + 1, since: time.Now(),
	}
	v.kept = kept{places: c.places, marks: make(map[string]uint64), was: c.node}
	for _, r := range c.rooms {
		if r.mark != 0 {
			v.kept.marks[r.name] = r.mark
		}
	}
	v.holder.Store(s)
	return v
}

// adopt makes s, which is connecting, what the session was on another node, and holds what comes from then on.
func (s *Socket) adopt(ctx context.Context, v *session, c offer, data any) error {
	h := s.client.hub
	s.mu.Lock()
	if s.gate.State() != stateConnecting {
		s.mu.Unlock()
		return errGone
	}
	s.rareLocked().session = v
	s.extra.data = data
	s.enroll()
	h.guests.add(s, v)
	s.mu.Unlock()
	rooms := []Target{Everyone, SocketID(c.id)}
	for _, r := range c.rooms {
		rooms = append(rooms, targetOf(r.name))
	}
	// All at once: a socket in one of the rooms of a union gets it there, and must not get it through another.
	if _, err := s.joinBefore(ctx, stateParked, 0, rooms); err != nil {
		return err
	}
	for _, r := range c.rooms {
		if r.since != 0 {
			if _, err := s.joinBefore(ctx, stateParked, r.since, []Target{targetOf(r.name)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// revive decodes the data of a socket that comes from another node.
func (h *Hub) revive(data []byte) (any, error) {
	if string(data) == "null" {
		return nil, nil
	}
	if h.options.Recovery.Data == nil {
		return json.RawMessage(data), nil
	}
	v := h.options.Recovery.Data()
	return v, json.Unmarshal(data, v)
}

// fetch gets what the client does not have from the node that had the session, and has that node forget it.
func (s *Socket) fetch(ctx context.Context) error {
	h := s.client.hub
	asking, cancel := context.WithTimeout(ctx, claimTime)
	defer cancel()
	s.mu.Lock()
	v := s.sessionLocked()
	s.mu.Unlock()
	if v.heir != nil {
		return s.succeed(ctx, v)
	}
	answer, _ := h.askSession(asking, v.home, v.key.question(sessionTake, h.tag, v.claim, appendText(nil, v.begin)))
	if len(answer) == 0 || answer[0] != sessionHere {
		return errLost
	}
	entries, seen, ok := parseEntries(answer[1:])
	if !ok {
		h.count(errEnvelopeMalformed)
		return errLost
	}
	if h.kept != nil { // what is held may have to stand between what has come
		if err := h.fence(asking, []string{h.subject}); err != nil {
			return errLost
		}
	}
	s.mu.Lock()
	v.seen.set(seen)
	v.coming = s.gate.State() == stateConnecting && v.log.Prepend(entries, func(e *engine.Entry) bool { return seen[e.Origin] })
	merged := v.coming
	s.mu.Unlock()
	if !merged {
		return errLost
	}
	// Also if the client goes meanwhile: it has to be known then which node has the session.
	passing, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTime)
	defer cancel()
	answer, _ = h.askSession(passing, v.home, v.key.question(sessionDone, h.tag, v.claim))
	has := len(answer) > 0 && answer[0] == sessionHere
	s.mu.Lock()
	v.coming = false
	if has {
		v.home, v.claim = "", 0
		v.away = true // the node before does not tell of its end any more
	}
	s.mu.Unlock()
	if !has {
		s.lapse(lossNode) // if the client has gone meanwhile
		return errLost
	}
	h.remembered.set(s, time.Now().Add(seenTime))
	s.tellRegistered(s.Users()...) // the session waits here
	return s.record(ctx)
}

// tellRefused has the node that has the session end it.
func (h *Hub) tellRefused(home string, k key, claim uint64) {
	ctx, cancel := context.WithTimeout(context.Background(), refuseTime)
	defer cancel()
	_, _ = h.askSession(ctx, home, k.question(sessionRefuse, h.tag, claim))
}
