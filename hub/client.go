package hub

import (
	"bytes"
	"net/http"
	"slices"
	"sync"
	"time"

	"tether/engine"
	"tether/internal/socketio"
)

// client is one connection: the sockets of the namespaces it has joined, and the packet it is
// sending. It is the [engine.Receiver] of its transport.
type client struct {
	first Socket // of the first CONNECT: most connections have no other. Its conn is set from the start
	hub   *Hub   // immutable

	incomplete *incompletePacket // nil unless attachments are missing; the caller of Text and Binary sets it with mu, and reads it without
	begun      bool              // owned by the caller of Text and Binary; first is in use

	closed bool   // guarded by mu; the transport has ended the connection
	place  uint32 // immutable; in the hub's roster

	mu        sync.Mutex
	handshake string  // guarded by mu; packed
	sockets   *Socket // guarded by mu; joined, joining, or to be refused, in the order of CONNECT; linked by next
	inbox     *inbox  // guarded by mu; nil while there is nothing to handle
	kicks     *kicks  // guarded by mu; nil until the server disconnects something
}

// kicks is about what the server has disconnected. The fields are guarded by the client's mu.
type kicks struct {
	kicked    []string      // namespaces
	closing   bool          // the connection is to be closed when no socket is departing
	departing uint32        // sockets that are gone, and of which something is still to be sent
	departed  chan struct{} // closed when there are none; nil unless somebody waits for it
}

func (c *client) kicksLocked() *kicks {
	if c.kicks == nil {
		c.kicks = new(kicks)
	}
	return c.kicks
}

// Attach takes over a new connection for a transport: it implements [engine.Server]. The error is
// ErrDraining.
func (h *Hub) Attach(conn engine.Conn, r *http.Request) (engine.Receiver, error) {
	c, err := h.attach(conn, r)
	if err != nil {
		return nil, err
	}
	return c, nil
}

func (h *Hub) attach(conn engine.Conn, r *http.Request) (*client, error) {
	if h.draining.Load() {
		return nil, ErrDraining
	}
	c := &client{first: Socket{conn: conn}, hub: h, handshake: packHandshake(r, h.options.Time())}
	c.place = h.clients.reserve()
	h.clients.put(c.place, c)
	h.joining.set(c, time.Now().Add(h.options.ConnectTimeout))
	if h.draining.Load() { // Run looks at the roster after it has set this
		h.detach(c)
		return nil, ErrDraining
	}
	return c, nil
}

func (h *Hub) detach(c *client) {
	h.joining.unset(c)
	h.assembling.unset(c)
	h.clients.remove(c.place)
}

// Text implements [engine.Receiver].
func (c *client) Text(data []byte) error {
	err := c.text(data)
	if err != nil {
		c.broken(err)
	}
	return err
}

// broken tells of a packet that breaks the protocol.
func (c *client) broken(err error) {
	c.hub.counters.protocolErrors.Add(1)
	if c.hub.traces() {
		c.hub.log.Debug("a client breaks the protocol", "connection", engine.PublicID(c.first.conn.ID()),
			"error", loggable(err.Error(), maxLoggedError))
	}
	told := slices.DeleteFunc(c.all(), func(s *Socket) bool {
		return !s.Connected() // the others may know that they are in
	})
	for _, s := range told { // all of them, even if what one hears closes the connection
		s.ns.broken(s, err)
	}
}

func (c *client) text(data []byte) error {
	if c.incomplete != nil {
		return errMissingBinary
	}
	p, err := socketio.Parse(data, c.hub.limits)
	if err != nil {
		return err
	}
	switch p.Type {
	case socketio.Connect:
		return c.connect(p)
	case socketio.ConnectError:
		return errWrongDirection
	}
	s, kicked := c.lookup(p.Namespace)
	switch {
	case kicked: // the client does not know yet
	case s == nil:
		return errNotJoined
	case p.Type == socketio.Disconnect:
		s.leave(ReasonClientDisconnect)
		return nil
	case s.gate.State() == stateConnecting:
		return errNotJoined
	}
	if p.Attachments > 0 {
		return c.assemble(p)
	}
	if kicked {
		return nil
	}
	return c.receive(s, p, bytes.Clone(p.Data), nil)
}

// assemble waits for the attachments of p.
func (c *client) assemble(p socketio.Packet) error {
	left := c.hub.options.Limits.PacketBytes - len(p.Data)
	if left < 0 {
		return errTooMuchBinary
	}
	p.Event = bytes.Clone(p.Event)
	in := &incompletePacket{conn: c.first.conn, packet: p, missing: p.Attachments, left: left, data: bytes.Clone(p.Data)}
	in.packet.Data = nil
	in.share.End = in.giveUp
	c.setIncomplete(in)
	c.hub.assembling.set(c, time.Now().Add(c.hub.options.AttachmentTimeout))
	return c.hub.incomplete.add(in)
}

// setIncomplete has Closed know what is to be ended. What comes after Closed has ended before it began.
func (c *client) setIncomplete(p *incompletePacket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p != nil {
		p.ended = c.closed
	}
	c.incomplete = p
}

// Binary implements [engine.Receiver].
func (c *client) Binary(data []byte) error {
	err := c.binary(data)
	if err != nil {
		c.broken(err)
	}
	return err
}

func (c *client) binary(data []byte) error {
	in := c.incomplete
	if in == nil {
		return errUnasked
	}
	if in.left -= len(data); in.left < 0 {
		return errTooMuchBinary
	}
	attachment := make([]byte, len(data)) // not nil, even if it is empty
	copy(attachment, data)
	if in.missing--; in.missing > 0 {
		return c.hub.incomplete.add(in, attachment)
	}
	c.setIncomplete(nil)
	c.hub.assembling.unset(c)
	if !c.hub.incomplete.end(in) {
		return errNoRoom
	}
	s := c.find(in.packet.Namespace)
	if s == nil {
		return nil // the server has disconnected it meanwhile
	}
	return c.receive(s, in.packet, in.data, append(in.attachments, attachment))
}

// receive takes a whole event or answer.
func (c *client) receive(s *Socket, p socketio.Packet, data []byte, attachments [][]byte) error {
	if p.Type == socketio.Ack || p.Type == socketio.BinaryAck {
		s.acknowledged(newMessage(s, p, data, attachments))
		return nil
	}
	if data == nil { // an event without a name: the reference ignores it too
		return nil
	}
	size := len(data)
	for _, a := range attachments {
		size += len(a)
	}
	return c.enqueue(task{socket: s, message: newMessage(s, p, data, attachments), size: size})
}

// Closed implements [engine.Receiver]. Only the first call counts.
func (c *client) Closed(reason Reason) {
	c.mu.Lock()
	again := c.closed
	c.closed = true
	in := c.incomplete
	c.mu.Unlock()
	if in != nil {
		c.hub.incomplete.end(in)
	}
	if again {
		return
	}
	for _, s := range c.all() {
		s.lose(reason)
	}
	c.hub.detach(c)
}

func (c *client) find(namespace string) *Socket {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.findLocked(namespace)
}

// findLocked finds the socket of a namespace. One that is gone, and waits to be answered, is not meant.
func (c *client) findLocked(namespace string) *Socket {
	for s := c.sockets; s != nil; s = s.next {
		if s.ns.name == namespace && s.gate.State() < stateParked {
			return s
		}
	}
	return nil
}

// lookup is find for a packet that is not CONNECT. It reports whether the server has disconnected the
// namespace, or is just doing so: what the client had sent by then is no mistake of its.
func (c *client) lookup(namespace string) (s *Socket, kicked bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.findLocked(namespace); s != nil {
		return s, false
	}
	for s := c.sockets; s != nil && !kicked; s = s.next {
		kicked = s.ns.name == namespace // it is gone, and not forgotten yet
	}
	return nil, kicked || c.kicks != nil && slices.Contains(c.kicks.kicked, namespace)
}

// joined reports whether one of the sockets is connected.
func (c *client) joined() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.sockets; s != nil; s = s.next {
		if s.Connected() {
			return true
		}
	}
	return false
}

// all returns the sockets.
func (c *client) all() (list []*Socket) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for s := c.sockets; s != nil; s = s.next {
		list = append(list, s)
	}
	return list
}

// close closes the connection once every socket that was kicked has been told.
func (c *client) close() {
	c.mu.Lock()
	k := c.kicksLocked()
	k.closing = true
	now := k.departing == 0
	c.mu.Unlock()
	if now {
		c.first.conn.Close(ReasonServerDisconnect)
	}
}

// departs counts a socket that is gone, and of which something is still to be sent.
func (c *client) departs() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.kicksLocked().departing++
}

// departed is called when that has been sent.
func (c *client) departed() {
	c.mu.Lock()
	k := c.kicks
	k.departing--
	last := k.departing == 0
	if last && k.departed != nil {
		close(k.departed)
		k.departed = nil
	}
	closing := last && k.closing
	c.mu.Unlock()
	if closing {
		c.first.conn.Close(ReasonServerDisconnect)
	}
}

// awaitDepartures returns once the sockets that are gone have sent everything. A socket of the same
// namespace can have joined meanwhile: the answer to it must not come before the DISCONNECT of the other.
func (c *client) awaitDepartures() {
	c.mu.Lock()
	var departed chan struct{}
	if k := c.kicks; k != nil && k.departing > 0 {
		if k.departed == nil {
			k.departed = make(chan struct{})
		}
		departed = k.departed
	}
	c.mu.Unlock()
	if departed != nil {
		<-departed
	}
}

// forget removes a socket, so that its namespace can be joined again.
func (c *client) forget(s *Socket, was uint32, kicked bool) {
	c.mu.Lock()
	for at := &c.sockets; *at != nil; at = &(*at).next {
		if *at == s {
			*at, s.next = s.next, nil
			break
		}
	}
	if kicked {
		k := c.kicksLocked()
		if !slices.Contains(k.kicked, s.ns.name) {
			if len(k.kicked) >= c.hub.options.Limits.Namespaces {
				k.kicked = k.kicked[1:]
			}
			k.kicked = append(k.kicked, s.ns.name)
		}
	}
	c.mu.Unlock()
	c.rearm(was != stateConnecting)
}

// rearm gives a connection whose last namespace is gone as long for another as it had for the first. One
// that was only refused another has what is left of its time, if it has a deadline; it has none if the
// namespace that it was in has gone meanwhile.
func (c *client) rearm(fresh bool) {
	if !c.idle() {
		return
	}
	when := time.Now().Add(c.hub.options.ConnectTimeout)
	if fresh {
		c.hub.joining.set(c, when)
	} else {
		c.hub.joining.add(c, when)
	}
	c.mu.Lock()
	closed := c.closed
	c.mu.Unlock()
	if closed { // perhaps before the deadline was set
		c.hub.joining.unset(c)
	}
}

func (c *client) idle() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sockets == nil && !c.closed
}
