package nats

import (
	"encoding/binary"
	"strconv"
	"strings"

	natsio "github.com/nats-io/nats.go"
)

const (
	maxAckBytes   = 32 << 10 // in one message
	maxAckInboxes = 4096     // publishers to remember
)

// acks gathers the acknowledgements that this node owes: ranges of numbers, one message to each publisher
// for all that was read at once. It is owned by the goroutine that reads.
type acks struct {
	conn *natsio.Conn
	to   map[string]*ackTo // by inbox, with the dot at its end
	last *ackTo            // the one that was added to last
	owed []*ackTo          // those with something to send
}

// ackTo is what is owed to one publisher.
type ackTo struct {
	inbox   string
	ranges  []byte
	first   uint64 // of the range that is not in ranges yet
	n       uint64 // its length; 0: there is none
	pending bool   // it is in owed
}

func newAcks(conn *natsio.Conn) *acks {
	return &acks{conn: conn, to: make(map[string]*ackTo)}
}

// add acknowledges the message with this reply subject, if it is one of ours.
func (a *acks) add(reply string) {
	inbox, n, ok := splitReply(reply)
	if !ok {
		return
	}
	to := a.last
	if to == nil || to.inbox != inbox {
		to = a.publisher(inbox)
	}
	if to.n > 0 && n == to.first+to.n {
		to.n++
		return
	}
	to.endRange()
	to.first, to.n = n, 1
	if !to.pending {
		to.pending = true
		a.owed = append(a.owed, to)
	}
	if len(to.ranges) > maxAckBytes {
		a.send(to)
	}
}

func (a *acks) publisher(inbox string) *ackTo {
	to := a.to[inbox]
	if to == nil {
		if len(a.to) >= maxAckInboxes {
			a.flush()
			clear(a.to)
		}
		to = &ackTo{inbox: strings.Clone(inbox)}
		a.to[to.inbox] = to
	}
	a.last = to
	return to
}

func (t *ackTo) endRange() {
	if t.n > 0 {
		t.ranges = appendRange(t.ranges, t.first, t.n)
		t.n = 0
	}
}

// splitReply takes apart inbox.NUMBER. The inbox has the dot at its end.
func splitReply(reply string) (inbox string, n uint64, ok bool) {
	i := strings.LastIndexByte(reply, '.') + 1
	if i <= 1 {
		return "", 0, false
	}
	n, err := strconv.ParseUint(reply[i:], 36, 63)
	if err != nil {
		return "", 0, false
	}
	return reply[:i], n, true
}

// flush sends what is owed. What cannot be sent is forgotten: its publishers will say that they do not know.
func (a *acks) flush() {
	for _, to := range a.owed {
		a.send(to)
		to.pending = false
	}
	clear(a.owed)
	a.owed = a.owed[:0]
}

func (a *acks) send(to *ackTo) {
	to.endRange()
	_ = a.conn.Publish(to.inbox+ackTail, to.ranges)
	to.ranges = to.ranges[:0]
}

// trim forgets publishers, once in a while, so that those that are gone are not kept.
func (a *acks) trim() {
	if len(a.owed) == 0 {
		clear(a.to)
		a.last = nil
	}
}

// appendRange appends n numbers from first on.
func appendRange(dst []byte, first, n uint64) []byte {
	return binary.AppendUvarint(binary.AppendUvarint(dst, first), n)
}

// cutRange undoes appendRange.
func cutRange(data []byte) (first, n uint64, rest []byte, ok bool) {
	first, i := binary.Uvarint(data)
	if i <= 0 {
		return 0, 0, nil, false
	}
	n, j := binary.Uvarint(data[i:])
	if j <= 0 {
		return 0, 0, nil, false
	}
	return first, n, data[i+j:], true
}
