package hub

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"tether/engine"
)

// Recovery lets a client that has lost its connection go on where it was: Socket.IO's connection state
// recovery. Its socket comes back with its ID, its rooms and its data, and then with every event that the client
// does not have, in order, each once: [Socket.Recovered]. Events that are emitted meanwhile are kept for it.
//
// A client that has been told nothing of this has none of it and costs nothing. The others get one more
// argument with each event that wants no acknowledgement, a short text, which socket.io-client 4.6 and later
// remembers and application code ignores; other clients may stumble over it. So a client has to ask, with
// {"recovery": true} in its auth or recovery=1 in its query, unless All is set.
type Recovery struct {
	// On switches it on.
	On bool

	// All gives it to clients that have not asked, too.
	All bool

	// Window is how long a session waits for its client, from the moment when the end of its connection is
	// noticed. Default 2 min.
	Window time.Duration

	// Data returns a pointer to what the data of a socket that comes from another node, where it was whatever
	// SetData was given, is decoded into from JSON. Nil: Data of such a socket is a json.RawMessage.
	Data func() any

	// SessionBytes is the memory for the events of one session, UserBytes for those of all sessions of a
	// user that wait on this node, and TotalBytes for all sessions of this node; an event that is in several counts once
	// there. Past it the oldest goes first, and a client that needs it does not recover. Defaults 1 MiB, 4 MiB and 256 MiB.
	SessionBytes, UserBytes, TotalBytes int

	// Log has the death of a node cost nobody an event: what is emitted is kept in the broker for a while, and so is
	// where each session stands, so that another node goes on with it. The broker has to be a [broker.Logger] that was
	// opened with a log, on all nodes and for all emitters, and to keep it for twice the Window or longer. With it
	// [Socket.Emit] goes through the broker, too, and waits for that. A receipt may say zero of an event that a client of a
	// node that was killed gets when it comes back; on NATS it never says zero of an event, but that it is unknown.
	Log bool
}

// session is what a client that may come back has beside its connection. It passes from one socket to the next.
type session struct {
	secret [secretBytes]byte // immutable
	begin  string            // immutable; the offset that the client had when the session began, none of ours
	log    *engine.Log
	pid    string                 // immutable; "" if it began on this node
	id     string                 // immutable; of its sockets, if it began on another node
	key    key                    // immutable; likewise
	holder atomic.Pointer[Socket] // written with the mu of the old holder and the new one held

	// Guarded by the mu of the holder.
	from   uint64        // what the holder has to be sent first, once it is connected
	taken  bool          // the holder took it from another socket: it is recovered
	away   bool          // the client lost it, and has not been told that it is back
	gap    bool          // messages may have been missed
	since  time.Time     // when the client lost it
	back   time.Time     // when the client was told that it is back
	left   chan struct{} // closed when the disconnect hooks of the holder before have run; nil for the first
	why    loss          // why it is not recovered; set before it ends
	lapsed loss          // the same, once OnUnrecovered is told

	moves  int    // from node to node so far
	home   string // the tag of the node that still has it; "": this one
	claim  uint64 // number of this node's claim to it; else of the last one of another: 0 if its rooms have changed since
	coming bool   // that node is being told that this one has it
	passed string // the tag of the node that has got it from this one
	seen   sightings
	given  bool            // the next node was told of the log
	cut    uint64          // where the log was then
	shared map[uint64]bool // the rooms of the session when another node got it, as origins say them

	kept  kept        // of the session in the broker; see record.go
	floor uint64      // immutable; the place up to which the holder gets nothing by itself
	heir  *heir       // of a session whose node is gone, until it is here
	risky atomic.Bool // there is something that is not in the broker's log, or was
}

const (
	secretBytes = 20 // random bytes of a pid: 160 bits
	pidLength   = tagLength + (placeBytes+secretBytes)/3*4
	maxOffset   = 64 // bytes of an offset
)

// loss says why a session is not recovered.
type loss uint8

const (
	lossNone       loss = iota
	lossExpired         // the window was over
	lossOverflowed      // more was emitted than is kept
	lossUnknown         // there is no such session, or no such position in it
	lossRefused         // a hook refused the socket, changed its users, or the server has disconnected it
	lossNode            // the node that had it is gone, or did not answer
	lossGap             // messages of the broker may have been missed
	lossQuestion        // an event whose acknowledgement was awaited may or may not have arrived
	losses
)

var lossText = [losses]string{
	"", "expired", "overflowed", "unknown", "refused", "node lost", "gap", "question",
}

// appendPosition appends what names an event for a client, as JSON text that stands behind the arguments of the event.
func (h *Hub) appendPosition(dst []byte) []byte {
	dst = append(append(dst, '"'), h.tag...)
	return append(strconv.AppendUint(dst, h.positions.Add(1), 36), '"')
}

// entry is what a session gets of a packet that is an event: for all sessions of the node the same.
func (h *Hub) entry(p *engine.Packet, from origin) *engine.Entry {
	if p.Lent() {
		return h.newEntry(p, from)
	}
	return p.Entry(func(p *engine.Packet) *engine.Entry { return h.newEntry(p, from) })
}

func (h *Hub) newEntry(p *engine.Packet, from origin) *engine.Entry {
	position := make([]byte, 0, tagLength+16) // which stays on the stack
	switch {
	case asksAnswer(p.Text()):
	case from.place != 0:
		position = appendPlace(position, from.place)
	default:
		position = h.appendPosition(position)
	}
	e := engine.NewEntry(p, position)
	e.Place, e.Passed = from.place, from.passed
	if from.from != 0 {
		e.Origin, e.Room = engine.Origin{From: from.from, Number: from.number}, roomHash(from.subject)
		if from.number&unionNumber == 0 {
			e.Target = e.Room
		}
	}
	return e
}

// roomHash is what an origin says of the room with a subject: FNV-1a, as all nodes do. The package hash/fnv would have each
// event copy its subject.
func roomHash(subject string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(subject) {
		h = (h ^ uint64(subject[i])) * 1099511628211
	}
	return h
}

// asksAnswer reports whether the text of an event, "42/chat,7[…]" say, has an acknowledgement ID.
func asksAnswer(text []byte) bool { return ackIDOf(text) >= 0 }

// ackIDOf is the acknowledgement ID of an event, -1 if there is none.
func ackIDOf(text []byte) int64 {
	rest := text[2:] // the types of Engine.IO and of Socket.IO
	if text[1] == '5' {
		for rest[0] != '-' {
			rest = rest[1:]
		}
		rest = rest[1:]
	}
	if rest[0] == '/' {
		for rest[0] != ',' {
			rest = rest[1:]
		}
		rest = rest[1:]
	}
	n := 0
	for rest[n] != '[' {
		n++
	}
	if n == 0 {
		return -1
	}
	id, err := strconv.ParseInt(string(rest[:n]), 10, 64)
	if err != nil {
		return -1
	}
	return id
}

// names reports whether an offset of a client names the event.
func names(offset string, e *engine.Entry) bool {
	text := e.Text()
	n := len(text) - 2 - len(offset)
	return n > 0 && string(text[n:len(text)-2]) == offset && text[n-1] == '"' && text[len(text)-2] == '"' && ackIDOf(text) < 0
}

// wish is what a client says about recovery when it connects.
type wish struct{ pid, offset string }

// wish is [Hub.wish] of the connection's.
func (c *client) wish(auth string) (w *wish, rest string) {
	if !c.hub.options.Recovery.On {
		return nil, auth
	}
	c.mu.Lock()
	handshake := c.handshake
	c.mu.Unlock()
	return c.hub.wish(handshake, auth)
}

// wish returns what a client asks for, nil if it is nothing, and its auth without the secret.
func (h *Hub) wish(handshake, auth string) (w *wish, rest string) {
	var said struct {
		PID      string          `json:"pid"`
		Offset   string          `json:"offset"`
		Recovery json.RawMessage `json:"recovery"`
	}
	if auth != "" {
		var object map[string]json.RawMessage
		if json.Unmarshal([]byte(auth), &object) == nil { // parts of another type are none of ours
			_ = json.Unmarshal(object["pid"], &said.PID)
			_ = json.Unmarshal(object["offset"], &said.Offset)
			said.Recovery = object["recovery"]
		}
		if said.PID != "" {
			auth = withoutSecret(auth)
		}
	}
	if !h.options.Recovery.All && string(said.Recovery) != "true" {
		if asked := unpackHandshake(handshake).Query.Get("recovery"); asked != "1" && asked != "true" {
			return nil, auth
		}
	}
	return &wish{said.PID, said.Offset}, auth
}

// withoutSecret is a JSON object without its members pid and offset; the others stay as they are.
func withoutSecret(auth string) string {
	d := json.NewDecoder(strings.NewReader(auth))
	if _, err := d.Token(); err != nil {
		return auth
	}
	var b strings.Builder
	b.WriteByte('{')
	for d.More() {
		key, err := d.Token()
		var value json.RawMessage
		if err != nil || d.Decode(&value) != nil {
			return "{}"
		}
		if key == "pid" || key == "offset" {
			continue
		}
		if b.Len() > 1 {
			b.WriteByte(',')
		}
		name, _ := json.Marshal(key)
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	if b.Len() == 2 {
		return ""
	}
	return b.String()
}

// begin gives a socket that is connecting a session of its own. Offset is what its client has from another one.
func (s *Socket) begin(offset string) {
	h := s.client.hub
	if len(offset) > maxOffset {
		offset = "-" // no client has it when it has had an event
	}
	v := &session{begin: offset, log: engine.NewLog(&s.gate, h.options.Recovery.SessionBytes, h.logs)}
	rand.Read(v.secret[:])
	v.holder.Store(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.gate.State() == stateConnecting {
		s.enroll()
		s.rareLocked().session = v
	}
}

// sessionOf is the session of the socket, also when it has passed it on; nil if it never had one.
func (s *Socket) sessionOf() *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessionLocked()
}

func (s *Socket) sessionLocked() *session {
	if s.extra == nil || s.extra.rare == nil {
		return nil
	}
	return s.extra.rare.session
}

// lockHolder locks the socket that has the session.
func (v *session) lockHolder() *Socket {
	for {
		s := v.holder.Load()
		s.mu.Lock()
		if v.holder.Load() == s {
			return s
		}
		s.mu.Unlock()
	}
}

// current is the socket that has the session of s now: s itself unless it has passed it on.
func (s *Socket) current() *Socket {
	for s.gate.State() == stateMoved {
		s = s.sessionOf().holder.Load()
	}
	return s
}

// appendPID appends what the client has to say to get its session back.
func (s *Socket) appendPID(dst []byte, v *session) []byte {
	if v.pid != "" {
		return append(dst, v.pid...)
	}
	var b [placeBytes + secretBytes]byte
	binary.BigEndian.PutUint32(b[:], s.place)
	copy(b[placeBytes:], v.secret[:])
	return base64.RawURLEncoding.AppendEncode(append(dst, s.client.hub.tag...), b[:])
}

func parsePID(pid string) (tag string, place uint32, secret []byte, ok bool) {
	if len(pid) != pidLength {
		return "", 0, nil, false
	}
	b, err := base64.RawURLEncoding.DecodeString(pid[tagLength:])
	if err != nil {
		return "", 0, nil, false
	}
	return pid[:tagLength], binary.BigEndian.Uint32(b), b[placeBytes:], true
}

// elsewhere is the tag of the node that has the session, if it is not this one. It is called with the mu of the holder
// held.
func (v *session) elsewhere() string {
	if v.passed != "" {
		return v.passed
	}
	return v.home
}

func (v *session) is(secret []byte) bool { return subtle.ConstantTimeCompare(v.secret[:], secret) == 1 }

// missing finds what a client with the given offset does not have. It is called with the mu of the holder held.
func (v *session) missingLocked(offset string) (from uint64, why loss) {
	from, matched, intact := v.log.After(func(e *engine.Entry) bool { return offset != "" && names(offset, e) })
	switch {
	case !matched && offset != v.begin && (v.gap || v.log.Dropped()):
		return 0, v.droppedLocked()
	case !matched && offset != v.begin:
		return 0, lossUnknown
	case !intact:
		return 0, v.droppedLocked()
	case v.log.Any(from, func(e *engine.Entry) bool { return asksAnswer(e.Text()) }):
		return 0, lossQuestion
	}
	return from, lossNone
}

// droppedLocked says why events are missing from the log.
func (v *session) droppedLocked() loss {
	if v.gap {
		return lossGap
	}
	return lossOverflowed
}
