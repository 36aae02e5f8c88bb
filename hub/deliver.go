package hub

import (
	"errors"
	"slices"
	"strings"

	"tether/broker"
	"tether/engine"
	"tether/internal/socketio"
)

// deliver takes a message of the broker. It must not call the broker, and must not block: for most
// brokers it runs on the goroutine that reads from the backend.
func (h *Hub) deliver(m broker.Message) {
	h.counters.received.Add(1)
	n := h.route(m)
	if n == 0 {
		h.counters.wasted.Add(1)
	}
	h.settled(m, n > 0)
}

// route hands a message to whom it is for and returns how many that are: sockets of this node, or 1
// for what is for the node itself. A message that cannot be read is for nobody.
//
// A plain event for one socket may stay lent, to be written before anything else is made of it. All other
// messages are owned first.
func (h *Hub) route(m broker.Message) int {
	e, err := parseEnvelope(m.Data)
	if err != nil {
		h.count(err)
		return 1
	}
	e.place = m.Place
	if m.Lent {
		if e.kind == kindEvent && e.excepts == 0 && e.flags&(flagTerms|flagStamp|flagMarks) == 0 && len(e.target) == 0 {
			if s := h.index.lookup(m.Subject).only(); s != nil && h.lend(s, &e, m.Subject) {
				return 1
			}
		}
		return h.route(m.Own())
	}
	if e.kind == kindCluster {
		if !h.cluster.Deliver(e.body) {
			h.count(errEnvelopeMalformed)
		}
		return 1
	}
	if e.kind == kindFence {
		h.fenceArrived(e.body)
		return 1
	}
	if m.Subject == h.subject {
		return h.routeNode(&e)
	}
	room := h.index.lookup(m.Subject)
	if room == nil {
		h.missed(m.Subject, &e)
		return 0
	}
	if e.kind == kindEvict {
		for s := range room.each {
			h.evictIfOlder(s, e.body)
		}
		return 1
	}
	if e.kind != kindEvent {
		h.count(errEnvelopeMalformed)
		return 1
	}
	p := h.packet(m.Subject, &e)
	if p == nil {
		return 1
	}
	if e.excepts > 0 {
		return h.fanOutExcept(room, p, e.origin(m.Subject), h.exceptions(m.Subject, &e))
	}
	return h.fanOut(room, p, e.origin(m.Subject))
}

// origin is what tells the event that has come on a subject from all others.
func (e *envelope) origin(subject string) origin {
	return origin{e.from, e.number, subject, e.place, e.passed(subject)}
}

// lend sends a packet that is lent. It reports false if the event has attachments or cannot be read.
func (h *Hub) lend(s *Socket, e *envelope, subject string) bool {
	p := engine.Lend(e.body, e.flags&flagVolatile != 0)
	if p == nil {
		return false
	}
	dropped := 0
	if s.pushFrom(p, e.origin(subject)) != nil {
		dropped = 1
	}
	h.sent(1, dropped)
	if h.watched.Load() {
		h.watchOne(s, p.Keep())
	}
	p.GiveBack()
	return true
}

// packet is the packet of an event, nil if there is none. The room subject that it is for is read only
// with flagTerms or flagMarks.
func (h *Hub) packet(subject string, e *envelope) *engine.Packet {
	var namespace string
	if e.flags&(flagTerms|flagMarks) != 0 {
		namespace = h.namespaceOf(subject)
	}
	t, known := e.readTerms(namespace)
	if !known {
		h.count(errEnvelopeNewer)
	}
	p, err := engine.ParsePacket(t, e.body)
	if err != nil {
		h.count(err)
		return nil
	}
	if e.flags&flagStamp != 0 {
		p.SetEmitted(h.emitted(e.stamp))
	}
	if e.flags&flagMarks != 0 {
		h.follow(p, e.marks, namespace, subject)
	}
	return p
}

// namespaceOf is the namespace that a room subject is in, "" of what is none.
func (h *Hub) namespaceOf(subject string) string {
	if len(subject) <= len(h.options.Prefix) {
		return ""
	}
	namespace, _, _ := strings.Cut(subject[len(h.options.Prefix)+1:], ",")
	return namespace
}

func (h *Hub) count(err error) {
	if errors.Is(err, errEnvelopeNewer) {
		h.counters.newer.Add(1)
	} else {
		h.counters.malformed.Add(1)
	}
}

// fanOut sends a packet to the members of a room. This is the hot path: nothing is allocated or
// locked for a receiver.
func (h *Hub) fanOut(r *room, p *engine.Packet, from origin) (n int) {
	dropped := 0
	for s := range r.each {
		n++
		if err := s.pushFrom(p, from); err != nil {
			dropped++
			s.refused(p, err)
		}
	}
	h.sent(n, dropped)
	p.Routed(n)
	if h.watched.Load() {
		h.watch(r, p, nil)
	}
	return n
}

func (h *Hub) fanOutExcept(r *room, p *engine.Packet, from origin, x exceptions) (n int) {
	dropped, skipped := 0, 0
	for s := range r.each {
		if x.has(s) {
			skipped++
			continue
		}
		n++
		if err := s.pushFrom(p, from); err != nil {
			dropped++
			s.refused(p, err)
		}
	}
	h.sent(n, dropped)
	p.Routed(n)
	if h.watched.Load() {
		h.watch(r, p, &x)
	}
	return n + skipped // a message that was for others only was not wasted on a node that has them
}

func (h *Hub) sent(n, dropped int) {
	h.counters.delivered.Add(uint64(n - dropped))
	if dropped > 0 {
		h.counters.dropped.Add(uint64(dropped))
	}
}

// exceptions are the sockets and rooms that do not get a packet.
type exceptions struct {
	sockets []*Socket // of this node
	rooms   []*room   // that have members on this node
}

func (h *Hub) exceptions(subject string, e *envelope) (x exceptions) {
	if e.excepts == 0 {
		return x
	}
	start := len(h.options.Prefix) + 1
	comma := strings.IndexByte(subject[start:], ',')
	namespace := subject[:start+comma+1]
	for text := range e.exceptions() {
		x.add(h, namespace, string(text))
	}
	return x
}

// add adds a target by its name. The namespace is the subject of everyone in it.
func (x *exceptions) add(h *Hub, namespace, name string) {
	if s := h.socket(name); s != nil {
		x.sockets = append(x.sockets, s)
	}
	if r := h.index.lookup(namespace + name); r != nil {
		x.rooms = append(x.rooms, r)
	}
}

func (x *exceptions) has(s *Socket) bool {
	if slices.Contains(x.sockets, s) {
		return true
	}
	for _, o := range x.sockets {
		if (o.gate.State() == stateMoved || s.gate.State() == stateMoved) && o.current() == s.current() {
			return true
		}
	}
	for _, r := range x.rooms {
		if s.in(r) {
			return true
		}
	}
	return false
}

// routeNode handles what came on this node's own subject.
func (h *Hub) routeNode(e *envelope) int {
	s := h.target(e.target)
	moved := h.departed.n.Load() > 0 && e.moved(h)
	if moved && s != nil && s.named {
		s = nil // it has come back, and gets this the way it got what was before: through the room
	}
	if moved && (s == nil || e.kind == kindEvent && s.gate.State() >= stateParked) { // also while the last of it here ends
		defer h.forward(e) // behind the look into the log of the session: see snapshot
	}
	if s == nil {
		if moved {
			return 1
		}
		h.missed(string(e.target), e)
		return 0
	}
	x := h.exceptions(string(e.target), e)
	if x.has(s) {
		return 1
	}
	switch e.kind {
	case kindEvent:
		subject := ""
		if e.flags&(flagTerms|flagMarks) != 0 {
			subject = string(e.target)
		}
		p := h.packet(subject, e)
		if p == nil {
			return 1
		}
		dropped := 0
		if err := s.pushFrom(p, e.origin(string(e.target))); err != nil {
			dropped = 1
			s.refused(p, err)
		}
		h.sent(1, dropped)
		p.Routed(1)
		if h.watched.Load() {
			h.watchOne(s, p)
		}
	case kindEvict:
		h.evictIfOlder(s, e.body)
	default:
		h.count(errEnvelopeMalformed)
	}
	return 1
}

// moved reports whether the socket that the message is for has gone, or is about to go, to another node.
func (e *envelope) moved(h *Hub) bool {
	return len(e.target) >= idLength && h.departed.has(string(e.target[len(e.target)-idLength:]))
}

// target finds the socket whose ID is at the end of a room subject, if that is its room.
func (h *Hub) target(subject []byte) *Socket {
	if len(subject) < idLength {
		return nil
	}
	s := h.socket(string(subject[len(subject)-idLength:]))
	if s == nil || string(subject[:len(subject)-idLength]) != s.ns.subject {
		return nil
	}
	return s
}

// socket is this node's socket with the given ID, nil if there is none.
func (h *Hub) socket(id string) *Socket {
	if !isID(id) {
		return nil
	}
	if s := h.guests.withID(id); s != nil { // perhaps what it was here listens on for a moment
		return s
	}
	s := h.sockets.at(placeOf(id))
	if s == nil || !s.is(id) {
		return nil
	}
	return s
}

// watch tells the functions of OnAnyOutgoing about a packet of fan-out. Only now is it taken apart.
func (h *Hub) watch(r *room, p *engine.Packet, x *exceptions) {
	var event string
	var args []any
	for s := range r.each {
		if x != nil && x.has(s) || len(s.ns.handled().outgoing) == 0 {
			continue
		}
		if event == "" {
			if event, args = unpack(p); event == "" {
				return
			}
		}
		s.ns.outgoing(s, event, args)
	}
}

func (h *Hub) watchOne(s *Socket, p *engine.Packet) {
	if len(s.ns.handled().outgoing) == 0 {
		return
	}
	if event, args := unpack(p); event != "" {
		s.ns.outgoing(s, event, args)
	}
}

// unpack takes an event apart again.
func unpack(p *engine.Packet) (event string, args []any) {
	parsed, err := socketio.Parse(p.Text()[1:], socketio.Limits{})
	if err != nil {
		return "", nil
	}
	attachments := make([][]byte, p.Attachments())
	for i := range attachments {
		attachments[i] = p.Attachment(i)
	}
	m := newMessage(nil, parsed, parsed.Data, attachments)
	return m.event, m.Args()
}
