package hub

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"slices"
	"strings"
	"time"

	"tether/cluster"
	"tether/engine"
)

// answerSession answers what another node asks about a session.
func (h *Hub) answerSession(ctx context.Context, q *cluster.Request) error {
	b := q.Body
	if len(b) < 1+sha256.Size {
		return errEnvelopeMalformed
	}
	op, k := b[0], key{hash: [sha256.Size]byte(b[1:])}
	tag, b, ok := cutText(b[1+sha256.Size:])
	if !ok {
		return errEnvelopeMalformed
	}
	place, b, ok := cutUvarint(b, noPlace)
	if !ok {
		return errEnvelopeMalformed
	}
	asker, b, ok := cutText(b)
	if !ok || len(b) < 8 {
		return errEnvelopeMalformed
	}
	claim, b := binary.BigEndian.Uint64(b), b[8:]
	k.tag, k.place = string(tag), uint32(place)
	s := h.holder(k)
	if s == nil {
		why := h.lapsed.whyOf(k.hash)
		if to := h.departed.to(k.hash); to != "" && (op == sessionClaim || op == sessionLate) && why == lossUnknown {
			return q.Send(ctx, append([]byte{sessionMoved}, to...))
		}
		return q.Send(ctx, []byte{byte(why)})
	}
	switch op {
	case sessionClaim:
		return q.Send(ctx, s.claimed(ctx, claim, b))
	case sessionTake:
		return q.Send(ctx, s.snapshot(ctx, claim, b))
	case sessionDone:
		return q.Send(ctx, s.handed(string(asker), claim))
	case sessionRefuse:
		if s.claimedLast(claim) {
			s.lapse(lossRefused)
		}
	case sessionLate:
		if to := s.late(ctx, b); to != "" {
			return q.Send(ctx, append([]byte{sessionMoved}, to...))
		}
	case sessionChange:
		return q.Send(ctx, h.changeHere(ctx, s, b))
	}
	return q.Send(ctx, []byte{sessionHere})
}

// claimed says what the session is, and what its socket here was.
func (s *Socket) claimed(ctx context.Context, claim uint64, rest []byte) []byte {
	name, rest, ok := cutText(rest)
	offset, _, fine := cutText(rest)
	if !ok || !fine || s.ns.name != string(name) {
		return []byte{byte(lossUnknown)}
	}
	h, v := s.client.hub, s.sessionOf()
	s = v.lockHolder()
	elsewhere := v.elsewhere()
	_, why := v.missingLocked(string(offset))
	state := s.gate.State()
	if why == lossNone && state < stateParked && s.extra.acks != nil && len(s.extra.acks.waiting) > 0 {
		why = lossQuestion
	}
	if why != lossNone && elsewhere == "" && state < stateMoved { // else it has ended, of something else
		v.why = why
	}
	s.mu.Unlock()
	switch {
	case elsewhere != "":
		return append([]byte{sessionMoved}, elsewhere...)
	case state >= stateMoved:
		return []byte{byte(h.lapsed.whyOf(sha256.Sum256(v.secret[:])))}
	case state < stateParked:
		s.lose(ReasonTransportClose)
		s.conn.Close(ReasonServerClose)
	}
	if why != lossNone {
		s.lapse(why)
		return []byte{byte(why)}
	}
	if s.awaitHooks(ctx) != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.State() != stateParked || v.passed != "" || v.home != "" {
		return []byte{byte(lossUnknown)}
	}
	v.claim, v.given = claim, false
	c, err := s.offerLocked(v)
	if err != nil {
		h.log.Error("data of a socket cannot go to another node: it is not JSON", "socket", c.id, "error", err)
		return []byte{byte(lossNode)}
	}
	return c.append([]byte{sessionHere})
}

// offerLocked is what the session is.
func (s *Socket) offerLocked(v *session) (c offer, err error) {
	c = offer{node: s.client.hub.tag, id: s.ID(), moves: v.moves, places: v.kept.places}
	if c.data, err = json.Marshal(s.extra.data); err != nil {
		return c, err
	}
	for i := range s.rooms {
		name := strings.TrimPrefix(s.rooms[i].room.subject, s.ns.subject)
		if name != "" && name != c.id {
			c.rooms = append(c.rooms, offeredRoom{name, s.rooms[i].since, v.kept.marks[name]})
		}
	}
	return c, nil
}

// snapshot is what the client of a parked socket does not have, and what the socket has seen. It is called when
// another node gets everything that is published from then on.
func (s *Socket) snapshot(ctx context.Context, claim uint64, rest []byte) []byte {
	h := s.client.hub
	offset, _, ok := cutText(rest)
	v := s.sessionOf()
	s = v.lockHolder()
	ok = ok && s.gate.State() == stateParked && v.passed == "" && v.claim == claim
	subjects := make([]string, 0, len(s.rooms))
	for _, m := range s.rooms {
		subjects = append(subjects, m.room.subject)
	}
	s.mu.Unlock()
	if !ok {
		return []byte{byte(lossUnknown)}
	}
	h.departed.forward(s.ID()) // from here on what is for the socket alone goes to the new node too
	if err := h.fence(ctx, subjects); err != nil {
		return []byte{byte(lossNode)}
	}
	s = v.lockHolder()
	defer s.mu.Unlock()
	from, why := v.missingLocked(string(offset))
	entries, origins, next, intact := v.log.Give(from) // at once: what comes in between would be in neither half
	switch {
	case s.gate.State() != stateParked || v.passed != "" || v.claim != claim:
		why = lossUnknown
	case why == lossNone && !intact:
		why = v.droppedLocked()
	}
	if why != lossNone {
		return []byte{byte(why)}
	}
	v.given, v.cut = true, next
	origins = append(origins, v.seen.list()...) // by the node before: what is late here is late there
	return appendEntries([]byte{sessionHere}, entries, origins)
}

// handed notes that another node has the session.
func (s *Socket) handed(to string, claim uint64) []byte {
	h, v := s.client.hub, s.sessionOf()
	s = v.lockHolder()
	if v.passed == to && v.claim == claim {
		s.mu.Unlock()
		return []byte{sessionHere}
	}
	if s.gate.State() != stateParked || v.passed != "" || v.claim != claim {
		s.mu.Unlock()
		return []byte{byte(lossUnknown)}
	}
	v.passed, v.away, v.shared = to, false, s.roomHashesLocked()
	s.mu.Unlock()
	h.departed.add(sha256.Sum256(v.secret[:]), to)
	h.parked.set(s, time.Now().Add(shadowTime))
	s.tellRegistered(Target{})
	return []byte{sessionHere}
}

// claimedLast reports whether no other claim has come since this one: a late refusal must not end what another
// node is taking.
func (s *Socket) claimedLast(claim uint64) bool {
	v := s.sessionOf()
	defer v.lockHolder().mu.Unlock()
	return v.passed == "" && (v.claim == claim || v.claim == 0)
}

// finish tells the node that has got the session what has come since, and ends what is left of it here.
func (s *Socket) finish(v *session) {
	h := s.client.hub
	s.mu.Lock()
	v.log.Move(new(engine.Gate)) // what comes from now on finds that the socket has ended
	entries, _ := v.log.From(nil, v.cut, 1<<30)
	entries = slices.DeleteFunc(slices.Clone(entries), func(e *engine.Entry) bool {
		return e.Origin == engine.Origin{} || !v.shared[e.Room] // a room that both nodes have joined since, each in its time
	})
	s.mu.Unlock()
	k, to, moves := s.movedTo()
	s.leave("")
	if len(entries) == 0 || !h.work.Begin() {
		return
	}
	go func() { // Hub.Run waits for it
		defer h.work.End()
		ctx, cancel := context.WithTimeout(context.Background(), claimTime)
		defer cancel()
		for range maxHops {
			answer, _ := h.askSession(ctx, to, k.question(sessionLate, h.tag, 0, appendEntries(binary.AppendUvarint(nil, uint64(moves)), entries, nil)))
			if len(answer) < 2 || answer[0] != sessionMoved {
				return
			}
			to, moves = string(answer[1:]), moves+1 // it was there for a moment only
		}
	}()
}

// late is told of events that the node which had the session has got after it was asked for what the client does
// not have. They have come here too, unless the broker has no single order. Then what may still be sent in order is
// sent, and otherwise the client has to learn that something is missing. If the session has moved on, the next node
// is told; late returns its tag if this one has forgotten the session meanwhile.
func (s *Socket) late(ctx context.Context, rest []byte) (to string) {
	moves, rest, ok := cutUvarint(rest, 1<<62)
	entries, _, fine := parseEntries(rest)
	if !ok || !fine {
		s.client.hub.count(errEnvelopeMalformed)
		return ""
	}
	pause(ctx, lateTime) // the last of them may just be coming here too
	v := s.sessionOf()
	s = v.lockHolder()
	now, passed, ended := v.moves, v.passed != "", s.gate.State() == stateGone
	in := s.roomHashesLocked()
	s.mu.Unlock()
	next := s.client.hub.departed.to(sha256.Sum256(v.secret[:]))
	if ended {
		return next
	}
	if now != moves || v.log.Dropped() {
		return "" // it has come back here since; or, after a gap or too much, nobody can tell what it has not had
	}
	for _, e := range entries {
		if e.Volatile() || v.seen.has(e.Origin) || !in[e.Room] { // it has left the room since
			continue
		}
		e.Late = true
		err := errOvertaken
		if passed || v.log.Standing(e) == engine.Had || !v.seen.overtake(e.Origin) {
			err = s.pushEntry(v, e, true)
		}
		if err == errOvertaken && passed {
			e.Late = false // the next node is told, and judges
			err = s.pushEntry(v, e, true)
		}
		if err == errOvertaken {
			v.disordered()
			return ""
		}
		if err != nil { // the socket has ended
			return next
		}
	}
	return ""
}

// roomHashesLocked are what origins say of the rooms of the socket.
func (s *Socket) roomHashesLocked() map[uint64]bool {
	in := map[uint64]bool{roomHash(s.ns.subject + s.ID()): true}
	for i := range s.rooms {
		in[roomHash(s.rooms[i].room.subject)] = true
	}
	return in
}

// disordered ends a session whose client would get an event behind a later one: it has to learn that one is missing.
func (v *session) disordered() {
	s := v.lockHolder()
	v.gap = true
	v.log.Cut()
	s.mu.Unlock()
	s.conn.Close(ReasonServerClose)
	s.lapse(lossGap)
}

// reroomedLocked is told that the rooms of the socket have changed: a node that has claimed its session does not know.
func (s *Socket) reroomedLocked() {
	v := s.sessionLocked()
	if v != nil && v.home == "" && v.passed == "" {
		v.claim, v.given = 0, false
	}
	if v != nil {
		v.kept.changed = 0
		v.kept.changes++
		s.changedLocked()
	}
}

// movedTo names the session of a socket, the node that has got it, and how often it had moved by then.
func (s *Socket) movedTo() (k key, to string, moves int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := s.sessionLocked()
	return s.keyLocked(v), v.passed, v.moves + 1
}

// moves is how often the session of a socket has moved from node to node.
func (s *Socket) moves() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessionLocked().moves
}

// passedOn reports whether another node has got the session of the socket, which listens on for a moment, or has just ended.
func (s *Socket) passedOn() bool {
	if s.gate.State() < stateParked {
		return false
	}
	v := s.sessionOf()
	if v == nil {
		return false
	}
	defer v.lockHolder().mu.Unlock()
	return v.passed != ""
}
