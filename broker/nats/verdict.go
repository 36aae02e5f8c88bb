package nats

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"tether/broker"
)

const (
	// ackWait is how long a publisher waits for an acknowledgement after the server has taken the
	// message. A receiver whose connection works does not take it so late (beat.Fresh).
	ackWait = 3500 * time.Millisecond

	// askTick is the time between two looks at who is waiting. For askOften a publisher asks the server at
	// each whether anybody is subscribed still, then every askLater.
	askTick  = 50 * time.Millisecond
	askOften = 500 * time.Millisecond
	askLater = 200 * time.Millisecond

	// deniedWait is how long it waits if a node that is up has said that it did not take the message:
	// others may still be on their way to it, but a node that goes and comes back at once does not keep
	// anybody waiting.
	deniedWait = 500 * time.Millisecond

	// roundWait is how long an acknowledged message waits for others to acknowledge it, at most.
	roundWait = 50 * time.Millisecond

	// maxAsked is how many messages are asked about in one go, and maxJudged how many are judged. When much
	// is late a node has much to do, and is not to be given more by questions.
	maxAsked, maxJudged = 64, 4096
)

const (
	question     = "._" // the end of a question's reply subject
	cancellation = ".-" // and of a cancellation's
	denial       = "no" // what a node answers to a question: what it had to acknowledge it has
)

func isQuestion(reply string) bool { return strings.HasSuffix(reply, question) }

// cancelled returns the reply subject of the message that a message with this reply subject cancels.
func cancelled(reply string) (string, bool) { return strings.CutSuffix(reply, cancellation) }

// A verdict says that nobody took some messages, and is certain of it, or says that nothing is known.
//
// A receiver delivers a message only when the acknowledgement is with the server: it waits for a mark
// that it publishes behind its acknowledgements on the same connection. Up to that mark it reads on, in
// order, and drops the message if it finds one of these first (see awaiting):
//
//   - the end of the connection that the message came through,
//   - the end of the subscription that it came for,
//   - a cancellation of the message.
//
// So when the server takes something from us that says that nobody took the message, either the
// acknowledgement is with the server already, and thus ahead of the server's answer on the way to us, and
// we have read it before the answer; or it is not, and then the message is not delivered:
//
//   - To a question, which is an empty message on the same subject, the server answers "no responders"
//     when nobody is subscribed, on any connection. The receiver's mark has not come back before its
//     connection or its subscription ended.
//   - After ackWait, or deniedWait, we cancel the message and publish a mark behind that. When it is back without an
//     acknowledgement, the cancellation is ahead of the receiver's mark on the way to the receiver.
//
// No clock is involved, and whoever is frozen, slow, or starved, at whatever point and for however long,
// changes nothing. It needs one server that sends us everything in order: if our connection has been
// replaced, or nats.go had to drop something, the verdict is that nothing is known.
//
// In a cluster there are two servers, and what the receiver's has taken can be lost on the way to ours.
// There a verdict also needs an answer from all servers where somebody was, behind the cancellations, and
// none of them may have been out of reach. A server whose brokers are silent though it is there, because
// they are frozen, is taken to pass acknowledgements on within half a second (ackWait less beat.Fresh).
type verdict struct {
	number uint64
	begun  time.Time
	msgs   []ref
	intact bool // guarded by receipts.mu
}

// noResponders takes the word of the server that nobody is subscribed to the subject of a message, or
// of a question about it.
func (r *receipts) noResponders(id uint64, index string) {
	digits, isQuestion := strings.CutSuffix(index, question)
	i, err := strconv.ParseUint(digits, 36, 31)
	if err != nil {
		return
	}
	now := r.link.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	b := r.open[id]
	if b == nil || i >= uint64(len(b.fates)) || !b.fates[i].isOpen() {
		return
	}
	m := ref{b, int(i)}
	switch {
	case !isQuestion && b.pending == nil:
		b.fates[i] = nobody // settle will tell
	case !isQuestion:
		// The server answers before it returns the mark. This is somebody else's word.
	case !r.isTrustedLocked(b, now):
		// look will find out.
	case r.clustered():
		b.fates[i] = absent
	default:
		r.answerLocked(m, broker.Reach{})
	}
}

// denied takes the word of a node that it did not take a message.
func (r *receipts) denied(id uint64, index string) {
	i, err := strconv.ParseUint(strings.TrimSuffix(index, question), 36, 31)
	if err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if b := r.open[id]; b != nil && b.pending != nil && i < uint64(len(b.fates)) && b.fates[i] == unknown {
		b.fates[i] = denied
	}
}

// isTrustedLocked reports whether everything that was sent to us about a waiting batch has been read, or
// is in order behind what has been read.
func (r *receipts) isTrustedLocked(b *batch, now epoch) bool {
	return b.epoch == now.n && !now.ended() && b.dropped == r.droppedLocked()
}

// inquiry is what look sends in one go.
type inquiry struct {
	epoch     epoch
	questions []ask
	cancels   []ask
	verdict   *verdict // nil: there is nothing to be judged
	since     time.Time
}

// ask is an empty message.
type ask struct{ subject, reply string }

// look is called every askTick while somebody waits, and reports whether somebody still does.
func (r *receipts) look(now time.Time) bool {
	e := r.link.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.rounds) > 0 && now.Sub(r.rounds[0].begun) > roundWait {
		r.endRoundsLocked(r.rounds[0].number)
	}
	keep := r.waiting[:0]
	for _, b := range r.waiting {
		if b.left > 0 && (!r.isTrustedLocked(b, e) || now.Sub(b.deadline) > timeout) {
			r.giveUpLocked(b)
		}
		if b.left > 0 {
			keep = append(keep, b)
		}
	}
	clear(r.waiting[len(keep):])
	r.waiting = keep
	if len(keep) == 0 {
		return false
	}
	if r.busy.Load() {
		return true // the last inquiry is blocked
	}
	q := inquiry{epoch: e}
	r.askLocked(&q, now)
	r.cancelLocked(&q, now)
	r.busy.Store(true)
	if !r.spawn(func() { r.inquire(q) }) {
		r.busy.Store(false)
	}
	return true
}

// giveUpLocked answers all messages of a batch with what is known, and that is not that nobody is there.
func (r *receipts) giveUpLocked(b *batch) {
	for i, f := range b.fates {
		reach := broker.Reach{Bound: broker.Unknown}
		if f == acknowledged {
			reach = b.reach(i)
		}
		r.answerLocked(ref{b, i}, reach)
	}
}

// askLocked adds questions about what has not been acknowledged for long. Whoever unsubscribes late is
// found out with a later one, and so is whoever comes and goes all the time: a question can get lost with
// the end of a subscription, like the message did. What has come last goes first: it is more likely that
// its receiver has just left than that of what was asked about many times.
func (r *receipts) askLocked(q *inquiry, now time.Time) {
	for _, b := range slices.Backward(r.waiting) {
		if !b.isToBeAsked(now) {
			continue
		}
		b.asked = now
		replies := r.replies(b)
		for i, f := range b.fates {
			if len(q.questions) >= maxAsked {
				return
			}
			if f == unknown || f == denied {
				q.questions = append(q.questions, ask{b.wires[i], replies + strconv.FormatUint(uint64(i), 36) + question})
			}
		}
	}
}

func (b *batch) isToBeAsked(now time.Time) bool {
	switch age := b.age(now); {
	case age < askTick, age >= ackWait:
		return false
	case age < askOften:
		return true
	}
	return now.Sub(b.asked) > askLater-askTick/2
}

// cancelLocked begins a verdict on what nobody has acknowledged in time, if none is under way.
func (r *receipts) cancelLocked(q *inquiry, now time.Time) {
	if r.verdict != nil && now.Sub(r.verdict.begun) < timeout {
		return
	}
	r.verdict = nil
	v := &verdict{begun: now}
	for _, b := range r.waiting {
		if len(v.msgs) >= maxJudged {
			break
		}
		replies, before := r.replies(b), len(v.msgs)
		for i, f := range b.fates {
			if f.isOpen() && b.age(now) >= f.wait() {
				v.msgs = append(v.msgs, ref{b, i})
				q.cancels = append(q.cancels, ask{b.wires[i], replies + strconv.FormatUint(uint64(i), 36) + cancellation})
			}
		}
		if len(v.msgs) > before && (q.since.IsZero() || b.begun.Before(q.since)) {
			q.since = b.begun
		}
	}
	if len(v.msgs) > 0 {
		v.number = r.numberLocked()
		r.verdict, q.verdict = v, v
	}
}

// inquire sends an inquiry, which may block. One goroutine does at a time. If something goes wrong nothing
// will be known.
func (r *receipts) inquire(q inquiry) {
	defer r.busy.Store(false)
	for _, asks := range [][]ask{q.questions, q.cancels} {
		for _, a := range asks {
			if r.conn.PublishRequest(a.subject, a.reply, nil) != nil {
				return
			}
		}
	}
	mark := r.inbox + probe
	if v := q.verdict; v != nil {
		intact := r.intact(q.epoch, q.since)
		r.mu.Lock()
		v.intact = intact
		r.mu.Unlock()
		mark = r.inbox + verdictMark + "." + strconv.FormatUint(v.number, 36)
	}
	_ = r.conn.Publish(mark, nil) // then it does not come back
}

// judge passes a verdict whose mark is back: nobody took what has not been acknowledged.
func (r *receipts) judge(number uint64) {
	now := r.link.current()
	r.mu.Lock()
	defer r.mu.Unlock()
	v := r.verdict
	if v == nil || v.number != number {
		return
	}
	r.verdict = nil
	for _, m := range v.msgs {
		if !m.b.fates[m.i].isOpen() {
			continue
		}
		reach := broker.Reach{Bound: broker.Unknown}
		if v.intact && r.isTrustedLocked(m.b, now) {
			reach.Bound = broker.Exact
		}
		r.answerLocked(m, reach)
	}
}
