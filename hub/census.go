package hub

import (
	"context"
	"encoding/binary"

	"tether/broker"
	"tether/cluster"
)

// census is one registration that asks who else is there. The fields below room are guarded by the
// devices' mu.
type census struct {
	socket *Socket
	id     string // the socket's
	room   string // subject

	stamp   int64
	others  map[string]claim // by ID
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

// answerDevices tells another node, or this one, which sockets are registered in a room here, and notes the asker down.
func (h *Hub) answerDevices(ctx context.Context, q *cluster.Request) error {
	subject, id, stamp, ok := parseCensus(q.Body)
	if !ok {
		h.count(errEnvelopeMalformed)
		return errEnvelopeMalformed
	}
	return q.Send(ctx, h.devices.claims(subject, h.index.lookup(subject), id, stamp))
}

// claims are the registrations in r, which is nil if there are none, without that of the socket that asks.
func (d *devices) claims(subject string, r *room, id string, stamp int64) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
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
		if since == 0 || own == id || n == maxClaims || s.gate.State() >= stateParked {
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
	return append(binary.AppendUvarint(nil, uint64(n)), claims...)
}

// learn notes a claim down. That one is through is not forgotten again.
func (c *census) learn(id string, o claim) {
	if known, ok := c.others[id]; ok && known.through {
		return
	}
	c.others[id] = o
}

func parseCensus(body []byte) (subject, id string, stamp int64, ok bool) {
	room, body, ok := cutText(body)
	if !ok {
		return "", "", 0, false
	}
	socket, body, ok := cutText(body)
	if !ok || !isID(string(socket)) {
		return "", "", 0, false
	}
	stamp, n := binary.Varint(body)
	return string(room), string(socket), stamp, n > 0 && n == len(body)
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
