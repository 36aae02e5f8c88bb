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

// acks gathers the acknowledgements that this node owes, by publisher. It is owned by the goroutine
// that feeds the dispatcher.
type acks struct {
	conn *natsio.Conn
	to   map[string]*ackTo // by inbox, without the dot at its end
	owed bool              // something has not been sent
	lost bool              // something could not be sent
}

type ackTo struct {
	subject string
	pairs   []byte
}

func newAcks(conn *natsio.Conn) *acks {
	return &acks{conn: conn, to: make(map[string]*ackTo)}
}

// add acknowledges the message with this reply subject, if it is one of ours.
func (a *acks) add(reply string) {
	inbox, id, index, ok := splitReply(reply)
	if !ok {
		return
	}
	to := a.to[inbox]
	if to == nil {
		if len(a.to) >= maxAckInboxes {
			a.lost = !a.flush() || a.lost
			clear(a.to)
		}
		to = &ackTo{subject: inbox + "._"}
		a.to[strings.Clone(inbox)] = to
	}
	if len(to.pairs) > maxAckBytes {
		a.send(to)
	}
	to.pairs = binary.AppendUvarint(to.pairs, id)
	to.pairs = binary.AppendUvarint(to.pairs, index)
	a.owed = true
}

// splitReply takes apart inbox.BATCH.INDEX.
func splitReply(reply string) (inbox string, id, index uint64, ok bool) {
	j := strings.LastIndexByte(reply, '.')
	if j < 0 {
		return "", 0, 0, false
	}
	i := strings.LastIndexByte(reply[:j], '.')
	if i <= 0 {
		return "", 0, 0, false
	}
	id, err := strconv.ParseUint(reply[i+1:j], 36, 64)
	if err != nil {
		return "", 0, 0, false
	}
	index, err = strconv.ParseUint(reply[j+1:], 36, 31)
	if err != nil {
		return "", 0, 0, false
	}
	return reply[:i], id, index, true
}

// flush sends what is owed, one message to each publisher, and reports whether everything since the
// last flush could be sent. What could not is not owed any more: it must not be delivered.
func (a *acks) flush() bool {
	if a.owed {
		for _, to := range a.to {
			if len(to.pairs) > 0 {
				a.send(to)
			}
		}
	}
	ok := !a.lost
	a.owed, a.lost = false, false
	return ok
}

// drop forgets what is owed.
func (a *acks) drop() {
	if !a.owed {
		return
	}
	for _, to := range a.to {
		to.pairs = to.pairs[:0]
	}
	a.owed, a.lost = false, false
}

// trim forgets publishers, once in a while, so that those that are gone are not kept.
func (a *acks) trim() {
	if !a.owed {
		clear(a.to)
	}
}

func (a *acks) send(to *ackTo) {
	if a.conn.Publish(to.subject, to.pairs) != nil {
		a.lost = true
	}
	to.pairs = to.pairs[:0]
}
