package nats

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/lane"
)

var (
	errSilent   = errors.New("the server is silent")
	errReplaced = errors.New("the connection was replaced meanwhile")
)

// send is the lane's Send: all messages, the mark behind them, and one wait for the mark. In that
// time the server's "no responders" have come back too, since it answers in order.
func (b *Broker) send(_ int, lb *lane.Batch) error {
	e := b.link.current()
	if e.ended() {
		return unavailable("publish", b.link.why())
	}
	if err := b.listen(); err != nil {
		return b.failed("publish", err)
	}
	deadline := time.Now().Add(timeout)
	if err := b.cluster.join(e, deadline, b.closed); err != nil {
		return b.failed("publish", err)
	}
	before := b.conn.LastError()
	r := b.receipts.begin(lb.Len())
	sent, err := b.write(lb, r)
	b.cluster.published()
	if err == nil && sent > 0 {
		err = b.awaitMark(r, e, deadline, b.closed)
	}
	if err == nil {
		b.failRefused(lb, r, before)
	}
	b.receipts.settle(r, lb, e, err == nil)
	if err != nil {
		return b.failed("publish", err)
	}
	return nil
}

// write hands the messages of a batch to nats.go, and fails those that are too large.
func (b *Broker) write(lb *lane.Batch, r *batch) (sent int, err error) {
	replies := b.receipts.replies(r)
	wires := make([]string, lb.Len())
	defer b.receipts.wrote(r, wires)
	for i := range lb.Len() {
		m := lb.Message(i)
		wire, hashed := b.names.wire(m.Subject)
		wires[i] = wire
		payload := m.Data
		if hashed {
			payload = appendNamed(make([]byte, 0, len(m.Subject)+len(m.Data)+4), m)
		}
		err := b.conn.PublishRequest(wire, replies+strconv.FormatUint(uint64(i), 36), payload)
		switch {
		case err == nil:
			sent++
		case errors.Is(err, natsio.ErrMaxPayload):
			most := max(0, int(b.conn.MaxPayload())-(len(payload)-len(m.Data)))
			b.receipts.fail(r, i)
			lb.Fail(i, fmt.Errorf("nats: publish: %w: %d bytes, and the server takes %d", broker.ErrTooLarge, len(m.Data), most))
		default:
			return sent, err
		}
	}
	return sent, nil
}

// awaitMark publishes the mark of a batch that was written in epoch e, and waits until it is back.
func (b *Broker) awaitMark(r *batch, e epoch, deadline time.Time, closed <-chan struct{}) error {
	if err := b.receipts.mark(r); err != nil {
		return err
	}
	if b.link.current().n != e.n {
		return errReplaced // and some of the batch may have been written to the old one
	}
	timer := time.NewTimer(time.Until(deadline))
	defer timer.Stop()
	select {
	case <-r.marked:
		return nil
	case <-e.down:
		return b.linkError()
	case <-timer.C:
		return errSilent
	case <-closed:
		return broker.ErrClosed
	}
}

// failRefused fails the message of the batch that the server was last not permitted to take.
func (b *Broker) failRefused(lb *lane.Batch, r *batch, before error) {
	err := b.conn.LastError()
	if err == before || !errors.Is(err, natsio.ErrPermissionViolation) {
		return
	}
	for i := range lb.Len() {
		wire, _ := b.names.wire(lb.Message(i).Subject)
		if strings.Contains(err.Error(), `Publish to "`+wire+`"`) {
			b.log.Warn("nats: the server refuses to publish", "subject", wire)
			b.receipts.fail(r, i)
			lb.Fail(i, fmt.Errorf("nats: publish: %w", natsio.ErrPermissionViolation))
		}
	}
}

// linkError returns why there is no connection.
func (b *Broker) linkError() error {
	if err := b.link.why(); err != nil {
		return err
	}
	return errReplaced
}

// failed turns an error into one that Publish or Subscribe may return.
func (b *Broker) failed(doing string, err error) error {
	if b.isDone() || errors.Is(err, broker.ErrClosed) {
		return broker.ErrClosed
	}
	return unavailable(doing, err)
}
