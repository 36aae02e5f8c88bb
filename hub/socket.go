package hub

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"sync"

	"tether/engine"
	"tether/internal/socketio"
)

// Socket is a client in a namespace. A connection has one for each namespace that it has joined. All
// methods may be called concurrently, and at any time: after the disconnect they do nothing, or
// return ErrDisconnected.
type Socket struct {
	conn  engine.Conn       // immutable; the client's, here because fan-out goes past many
	gate  engine.Gate       // in one of the states below; written with mu held
	place uint32            // immutable; in the hub's roster, and in the ID
	nonce [randomBytes]byte // immutable; in the ID

	named    bool // immutable once others know the socket; the ID is that of another node, see guests
	answered bool // guarded by mu; CONNECT has been answered, or will not be

	ns     *Namespace // immutable
	client *client    // immutable
	next   *Socket    // guarded by the client's mu; its next socket

	mu        sync.Mutex
	rooms     []membership  // guarded by mu; of each room the socket is in; no longer changes when it is gone
	own       [2]membership // guarded by mu; where rooms begins
	admission *admission    // guarded by mu; not nil while the state is connecting or welcome
	extra     *extra        // guarded by mu; nil while it would be empty
}

// extra is what few sockets have. The fields are guarded by the socket's mu.
type extra struct {
	acks *acks // nil until an answer is awaited
	data any
	auth string
	rare *rare
}

// rare is what hardly any socket has. The fields are guarded by the socket's mu.
type rare struct {
	session  *session       // of a client that may come back; nil if it may not
	answered chan struct{}  // closed when CONNECT has been answered; nil unless somebody waits for it
	refused  []refused      // to be sent then
	places   map[string]int // where in rooms the room with a subject is; nil while there are few
}

func (s *Socket) rareLocked() *rare {
	x := s.extraLocked()
	if x.rare == nil {
		x.rare = new(rare)
	}
	return x.rare
}

func (s *Socket) extraLocked() *extra {
	if s.extra == nil {
		s.extra = new(extra)
	}
	return s.extra
}

// The states of a socket, in their order.
const (
	stateConnecting uint32 = iota // the hooks run
	stateWelcome                  // the client has been told that it is connected; packets are still held
	stateConnected
	stateLogged // connected; what is sent goes into the log of the socket's session
	stateParked // the client is gone, and may come back
	stateMoved  // the client has come back: the session has another socket
	stateGone   = engine.Ended
)

// connected reports whether a socket in this state has been told that it is connected, and is not gone.
func connected(state uint32) bool { return state >= stateWelcome && state <= stateLogged }

// newSocket returns a socket with a place and an ID, or if late is true without: its client may have one. It is
// called by the caller of Text.
func (c *client) newSocket(ns *Namespace, auth string, late bool) *Socket {
	s := &c.first
	if c.begun {
		s = &Socket{conn: c.first.conn}
	}
	c.begun = true
	s.ns, s.client, s.rooms = ns, c, s.own[:0]
	if auth != "" {
		s.extra = &extra{auth: auth}
	}
	if late {
		s.place = noPlace
	} else {
		s.enroll()
	}
	return s
}

// enroll gives the socket a place and an ID. Nobody knows it before.
func (s *Socket) enroll() {
	rand.Read(s.nonce[:])
	h := s.client.hub
	s.place = h.sockets.reserve()
	h.sockets.put(s.place, s)
}

// ID is the socket's public ID: 20 characters, different for each socket.
func (s *Socket) ID() string { return string(s.appendID(make([]byte, 0, idLength))) }

func (s *Socket) appendID(dst []byte) []byte {
	if s.named {
		return append(dst, s.extra.rare.session.id...) // these do not change any more
	}
	return appendID(dst, s.client.hub.tag, s.place, s.nonce)
}

func (s *Socket) is(id string) bool {
	var own [idLength]byte
	return string(s.appendID(own[:0])) == id
}

// Target is this socket alone.
func (s *Socket) Target() Target { return Target{single, s.ID()} }

// Namespace is the socket's namespace. For one that [Hub.Match] matched it is that one, by name.
func (s *Socket) Namespace() *Namespace { return s.ns }

// Transport is what carries the connection now: "polling" or "websocket".
func (s *Socket) Transport() string { return s.conn.Transport() }

// Connected reports whether the client has been told that it is connected, and is not gone.
func (s *Socket) Connected() bool {
	return connected(s.gate.State())
}

// Handshake is what the client said when it connected. It is put together for each call.
func (s *Socket) Handshake() Handshake {
	s.client.mu.Lock()
	packed := s.client.handshake
	s.client.mu.Unlock()
	h := unpackHandshake(packed)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra != nil && s.extra.auth != "" {
		h.Auth = json.RawMessage(s.extra.auth)
	}
	return h
}

// Data is what SetData was given.
func (s *Socket) Data() any {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.extra == nil {
		return nil
	}
	return s.extra.data
}

// SetData keeps a value of the application with the socket.
func (s *Socket) SetData(v any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.extraLocked().data = v
	s.changedLocked()
}

// Emit sends an event to this socket. Before the client has been told that it is connected, the event
// waits. Args are encoded as encoding/json does, except that a json.RawMessage stays as it is, HTML is
// not escaped, and binary leaves as attachments: see [Binary]. The error is ErrDisconnected,
// ErrEvent, one of encoding/json, or the transport's.
func (s *Socket) Emit(event string, args ...any) error { return s.emit(event, args, engine.Terms{}) }

func (s *Socket) emit(event string, args []any, t engine.Terms) error {
	if err := s.client.hub.publisher.check(event); err != nil {
		return err
	}
	return s.sendEvent(event, args, t)
}

// sendEvent sends an event, in the order of all that have a place if the socket's session may outlive this node.
func (s *Socket) sendEvent(event string, args []any, t engine.Terms) error {
	if s.client.hub.kept != nil && s.sessionOf() != nil {
		return s.sendPlaced(event, args, t)
	}
	return s.send(socketio.Packet{Type: socketio.Event}, event, args, t)
}

// send encodes and sends an event; head has its type and ID.
func (s *Socket) send(head socketio.Packet, event string, args []any, t engine.Terms) error {
	e := newEncoder()
	defer e.free()
	if err := e.event(event, args); err != nil {
		return err
	}
	head.Namespace = s.ns.name
	p, err := e.packet(head, t)
	if err != nil {
		return err
	}
	s.ns.outgoing(s, event, args)
	return s.push(p)
}

// push hands a packet to the connection, or keeps it while the socket is connecting.
func (s *Socket) push(p *engine.Packet) error { return s.pushFrom(p, origin{}) }

// origin tells an event from all others, if from is not 0.
type origin struct {
	from, number uint64
	subject      string
	place        uint64 // of the event among all others; 0: that is not known
	passed       bool   // it has come by way of the node that the socket's ID names
}

// pushFrom is push for an event that was published.
func (s *Socket) pushFrom(p *engine.Packet, from origin) error {
	switch s.gate.State() {
	case stateConnected:
		return s.conn.Send(p, &s.gate)
	case stateGone:
		return ErrDisconnected
	}
	return s.hold(p, from)
}

// Broadcast returns an emitter of the socket's namespace that leaves this socket out.
func (s *Socket) Broadcast() *Emitter { return s.ns.Emitter().Except(s.Target()) }

// Disconnect tells the client that the server has disconnected it: the socket.io client does not come
// back by itself. The connection stays for its other namespaces, or with closeConnection is closed,
// with all its sockets, once the client has been told. A socket that is still connecting is refused. One whose
// client may come back, see [Recovery], does not come back.
func (s *Socket) Disconnect(closeConnection bool) {
	for again := true; again; again = s.gate.State() == stateMoved { // its client may come back just then
		s = s.current()
		s.kick()
	}
	if !closeConnection {
		return
	}
	for _, o := range s.client.all() {
		o.kick()
	}
	s.client.close()
}

// Drop closes the connection without telling the client, as a lost network would: it comes back.
func (s *Socket) Drop() {
	s.client.hub.counters.shed.Add(1)
	s.conn.Close(ReasonServerClose)
}

// kick disconnects the socket by the server's will. A client that is just being told that it is
// connected is told after that, by welcome.
func (s *Socket) kick() {
	was := s.end(true)
	if was == stateGone {
		return
	}
	if was == stateParked {
		s.unrecovered(true)
		return
	}
	s.client.forget(s, was, true)
	switch was {
	case stateConnecting:
		s.unrecovered(true) // before the client hears it: the node that has the session must not let it in again
		s.client.refuse(s.ns.name, refusedKicked, nil)
		return
	case stateConnected, stateLogged:
		s.sendDisconnect()
		s.client.departed()
	}
	s.client.enqueue(task{socket: s, reason: ReasonServerDisconnect})
	s.unrecovered(true)
}

// control is for answers, and packets of the protocol itself.
var control = engine.Terms{Control: true}

// sendDisconnect is called when the gate is shut, so that nothing of the socket's follows.
func (s *Socket) sendDisconnect() {
	head := socketio.AppendHeader(make([]byte, 0, 64), socketio.Packet{Type: socketio.Disconnect, Namespace: s.ns.name})
	s.conn.Send(engine.NewPacket(control, head), nil)
}

// leave ends the socket because of its client or its connection.
func (s *Socket) leave(reason Reason) {
	was := s.end(false)
	if was == stateGone {
		return
	}
	if was != stateParked {
		s.client.forget(s, was, false)
	}
	if connected(was) {
		s.client.enqueue(task{socket: s, reason: reason})
	}
	s.unrecovered(false)
}

// end takes the socket out of everything, except that Rooms still knows its rooms, and that the caller has
// the client forget it. It returns the state that it was in. Only the first call does anything; others
// return stateGone. If something is to be sent yet, which is DISCONNECT for one that was kicked,
// client.departed has to be called when that is done.
func (s *Socket) end(kicked bool) (was uint32) { return s.endBefore(stateMoved, kicked) }

// endBefore is end for a socket whose state is before limit.
func (s *Socket) endBefore(limit uint32, kicked bool) (was uint32) {
	h := s.client.hub
	s.mu.Lock()
	was = s.gate.State()
	if was >= limit {
		s.mu.Unlock()
		return stateGone
	}
	if was == stateWelcome || connected(was) && kicked {
		s.client.departs()
	}
	s.gate.Set(stateGone)
	admission := s.admission
	if s.admission = nil; admission != nil {
		admission.disconnect = kicked
		admission.end()
	}
	var acks *acks
	if s.extra != nil {
		acks, s.extra.acks = s.extra.acks, nil
	}
	v := s.sessionLocked()
	if v != nil && (kicked || v.away) && v.holder.Load() == s {
		h.lapsed.add(v.secret[:], cmp.Or(v.why, lossRefused)) // before the client can come back, and ask
	}
	s.mu.Unlock()

	for _, m := range s.rooms { // nobody changes them now
		h.interest.leave(m)
	}
	acks.end(s)
	if admission != nil {
		admission.cancel()
	}
	if connected(was) {
		s.ns.connected.Add(-1)
	}
	s.tellEnded()
	if v != nil {
		h.parked.unset(s)
		if was != stateWelcome || !kicked { // what was emitted before is still being sent
			v.log.Close()
		}
		h.remembered.unset(s)
	}
	if s.named {
		h.guests.remove(s, v)
	}
	if s.place != noPlace {
		h.sockets.remove(s.place)
	}
	h.expiry.unset(s)
	h.release(s.ns)
	return was
}
