package hub

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"tether/broker"
	"tether/engine"
)

// With [Recovery.Log] each session has a record in the broker: what it is, and where it stands. It is saved before its
// client is told that it is connected, before Join returns, and soon after any other change; so a node that is killed leaves
// enough behind for another one, see heir.go. The node that saves it owns it, and one that finds that another one owns it ends
// what it has of the session.

// kept is what a session has to do with its record. The fields are guarded by the mu of the holder.
type kept struct {
	places
	marks   map[string]uint64 // of rooms, by name; see offeredRoom
	saved   bool              // there is a record
	version uint64            // of the record
	changes int               // of its rooms so far
	was     string            // whose the record is before the next time that it is saved; "": ours, or there is none
	risky   bool              // the record says that it is
}

// places are those that a session has been at.
type places struct {
	start   uint64 // it began behind it
	changed uint64 // its rooms have not changed since; 0: that is not known yet
	have    uint64 // the client has everything up to there
}

// record is what the broker keeps of a session.
//
//	byte     version, 1
//	text     namespace
//	text     offset that the client had before the session
//	byte     1: something may be missing in the broker's log
//	uvarint  milliseconds of 1970 when the client was lost; 0: it was not
//	rest     offer
type record struct {
	offer
	namespace, begin string
	risky            bool
	away             time.Time
}

func (r *record) append(dst []byte) []byte {
	dst = appendText(appendText(append(dst, 1), r.namespace), r.begin)
	risky, away := byte(0), uint64(0)
	if r.risky {
		risky = 1
	}
	if !r.away.IsZero() {
		away = uint64(r.away.UnixMilli())
	}
	return r.offer.append(binary.AppendUvarint(append(dst, risky), away))
}

func parseRecord(b []byte) (r record, ok bool) {
	if len(b) == 0 || b[0] != 1 {
		return r, false
	}
	name, b, ok := cutText(b[1:])
	if !ok {
		return r, false
	}
	begin, b, ok := cutText(b)
	if !ok || len(b) == 0 {
		return r, false
	}
	r.namespace, r.begin, r.risky = string(name), string(begin), b[0] != 0
	away, b, ok := cutUvarint(b[1:], 1<<62)
	if !ok {
		return r, false
	}
	if away != 0 {
		r.away = time.UnixMilli(int64(away))
	}
	r.offer, ok = parseOffer(b)
	return r, ok
}

// openLog finds the broker's log.
func (h *Hub) openLog() error {
	r := &h.options.Recovery
	if !r.Log {
		return nil
	}
	l, err := h.broker.Log()
	if err != nil {
		return fmt.Errorf("hub: option Recovery.Log: %w", err)
	}
	if l.Age() < 2*r.Window {
		return fmt.Errorf("hub: option Recovery.Log: the broker keeps its log for %v, and Recovery.Window is %v: that needs %v or more", l.Age(), r.Window, 2*r.Window)
	}
	h.kept = l
	return nil
}

// placed has the broker give an event a place, and keep it in a log if it is worth something later.
func (e *Emitter) placed(m broker.Message, log string) broker.Message {
	if e.publisher.placed {
		m.Place = 1
		if !e.terms.Volatile {
			m.Log = log
		}
	}
	return m
}

// logQuestion notes in the broker's log that the sockets of a target are asked something: one that another node inherits
// may have missed it.
func (e *Emitter) logQuestion(ctx context.Context, to Target) error {
	if !e.publisher.placed || e.terms.Volatile || to == (Target{}) {
		return nil
	}
	m := broker.Message{
		Subject: e.publisher.prefix + ":asked", // which nobody is subscribed to
		Data:    appendEnvelope(nil, kindAsked, 0, "", e.except),
	}
	if _, err := e.publisher.broker.Publish(ctx, e.placed(m, roomSubject(e.publisher.prefix, e.namespace, to))); err != nil {
		return fmt.Errorf("hub: emit: %w", err)
	}
	return nil
}

// A place is a position of a client, too: everything that its session gets up to there left before it.
const placeMark = '@'

func appendPlace(dst []byte, place uint64) []byte {
	return append(strconv.AppendUint(append(dst, '"', placeMark), place, 36), '"')
}

// parsePlace returns 0 for a position that is none.
func parsePlace(offset string) uint64 {
	text, ok := strings.CutPrefix(offset, string(placeMark))
	if !ok {
		return 0
	}
	n, err := strconv.ParseUint(text, 36, 64)
	if err != nil || string(appendPlace(nil, n)) != `"`+offset+`"` {
		return 0
	}
	return n
}

// placeIn is the place of an event that has come from another node with its position.
func placeIn(e *engine.Entry) uint64 {
	text := e.Text()
	if len(text) < 3 || ackIDOf(text) >= 0 || text[len(text)-2] != '"' {
		return 0
	}
	last := strings.LastIndexByte(string(text[:len(text)-2]), '"')
	return parsePlace(string(text[last+1 : len(text)-2]))
}

// recordKey is the key of the session's record.
func (k *key) recordKey() string { return hex.EncodeToString(k.hash[:]) }

// keyLocked names the session among nodes.
func (s *Socket) keyLocked(v *session) key {
	if v.pid != "" {
		return v.key
	}
	return keyOf(s.client.hub.tag, s.place, v.secret[:])
}

// changedLocked has the record saved soon, unless another socket has the session.
func (s *Socket) changedLocked() {
	if v := s.sessionLocked(); v != nil && v.holder.Load() == s && v.kept.saved {
		s.client.hub.records.set(s, time.Now())
	}
}

// start notes where a session begins, which is new.
func (s *Socket) start(ctx context.Context) error {
	h := s.client.hub
	if h.kept == nil {
		return nil
	}
	head, err := h.kept.Head(ctx)
	if err != nil {
		return fmt.Errorf("hub: ask for the head of the log: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if v := s.sessionLocked(); v != nil {
		v.kept.places = places{start: head, have: head}
	}
	return nil
}

// record begins to keep a record of a session that this node has.
func (s *Socket) record(ctx context.Context) error {
	if s.client.hub.kept == nil {
		return nil
	}
	if err := s.mark(ctx); err != nil {
		return err
	}
	return s.save(ctx, 0)
}

// mark notes where the rooms stand that the socket has joined, and saves the record if there is one.
func (s *Socket) mark(ctx context.Context) error {
	h := s.client.hub
	v := s.sessionOf()
	if v == nil {
		return nil
	}
	var fresh []string
	s = v.lockHolder()
	for i := range s.rooms {
		name := s.targetAt(i).name
		if _, known := v.kept.marks[name]; !known {
			fresh = append(fresh, name)
		}
	}
	s.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	head, err := h.kept.Head(ctx)
	if err != nil {
		return fmt.Errorf("hub: ask for the head of the log: %w", err)
	}
	s = v.lockHolder()
	if v.kept.marks == nil {
		v.kept.marks = make(map[string]uint64)
	}
	for _, name := range fresh {
		v.kept.marks[name] = head
	}
	saved := v.kept.saved
	s.mu.Unlock()
	if !saved {
		return nil
	}
	return s.save(ctx, 0)
}

// unmarkLocked forgets where a room stands that the socket has left.
func (s *Socket) unmarkLocked(room Target) {
	if v := s.sessionLocked(); v != nil {
		delete(v.kept.marks, room.name)
	}
}

// save saves the record. If have is not 0, everything up to there has been delivered to this node.
func (s *Socket) save(ctx context.Context, have uint64) error {
	h := s.client.hub
	s.mu.Lock()
	v := s.sessionLocked()
	if v == nil || v.holder.Load() != s {
		s.mu.Unlock()
		return nil
	}
	changed, changes := v.kept.changed, v.kept.changes
	s.mu.Unlock()
	if changed == 0 {
		var err error
		if changed, err = h.kept.Head(ctx); err != nil {
			return s.unsaved(err)
		}
	}
	s.mu.Lock()
	if v.holder.Load() != s || v.home != "" && v.heir == nil || v.passed != "" || s.gate.State() >= stateMoved {
		s.mu.Unlock()
		return nil
	}
	if changes == v.kept.changes { // else they have changed behind that place
		v.kept.changed = max(v.kept.changed, changed)
	}
	r, k := s.recordLocked(v, have), s.keyLocked(v)
	value := broker.Record{Owner: h.tag, Version: v.kept.version, Value: r.append(nil)}
	was := v.kept.was
	s.mu.Unlock()
	saved, err := h.kept.Save(ctx, k.recordKey(), was, value)
	if s.endedWith(v, k) { // and the record may have been dropped before it was saved
		h.dropRecord(k, h.tag)
	}
	if err != nil {
		return s.unsaved(err)
	}
	if !saved {
		s.overtaken(v)
		return errLost
	}
	holder := v.lockHolder()
	v.kept.saved, v.kept.was, v.kept.risky = true, "", r.risky
	holder.mu.Unlock()
	again := h.kept.Age() / 3
	if r.risky {
		again = min(again, riskTime)
	}
	h.records.add(s, time.Now().Add(again))
	if s.gate.State() >= stateMoved { // it has ended meanwhile
		h.records.unset(s)
	}
	return nil
}

// riskTime is how often it is asked whether what is not in the log has arrived.
const riskTime = 5 * time.Second

// unsaved has a record saved again.
func (s *Socket) unsaved(err error) error {
	s.client.hub.records.add(s, time.Now().Add(time.Second))
	return fmt.Errorf("hub: save a session in the broker: %w", err)
}

// recordLocked is the next record.
func (s *Socket) recordLocked(v *session, have uint64) record {
	v.risky.Store(false) // what comes from here on sets it again
	r := record{namespace: s.ns.name, begin: v.begin, away: v.since}
	if v.pid != "" && parsePlace(v.begin) == 0 {
		r.begin = "" // it may name an event of this session that has no place
	}
	if !v.away {
		r.away = time.Time{}
	}
	unproven, all := v.log.Unproven()
	if !all {
		have, r.risky = 0, true
	}
	for _, e := range unproven {
		if e.Volatile() {
			continue
		}
		if e.Place == 0 {
			r.risky = true
		} else if have != 0 {
			have = min(have, e.Place-1)
		}
	}
	if s.extra.acks != nil && len(s.extra.acks.waiting) > 0 || v.kept.changed == 0 {
		r.risky = true
	}
	if r.risky {
		v.risky.Store(true)
	}
	v.kept.have = max(v.kept.have, have)
	v.kept.version++
	var err error
	if r.offer, err = s.offerLocked(v); err != nil {
		s.client.hub.log.Error("data of a socket cannot go to another node: it is not JSON", "socket", r.id, "error", err)
		r.risky = true
	}
	// A room that was joined just now, and has no place yet, is in the next record, which its join saves.
	r.rooms = slices.DeleteFunc(r.rooms, func(o offeredRoom) bool { return o.mark == 0 })
	return r
}

// risk is told of an event that is not in the broker's log: while the client may not have it, the session does not
// outlive this node.
func (s *Socket) risk(e *engine.Entry) {
	h := s.client.hub
	if h.kept == nil || e.Place != 0 || e.Volatile() {
		return
	}
	if v := s.sessionOf(); v.risky.CompareAndSwap(false, true) {
		s = v.lockHolder()
		defer s.mu.Unlock()
		s.changedLocked()
	}
}

// saveRisk returns when the record says that the client is being asked something.
func (s *Socket) saveRisk(ctx context.Context) {
	s.mu.Lock()
	v := s.sessionLocked()
	needed := v != nil && v.holder.Load() == s && v.kept.saved && !v.kept.risky
	s.mu.Unlock()
	if needed {
		_ = s.save(ctx, 0) // without it the question is a risk of a moment
	}
}
