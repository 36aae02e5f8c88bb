package hub

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"time"

	"tether/broker"
	"tether/engine"
)

// A session whose node is gone goes on from its record and the broker's log, in these steps:
//
//	load    the record says which node has the session. While that node is on the list of members it is asked, and if it is
//	        silent it is waited for, until its lease has ended: then it is gone
//	read    the log says what the client does not have, up to where it ends
//	        the socket joins the rooms, and what comes is held
//	read    the log says what has come meanwhile
//	        the hooks run, which may have it leave a room
//	        a message that this node sends itself says that it has all that was read; then what it holds is put in the
//	        order of all, without what was read
//	save    the record is taken over, from the owner that it had: of two nodes only one succeeds
//
// All events with a place have one order, which is that of each node and so of each client. So the place of the last event
// that the client had says what it had of all its rooms.

// heir is what is known of a session whose node is gone.
type heir struct {
	record
	after uint64 // what the client has is up to there
	head  uint64 // what has been read is up to there
	msgs  []broker.Message

	own    string             // log of what is for the socket alone
	before map[[2]uint64]bool // of events in it up to after, by origin and number: whether the client had them; see had
}

const (
	lostTime  = 8 * time.Second // for which the end of a node's lease is waited for
	lostEvery = 100 * time.Millisecond
)

// inherit gives s, which is connecting, a session that no node has any more.
func (s *Socket) inherit(ctx context.Context, w *wish, k key) (why loss, err error) {
	h := s.client.hub
	ctx, cancel := context.WithTimeout(ctx, lostTime)
	defer cancel()
	for denied := ""; ; {
		stored, err := h.kept.Load(ctx, k.recordKey())
		switch {
		case ctx.Err() != nil:
			return lossNode, nil
		case err != nil:
			return lossNode, err
		case stored.Owner == "":
			return lossNode, nil
		}
		if stored.Owner == h.tag || stored.Owner == denied || h.isGone(stored.Owner) {
			return s.inheritFrom(ctx, w, k, stored)
		}
		asking, cancel := context.WithTimeout(ctx, claimTime)
		why, _, err := s.takeFrom(asking, w, k, stored.Owner)
		cancel()
		switch {
		case errors.Is(err, errSilent):
			pause(ctx, lostEvery)
		case err == nil && why == lossUnknown:
			denied = stored.Owner
		default:
			return why, err
		}
	}
}

// isGone reports whether it is known that a node is not there any more.
func (h *Hub) isGone(tag string) bool {
	_, err := h.cluster.Members()
	_, there := h.cluster.Lookup(tag)
	return err == nil && !there
}

// inheritFrom is inherit for a record whose owner is gone.
func (s *Socket) inheritFrom(ctx context.Context, w *wish, k key, stored broker.Record) (why loss, err error) {
	h := s.client.hub
	r, ok := parseRecord(stored.Value)
	if !ok || r.namespace != s.ns.name {
		return lossUnknown, nil
	}
	x := &heir{record: r, own: s.ns.subject + r.id}
	x.node = stored.Owner
	if why = x.behind(w.offset, h.options.Recovery.Window); why == lossNone {
		x.msgs, x.head, err = h.kept.Read(ctx, x.parts(s.ns.subject, x.after))
		switch {
		case errors.Is(err, broker.ErrForgotten):
			why = lossGap
		case err != nil:
			return lossNode, err
		default:
			_, why = h.entriesOf(ctx, x)
		}
	}
	if why != lossNone {
		h.dropRecord(k, stored.Owner)
		return why, nil
	}
	data, err := h.revive(x.data)
	if err != nil {
		h.log.Error("data of a socket that comes from another node cannot be decoded", "socket", x.id, "error", err)
		return lossNode, nil
	}
	v := newGuest(s, w, k, 1+rand.Uint64N(math.MaxUint64), x.offer)
	v.heir, v.floor, v.kept.version, v.kept.was = x, x.head, stored.Version, stored.Owner
	if err := s.adopt(ctx, v, x.offer, data); err != nil {
		return lossNone, err
	}
	msgs, _, err := h.kept.Read(ctx, x.parts(s.ns.subject, x.head)) // before the hooks leave a room
	if err != nil {
		return lossNone, s.notInherited(v, lossGap, err)
	}
	x.msgs = append(x.msgs, msgs...)
	return lossNone, nil
}

// behind finds out what the client has.
func (x *heir) behind(offset string, window time.Duration) loss {
	at := parsePlace(offset)
	if offset == x.begin {
		at = max(at, x.places.start)
	}
	switch {
	case x.risky:
		return lossQuestion
	case !x.away.IsZero() && time.Since(x.away) > window:
		return lossExpired
	case at < x.places.start:
		return lossUnknown
	}
	x.after = max(at, x.places.have)
	return lossNone
}

// parts are what has to be read from a place on.
func (x *heir) parts(namespace string, after uint64) []broker.Part {
	parts := []broker.Part{{Log: namespace, After: after}, {Log: namespace + x.id, After: after}}
	for _, r := range x.rooms {
		parts = append(parts, broker.Part{Log: namespace + r.name, After: max(after, r.mark)})
	}
	return parts
}

// gets reports whether an event is for the session, as far as its exceptions say, and whether that is known: those of
// rooms are good for the rooms that the session was in then.
func (x *heir) gets(e *envelope, place uint64) (yes, known bool) {
	for text := range e.exceptions() {
		name := string(text)
		switch {
		case name == "" || name == x.id:
			return false, true
		case isID(name):
			continue
		case place <= x.places.changed:
			return false, false
		}
		for _, r := range x.rooms {
			if r.name == name {
				return false, true
			}
		}
	}
	return true, true
}

// entriesOf are the events that have been read and that the client does not have, each once, and those that are not
// needed without their contents.
func (h *Hub) entriesOf(ctx context.Context, x *heir) (entries []*engine.Entry, why loss) {
	seen := make(map[engine.Origin]int) // where among entries
	bytes := 0
	for _, m := range x.msgs {
		e, err := parseEnvelope(m.Data)
		if err != nil || e.kind != kindEvent && e.kind != kindAsked {
			h.count(errEnvelopeMalformed)
			return nil, lossGap
		}
		yes, known := x.gets(&e, m.Place)
		if !known {
			return nil, lossUnknown
		}
		if !yes {
			continue
		}
		if e.kind == kindAsked {
			return nil, lossQuestion
		}
		e.flags &^= flagStamp | flagMarks
		e.place = m.Place
		p := h.packet(m.Log, &e)
		if p == nil {
			return nil, lossGap
		}
		entry := h.newEntry(p, e.origin(m.Log))
		at, read := seen[entry.Origin]
		read = read && entry.Origin != (engine.Origin{})
		again := m.Subject == x.own && len(e.target) > 0
		switch {
		case read && again: // so that it is known of a client that has had it
			entries[at] = entry
			continue
		case again:
			if read, known = h.had(ctx, x, &e); !known {
				return nil, lossGap
			}
		}
		if read {
			continue
		}
		seen[entry.Origin] = len(entries)
		entries = append(entries, entry)
		bytes += entry.Size()
	}
	if bytes > h.options.Recovery.SessionBytes {
		return nil, lossOverflowed
	}
	return entries, lossNone
}

// had reports whether the client has had an event for the socket alone whose first time is not among what was read, and
// whether that is known. Such an event may be published twice, and be twice in the log: for the node that the ID names, and
// then for the room of the ID, which a socket is in once it has moved.
func (h *Hub) had(ctx context.Context, x *heir, e *envelope) (yes, known bool) {
	if x.moves == 0 { // that node has delivered it the first time
		return true, true
	}
	if x.before == nil {
		x.before = make(map[[2]uint64]bool)
		var msgs []broker.Message
		if x.places.changed < x.after { // since then the session has not moved; before, it may have had it from either
			msgs, _, _ = h.kept.Read(ctx, []broker.Part{{Log: x.own, After: x.places.changed}}) // else nothing is known
		}
		for _, m := range msgs {
			if e, err := parseEnvelope(m.Data); err == nil && m.Place <= x.after {
				o := [2]uint64{e.from, e.number}
				x.before[o] = x.before[o] || m.Subject == x.own
			}
		}
	}
	yes, known = x.before[[2]uint64{e.from, e.number}]
	return yes, known
}

// succeed has the client get what was read, and takes the session over.
func (s *Socket) succeed(ctx context.Context, v *session) error {
	h, x := s.client.hub, v.heir
	entries, why := h.entriesOf(ctx, x)
	if why != lossNone {
		return s.notInherited(v, why, broker.ErrForgotten)
	}
	if err := h.fence(ctx, []string{h.subject}); err != nil {
		return errLost
	}
	seen := make(map[engine.Origin]bool, len(entries))
	for _, e := range entries {
		seen[e.Origin] = true
	}
	s.mu.Lock()
	v.seen.set(seen)
	merged := s.gate.State() == stateConnecting && v.log.Prepend(entries, func(e *engine.Entry) bool { return seen[e.Origin] })
	s.mu.Unlock()
	if !merged {
		return s.notInherited(v, lossOverflowed, broker.ErrForgotten)
	}
	if err := s.save(ctx, 0); err != nil {
		return errLost
	}
	s.mu.Lock()
	v.heir, v.home, v.claim = nil, "", 0
	v.away = true // nobody else tells of its end
	s.mu.Unlock()
	h.remembered.set(s, time.Now().Add(seenTime))
	s.tellRegistered(s.Users()...)
	return s.mark(ctx) // of rooms that the hooks have joined
}

// notInherited has the client come again. If err says that it cannot be given what it has missed, it learns why then.
func (s *Socket) notInherited(v *session, why loss, err error) error {
	h := s.client.hub
	if errors.Is(err, broker.ErrForgotten) && s.gate.State() == stateConnecting {
		h.lapsed.add(v.secret[:], why)
		h.dropRecord(v.key, v.home)
	}
	return errLost
}
