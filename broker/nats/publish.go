package nats

import (
	"context"
	"errors"
	"fmt"
	"maps"
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

// send is the lane's Send. It returns when the server has taken the messages, and the stream those that have a place: what is
// published meanwhile leaves together then. The receipts come later. If the stream does not answer in time what has a place fails.
func (b *Broker) send(_ int, lb *lane.Batch) error {
	e := b.link.current()
	if err := b.awaitReady(e); err != nil {
		return err
	}
	first, batch := b.number(lb)
	b.receipts.wait(batch)
	b.cluster.published()
	var err, stalled error // of the connection; of the stream alone
	through := b.kept == nil
	for i := 0; i < len(batch) && err == nil; i++ {
		if b.isBehind(lb, batch, i) {
			if stalled == nil {
				stalled = b.awaitStored(e)
			}
			if stalled != nil {
				b.receipts.fail(first+uint64(i), b.failed(context.Background(), "publish", stalled))
				continue
			}
		}
		through = through || !batch[i].placed
		err = b.write(e, lb.Message(i), &batch[i], first+uint64(i))
	}
	if err == nil && through {
		err = b.flush(context.Background(), e)
	}
	if err == nil && stalled == nil && b.kept != nil {
		stalled = b.awaitStored(e)
	}
	switch {
	case err != nil:
		b.receipts.failFrom(first, b.failed(context.Background(), "publish", err))
	case stalled != nil:
		b.receipts.failUnstored(first, b.failed(context.Background(), "publish", stalled))
	}
	b.receipts.taken()
	if b.kept != nil {
		b.receipts.forget()
	}
	clear(batch)
	return nil
}

// isBehind reports whether a message that has no place comes behind one for the same subject that has, and that the stream
// has not passed on yet. Others do not wait for the stream: nodes live by them.
func (b *Broker) isBehind(lb *lane.Batch, batch []slot, i int) bool {
	if b.kept == nil || batch[i].placed || !b.receipts.expects() {
		return false
	}
	for j := range i {
		if batch[j].placed && lb.Message(j).Subject == lb.Message(i).Subject {
			return true
		}
	}
	return false
}

// awaitReady waits until the server may be told where to answer, and the others know where we are.
func (b *Broker) awaitReady(e epoch) error {
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
	if b.kept != nil {
		if _, err := b.kept.await(context.Background(), e, b.closed); err != nil {
			return err
		}
	}
	b.cluster.awaitJoined(context.Background(), e)
	return nil
}

// awaitStored returns when the stream has answered for everything so far.
func (b *Broker) awaitStored(e epoch) error {
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	for b.receipts.expects() {
		select {
		case <-b.receipts.settled:
		case <-e.down:
			return errReplaced
		case <-limit.C:
			return errSilent
		case <-b.closed:
			return broker.ErrClosed
		}
	}
	return nil
}

// number gives the messages of a batch their numbers, and the subjects of the server: all in one piece of memory.
func (b *Broker) number(lb *lane.Batch) (first uint64, batch []slot) {
	r := b.receipts
	first, batch = r.next, r.scratch[:0]
	text, ends := r.text[:0], r.ends[:0]
	for i := range lb.Len() {
		m := lb.Message(i)
		if b.isPlaced(m) {
			r.room = b.names.appendWire(r.room[:0], m.Subject)
			text = b.kept.appendSubject(text, m.Log, r.room)
		} else {
			text = b.names.appendWire(text, m.Subject)
		}
		ends = append(ends, len(text))
		text = strconv.AppendUint(append(text, b.inbox...), first+uint64(i), 36)
		ends = append(ends, len(text))
	}
	begin, all := 0, string(text)
	for i := range lb.Len() {
		middle, end := ends[2*i], ends[2*i+1]
		batch = append(batch, slot{Pending: lb.Later(i), wire: all[begin:middle], reply: all[middle:end], waits: true, placed: b.isPlaced(lb.Message(i))})
		begin = end
	}
	r.scratch, r.text, r.ends = batch, text, ends
	return first, batch
}

// write hands one message to nats.go. The error is that of the connection; one of the message alone is told
// to its publisher.
func (b *Broker) write(e epoch, m broker.Message, s *slot, n uint64) error {
	payload := m.Data
	var err error
	if b.isPlaced(m) {
		payload, err = b.writePlaced(e, m, s, n)
	} else {
		if b.names.isHash(s.wire) {
			payload = appendNamed(make([]byte, 0, len(m.Subject)+len(m.Data)+4), m)
		}
		err = b.hand(s, m.Trace, nil, payload)
	}
	if !errors.Is(err, natsio.ErrMaxPayload) {
		return err
	}
	most := max(0, int(b.conn.MaxPayload())-(len(payload)-len(m.Data)))
	b.receipts.fail(n, fmt.Errorf("nats: publish: %w: %d bytes, and the server takes %d", broker.ErrTooLarge, len(m.Data), most))
	return nil
}

// isPlaced reports whether a message goes through the stream.
func (b *Broker) isPlaced(m broker.Message) bool { return b.kept != nil && m.Place != 0 }

// writePlaced hands a message to nats.go that the stream is to take. It returns what was handed over.
func (b *Broker) writePlaced(e epoch, m broker.Message, s *slot, n uint64) (payload []byte, err error) {
	g := b.kept.of(e)
	if g == nil {
		return nil, errReplaced
	}
	payload = appendFront(make([]byte, 0, len(m.Subject)+len(m.Data)+len(s.reply)+24), g, s.reply)
	if b.names.isHash(b.kept.room(s.wire)) {
		payload = appendNamed(payload, m)
	} else {
		payload = append(payload, m.Data...)
	}
	var header natsio.Header
	if m.Log == "" {
		header = natsio.Header{headerTTL: {unloggedTTL}}
	}
	b.receipts.expect(n)
	return payload, b.hand(s, m.Trace, header, payload)
}

// hand hands one message to nats.go. A trace goes into the headers, and is left out where there is no place for it.
func (b *Broker) hand(s *slot, trace *broker.Trace, header natsio.Header, payload []byte) error {
	if trace != nil {
		m := natsio.Msg{Subject: s.wire, Reply: s.reply, Data: payload, Header: natsio.Header{"traceparent": {trace.Parent}}}
		maps.Copy(m.Header, header)
		if trace.State != "" {
			m.Header["tracestate"] = []string{trace.State}
		}
		err := b.conn.PublishMsg(&m)
		if !errors.Is(err, natsio.ErrMaxPayload) && !errors.Is(err, natsio.ErrHeadersNotSupported) {
			return err
		}
	}
	if header != nil {
		return b.conn.PublishMsg(&natsio.Msg{Subject: s.wire, Reply: s.reply, Data: payload, Header: header})
	}
	return b.conn.PublishRequest(s.wire, s.reply, payload)
}

// failed turns an error of the connection into one that Publish or Subscribe may return.
func (b *Broker) failed(ctx context.Context, doing string, err error) error {
	switch {
	case b.isDone() || errors.Is(err, broker.ErrClosed):
		return broker.ErrClosed
	case ctx.Err() != nil:
		return ctx.Err()
	}
	if err == errReplaced {
		err = b.link.why()
	}
	return unavailable(doing, err)
}

// refused is the error for what the server has refused.
func refused(doing string, err error) error {
	return fmt.Errorf("nats: %s: %w: %w", doing, broker.ErrRefused, err)
}
