package hub

import (
	"context"
	"encoding/binary"
	"errors"
	"sync"
	"time"

	"tether/cluster"
	"tether/engine"
	"tether/internal/socketio"
)

// SocketAck is what came of an event that one socket was to acknowledge.
type SocketAck struct {
	ID   string // of the socket
	Node cluster.Member

	// Answer is what the client has answered with; nil with an error.
	Answer *Message

	// Err is ErrDisconnected for a socket that has left, context.DeadlineExceeded for one that has not
	// answered in time, ErrNoHandler for one whose client says so, and ErrTooMany or ErrSlowConsumer for one that did not get the event.
	Err error
}

const (
	// pollIDs is where the acknowledgement IDs begin that all sockets of a node share for one event, so
	// that they share its packet too. Those of Socket.EmitAck stay below, and clients' numbers are exact up
	// to 2^53.
	pollIDs = 1 << 40

	pollMargin  = 250 * time.Millisecond // at most, by which clients have less time than the caller
	pollGather  = 50 * time.Millisecond  // that answers wait for others
	maxPollSize = 16 << 20               // bytes of answers that wait to be taken
)

// The flags of an event that is to be acknowledged.
const (
	pollVolatile byte = 1 << iota
	pollMarks
)

// What a node says of a socket.
const (
	ackValue byte = iota
	ackGone
	ackLate
	ackTooMany
	ackSlow
	ackTooLarge
)

var errAckTooLarge = errors.New("hub: more answers are waiting than there is memory for")

// EmitAck emits an event to each socket of a target, on all nodes, and yields one record for each: its answer,
// or why there is none. Clients have until a tenth of the time, and at most a quarter of a second, before the
// deadline of ctx, so that what is known of them is here by then; without a deadline it is 30 s. A stock client without a
// handler for the event does not say so: it does not answer in time. One that says it, as a hub does, gives
// ErrNoHandler. Terms of the emitter count, a socket
// gets the event once at most, and nothing is awaited any more when the context is done.
func (e *Emitter) EmitAck(ctx context.Context, to Target, event string, args ...any) *Answers[SocketAck] {
	var followed *emission
	if len(e.publisher.tracers) > 0 {
		followed = e.publisher.follow(ctx, e.namespace, []Target{to}, event)
	}
	body, err := e.pollBody(event, args, followed)
	if err != nil {
		followed.end(nil, err)
		return &Answers[SocketAck]{err: err}
	}
	asking, err := e.ask(ctx, topicAck, to, true, body, followed.traced())
	if err == nil {
		err = e.logQuestion(ctx, to)
	}
	followed.end(nil, err)
	return &Answers[SocketAck]{asking: asking, err: err, cut: func(node cluster.Member, page []byte) (a SocketAck, rest []byte, ok bool) {
		a, rest, ok = cutAck(page)
		a.Node = node
		return a, rest, ok
	}}
}

// pollBody is the event on its way to the nodes:
//
//	byte     flags
//	byte     policy
//	text     key
//	text     marks of tracers, as in an envelope; only with pollMarks
//	text     payload
//	         each attachment as a text
func (e *Emitter) pollBody(event string, args []any, followed *emission) ([]byte, error) {
	if err := e.publisher.check(event); err != nil {
		return nil, err
	}
	if err := checkTerms(&e.terms); err != nil {
		return nil, err
	}
	enc := newEncoder()
	defer enc.free()
	if err := enc.event(event, args); err != nil {
		return nil, err
	}
	body := []byte{0, byte(e.terms.Overflow)}
	if e.terms.Volatile {
		body[0] = pollVolatile
	}
	body = appendText(body, e.terms.Key)
	if followed != nil && len(followed.marks) > 0 {
		body[0] |= pollMarks
		body = appendText(body, string(followed.marks))
	}
	body = appendText(body, enc.buf.String())
	for _, a := range enc.attachments {
		body = appendText(body, string(a))
	}
	return body, nil
}

// pollPacket is the packet of the event for the sockets of this node.
func (h *Hub) pollPacket(namespace string, id uint64, body []byte) (*engine.Packet, error) {
	if len(body) < 2 {
		return nil, errEnvelopeMalformed
	}
	f := body[0]
	t := engine.Terms{Volatile: f&pollVolatile != 0, Overflow: engine.Overflow(body[1])}
	if !t.Overflow.Valid() {
		t.Overflow = engine.AsConfigured
	}
	key, body, ok := cutText(body[2:])
	if !ok {
		return nil, errEnvelopeMalformed
	}
	if len(key) > 0 {
		t.Key = scopedKey(namespace, string(key))
	}
	var marks []byte
	if f&pollMarks != 0 {
		if marks, body, ok = cutText(body); !ok || len(marks) > maxMarks {
			return nil, errEnvelopeMalformed
		}
	}
	payload, body, ok := cutText(body)
	if !ok {
		return nil, errEnvelopeMalformed
	}
	enc := newEncoder()
	defer enc.free()
	enc.buf.Write(payload)
	for len(body) > 0 {
		var a []byte
		if a, body, ok = cutText(body); !ok {
			return nil, errEnvelopeMalformed
		}
		enc.attachments = append(enc.attachments, a)
	}
	p, err := enc.packet(socketio.Packet{Type: socketio.Event, Namespace: namespace, ID: id, HasID: true}, t)
	if err == nil && len(marks) > 0 {
		h.follow(p, marks, namespace, "")
	}
	return p, err
}

// poll is one event whose answers are awaited from many sockets of this node.
type poll struct {
	id     uint64
	packet *engine.Packet

	mu      sync.Mutex
	waiting map[*Socket]struct{} // guarded by mu
	records []byte               // guarded by mu; to be sent
	news    chan struct{}        // one token: there are records, or nobody is waited for
}

func (h *Hub) answerAck(ctx context.Context, q *cluster.Request, a *about) error {
	id := pollIDs + h.polls.Add(1)
	packet, err := h.pollPacket(a.namespace, id, a.rest)
	if err != nil {
		return err
	}
	p := &poll{id: id, packet: packet, waiting: make(map[*Socket]struct{}), news: make(chan struct{}, 1)}
	deadline, _ := ctx.Deadline()
	left := time.Until(deadline)
	late := time.NewTimer(left - min(left/10, pollMargin))
	defer late.Stop()
	defer p.end(ackLate)
	sockets := 0
	for s := range h.among(a) {
		switch state := s.gate.State(); {
		case state < stateParked:
			sockets++
			p.put(ctx, s)
		case state == stateParked && !packet.Volatile():
			s.lapse(lossQuestion) // it has missed an event that no log keeps
		}
	}
	packet.Routed(sockets)
	for {
		records, waits := p.take()
		for len(records) > 0 {
			page := records[:pageEnd(records)]
			if err := q.Send(ctx, page); err != nil {
				return err
			}
			records = records[len(page):]
		}
		if !waits {
			return nil
		}
		select {
		case <-p.news:
			pause(ctx, pollGather)
		case <-late.C:
			p.end(ackLate)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// pause waits for d, or until ctx is done.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// pageEnd is where a page of about pageBytes ends.
func pageEnd(records []byte) int {
	n := 0
	for n < len(records) && n < pageBytes {
		_, rest, _ := cutAck(records[n:])
		n = len(records) - len(rest)
	}
	return n
}

// put sends the event to a socket.
func (p *poll) put(ctx context.Context, s *Socket) {
	p.mu.Lock()
	p.waiting[s] = struct{}{}
	p.mu.Unlock()
	if err := s.awaitAs(p.id, awaited{poll: p}); err != nil {
		s.refused(p.packet, err)
		p.settle(s, ackOf(err), nil)
		return
	}
	s.saveRisk(ctx)
	if err := s.push(p.packet); err != nil {
		s.unawait(p.id)
		s.refused(p.packet, err)
		p.settle(s, ackOf(err), nil)
	} else if h := s.client.hub; h.watched.Load() {
		h.watchOne(s, p.packet)
	}
}

func ackOf(err error) byte {
	switch {
	case errors.Is(err, errTooManyAcks):
		return ackTooMany
	case errors.Is(err, ErrSlowConsumer):
		return ackSlow
	}
	return ackGone
}

// outcomeOf is what watchers are told of an answer; 0: nothing, or they know.
func outcomeOf(what byte) engine.Outcome {
	switch what {
	case ackValue:
		return engine.Acknowledged
	case ackLate:
		return engine.Unanswered
	case ackTooMany:
		return engine.TooMany
	}
	return 0
}

// settle makes the record of a socket, unless it has one.
func (p *poll) settle(s *Socket, what byte, m *Message) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, waits := p.waiting[s]; !waits {
		return
	}
	delete(p.waiting, s)
	if o := outcomeOf(what); o != 0 {
		p.packet.Became(s.conn, o)
	}
	if m != nil && len(p.records) > maxPollSize {
		what, m = ackTooLarge, nil
	}
	p.records = appendAck(p.records, s.ID(), what, m)
	select {
	case p.news <- struct{}{}:
	default:
	}
}

// end makes the records of all sockets that are waited for.
func (p *poll) end(what byte) {
	p.mu.Lock()
	left := make([]*Socket, 0, len(p.waiting))
	for s := range p.waiting {
		left = append(left, s)
	}
	p.mu.Unlock()
	for _, s := range left {
		s.unawait(p.id)
		p.settle(s, what, nil)
	}
}

// take takes the records that there are, and says whether more may come.
func (p *poll) take() (records []byte, waits bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	records, p.records = p.records, nil
	return records, len(p.waiting) > 0
}

// appendAck appends a record:
//
//	text     ID of the socket
//	byte     what came of it
//	uvarint  number of arguments, and each as a text; with ackValue
//	uvarint  number of attachments, and each as a text; with ackValue
func appendAck(dst []byte, id string, what byte, m *Message) []byte {
	dst = append(appendText(dst, id), what)
	if what != ackValue {
		return dst
	}
	for _, list := range [][][]byte{m.args, m.attachments} {
		dst = binary.AppendUvarint(dst, uint64(len(list)))
		for _, b := range list {
			dst = append(binary.AppendUvarint(dst, uint64(len(b))), b...)
		}
	}
	return dst
}

func cutAck(page []byte) (a SocketAck, rest []byte, ok bool) {
	id, page, ok := cutText(page)
	if !ok || len(page) == 0 {
		return a, nil, false
	}
	a.ID = string(id)
	what, page := page[0], page[1:]
	switch what {
	case ackValue:
		a.Answer = new(Message)
		if a.Answer.args, page, ok = cutTexts(page); ok {
			a.Answer.attachments, page, ok = cutTexts(page)
		}
		if ok && a.Answer.unhandled() {
			a.Answer, a.Err = nil, ErrNoHandler
		}
	case ackLate:
		a.Err = context.DeadlineExceeded
	case ackTooMany:
		a.Err = errTooManyAcks
	case ackSlow:
		a.Err = ErrSlowConsumer
	case ackTooLarge:
		a.Err = errAckTooLarge
	default:
		a.Err = ErrDisconnected
	}
	return a, page, ok
}

func cutTexts(data []byte) (list [][]byte, rest []byte, ok bool) {
	n, data, ok := cutUvarint(data, len(data))
	for range n {
		var b []byte
		if b, data, ok = cutText(data); !ok {
			return nil, nil, false
		}
		list = append(list, b)
	}
	return list, data, ok
}
