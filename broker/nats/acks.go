package nats

import (
	"encoding/binary"
	"strconv"
	"strings"

	natsio "github.com/nats-io/nats.go"
)

const maxAckBytes = 32 << 10 // in one message

// maxPublishers is how many publishers are remembered, at most.
const maxPublishers = 4096

// acks gathers the acknowledgements that this node owes: ranges of numbers, one message to each publisher
// for all that was read at once. It is owned by the goroutine that reads.
type acks struct {
	conn       *natsio.Conn
	publishers map[string]*publisher // by inbox, with the dot at its end
	owed       []*publisher          // that have something to get
	last       *publisher            // that was asked for last; nil: none
}

// publisher is what is known of one publisher.
type publisher struct {
	inbox  string
	newest uint64 // number of the last message that was taken
	ranges []byte
	first  uint64 // of the range that is not in ranges yet
	n      uint64 // its length; 0: nothing is owed
}

func newAcks(conn *natsio.Conn) *acks {
	return &acks{conn: conn, publishers: make(map[string]*publisher)}
}

// of returns the publisher of the message with this reply subject, and its number; nil if it is not one of ours.
func (a *acks) of(reply string) (*publisher, uint64) {
	inbox, n, ok := splitReply(reply)
	if !ok {
		return nil, 0
	}
	if a.last == nil || a.last.inbox != inbox {
		a.last = a.publishers[inbox]
		if a.last == nil {
			a.last = &publisher{inbox: inbox}
			a.publishers[inbox] = a.last
		}
	}
	return a.last, n
}

// add acknowledges a message. to may be nil.
func (a *acks) add(to *publisher, n uint64) {
	if to == nil {
		return
	}
	to.newest = max(to.newest, n)
	switch {
	case to.n == 0:
		a.owed = append(a.owed, to)
	case n == to.first+to.n:
		to.n++
		return
	default:
		to.endRange()
	}
	to.first, to.n = n, 1
	if len(to.ranges) > maxAckBytes {
		a.send(to)
	}
}

func (p *publisher) endRange() { p.ranges = appendRange(p.ranges, p.first, p.n) }

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
		to.endRange()
		a.send(to)
		to.n = 0
	}
	a.owed = a.owed[:0]
	if len(a.publishers) > maxPublishers {
		clear(a.publishers)
		a.last = nil
	}
}

// send sends the ranges that have ended.
func (a *acks) send(to *publisher) {
	_ = a.conn.Publish(to.inbox+ackTail, to.ranges)
	to.ranges = to.ranges[:0]
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
