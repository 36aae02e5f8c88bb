package nats

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/lane"
)

var (
	errSilent   = errors.New("the server is silent")
	errReplaced = errors.New("the connection was replaced meanwhile")
)

// send is the lane's Send. It hands the messages of a batch to nats.go; receipts answers them.
func (b *Broker) send(_ int, lb *lane.Batch) error {
	e := b.link.current()
	if e.ended() {
		return unavailable("publish", b.link.why())
	}
	select {
	case <-b.listening:
	case <-e.down:
		return unavailable("publish", b.link.why())
	case <-time.After(timeout):
		return unavailable("publish", errSilent)
	case <-b.closed:
		return broker.ErrClosed
	}
	if !b.cluster.isJoined() {
		b.cluster.awaitJoined(e)
	}
	r := b.receipts
	first, batch := r.next, r.scratch[:0]
	var buf []byte
	for i := range lb.Len() {
		var at int
		buf, at = b.appendSubjects(buf[:0], lb.Message(i).Subject, first+uint64(i))
		s := string(buf) // of both the subject and the reply
		batch = append(batch, slot{Pending: lb.Later(i), wire: s[:at], reply: s[at:], waits: true})
	}
	r.wait(batch, e)
	b.cluster.published()
	var failed error
	for i := range batch {
		if failed == nil {
			failed = b.write(lb.Message(i), &batch[i], first+uint64(i))
		}
		if failed != nil {
			r.fail(first+uint64(i), b.failed("publish", failed))
		}
	}
	clear(batch)
	r.scratch = batch[:0]
	return nil
}

// appendSubjects appends the subject of the server, and at the index at the reply subject.
func (b *Broker) appendSubjects(dst []byte, subject string, n uint64) (both []byte, at int) {
	dst = b.names.appendWire(dst, subject)
	at = len(dst)
	return strconv.AppendUint(append(dst, b.inbox...), n, 36), at
}

// write hands one message to nats.go. The error is that of the connection; one of the message alone is told
// to its publisher.
func (b *Broker) write(m broker.Message, s *slot, n uint64) error {
	payload := m.Data
	if b.names.isHash(s.wire) {
		payload = appendNamed(make([]byte, 0, len(m.Subject)+len(m.Data)+4), m)
	}
	err := b.conn.PublishRequest(s.wire, s.reply, payload)
	if !errors.Is(err, natsio.ErrMaxPayload) {
		return err
	}
	most := max(0, int(b.conn.MaxPayload())-(len(payload)-len(m.Data)))
	b.receipts.fail(n, fmt.Errorf("nats: publish: %w: %d bytes, and the server takes %d", broker.ErrTooLarge, len(m.Data), most))
	return nil
}

// failed turns an error of the connection into one that Publish or Subscribe may return.
func (b *Broker) failed(doing string, err error) error {
	if b.isDone() || errors.Is(err, broker.ErrClosed) {
		return broker.ErrClosed
	}
	return unavailable(doing, err)
}
