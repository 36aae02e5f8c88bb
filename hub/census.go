package hub

import (
	"encoding/binary"

	"tether/broker"
	"tether/cluster"
)

// census is one registration that asks who else is there. The fields below number are guarded by the
// devices' mu.
type census struct {
	socket *Socket
	id     string // the socket's
	room   string // subject
	number uint64

	stamp   int64
	others  map[string]claim // by ID
	nodes   int              // that have answered
	news    chan struct{}    // one token: nodes has grown
	evicted bool             // by a newer one
}

// claim is another socket that is registered in the same room.
type claim struct {
	stamp   int64
	through bool
}

// evictions are messages that disconnect sockets whose registrations are older than that of c, which is
// through.
func (c *census) evictions(prefix string, ids []string) []broker.Message {
	msgs := make([]broker.Message, len(ids))
	for i, id := range ids {
		data := appendEnvelope(nil, kindEvict, 0, c.socket.ns.subject+id, nil)
		data = binary.AppendVarint(data, c.stamp)
		data = appendText(data, c.id)
		data = appendText(data, c.room)
		msgs[i] = broker.Message{Subject: cluster.NodeSubject(prefix, id[:tagLength]), Data: data}
	}
	return msgs
}

// answerCensus tells another node, or this one, who is registered in r here, and notes down who asks.
// r is nil if there is nobody.
func (h *Hub) answerCensus(subject string, r *room, body []byte) int {
	number, asker, id, stamp, ok := parseCensus(body)
	if !ok {
		h.count(errEnvelopeMalformed)
		return 1
	}
	d := &h.devices
	answer := appendEnvelope(nil, kindAnswer, 0, "", nil)
	answer = binary.AppendUvarint(answer, number)

	d.mu.Lock()
	pending := make(map[string]*census)
	for _, c := range d.rooms[subject] {
		pending[c.id] = c
		if c.id != id {
			c.learn(id, claim{stamp: stamp})
		}
	}
	n := 0
	var claims []byte
	for s := range r.each {
		since, own := s.stamp(r.subject), s.ID()
		if since == 0 || own == id || n == maxClaims {
			continue
		}
		through := byte(1)
		if c := pending[own]; c != nil {
			since, through = c.stamp, 0
		}
		claims = appendText(claims, own)
		claims = append(binary.AppendVarint(claims, since), through)
		n++
	}
	d.mu.Unlock()

	answer = append(binary.AppendUvarint(answer, uint64(n)), claims...)
	select {
	case d.answers <- broker.Message{Subject: cluster.NodeSubject(h.options.Prefix, asker), Data: answer}:
	default:
		h.log.Error("too many questions about registrations; one is not answered")
	}
	return 1
}

// learn notes a claim down. That one is through is not forgotten again.
func (c *census) learn(id string, o claim) {
	if known, ok := c.others[id]; ok && known.through {
		return
	}
	c.others[id] = o
}

// takeAnswer notes down what a node has answered.
func (h *Hub) takeAnswer(body []byte) int {
	d := &h.devices
	n, body, ok := cutUint64(body)
	if !ok {
		h.count(errEnvelopeMalformed)
		return 1
	}
	claims, ok := parseClaims(body)
	if !ok {
		h.count(errEnvelopeMalformed)
		return 1
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	c := d.mine[n]
	if c == nil {
		return 1 // too late
	}
	for id, o := range claims {
		if id != c.id {
			c.learn(id, o)
		}
	}
	c.nodes++
	select {
	case c.news <- struct{}{}:
	default:
	}
	return 1
}

func parseCensus(body []byte) (number uint64, asker, id string, stamp int64, ok bool) {
	if number, body, ok = cutUint64(body); !ok {
		return
	}
	tag, body, ok := cutText(body)
	if !ok || len(tag) != tagLength {
		return 0, "", "", 0, false
	}
	socket, body, ok := cutText(body)
	if !ok || !isID(string(socket)) {
		return 0, "", "", 0, false
	}
	stamp, n := binary.Varint(body)
	return number, string(tag), string(socket), stamp, n > 0 && n == len(body)
}

func parseClaims(body []byte) (map[string]claim, bool) {
	n, body, ok := cutUvarint(body, min(maxClaims, len(body)))
	if !ok {
		return nil, false
	}
	claims := make(map[string]claim)
	for range n {
		var id []byte
		if id, body, ok = cutText(body); !ok || !isID(string(id)) {
			return nil, false
		}
		stamp, width := binary.Varint(body)
		if width <= 0 || len(body) == width || body[width] > 1 {
			return nil, false
		}
		claims[string(id)] = claim{stamp: stamp, through: body[width] == 1}
		body = body[width+1:]
	}
	return claims, len(body) == 0
}

func cutUint64(data []byte) (uint64, []byte, bool) {
	v, width := binary.Uvarint(data)
	if width <= 0 {
		return 0, nil, false
	}
	return v, data[width:], true
}
