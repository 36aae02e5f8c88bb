package nats

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/beat"
)

var (
	errOverflow = errors.New("nats: too many messages wait for Deliver")
	errStale    = errors.New("nats: messages came too late")
	errCut      = errors.New("nats: the connection was replaced")
)

// pump moves messages from nats.go to the backlog.
func (r *run) pump() {
	for {
		select {
		case m := <-r.in:
			if len(r.in) >= cap(r.in)-1 {
				// It was full, or nearly, and only we take from it: nats.go may have dropped something.
				r.gaps.open(r.pulse.Time(r.pulse.Last()), "", errOverflow)
			}
			isBeat := m.Subject == r.subject
			if isBeat {
				r.see(m.Data)
			}
			if !r.backlog.put(m, isBeat) {
				r.overflow(m)
			}
		case <-r.done:
			return
		}
	}
}

func (r *run) see(data []byte) {
	_, stamp, _ := bytes.Cut(data, []byte(" "))
	if n, err := strconv.ParseInt(string(stamp), 10, 64); err == nil && n > r.seen.Load() {
		r.seen.Store(min(n, int64(r.pulse.Now())))
	}
}

func (r *run) overflow(m *natsio.Msg) {
	if s := r.b.interest.lookup(m.Subject); s != nil {
		r.gaps.open(r.pulse.Time(r.pulse.Last()), s.subject, errOverflow)
	}
}

// burst is the number of messages that are acknowledged together, at most.
const burst = 256

// feed moves messages from the backlog to the dispatcher, and acknowledges them. The acknowledgement
// goes first: a message that was delivered has been counted.
func (r *run) feed() {
	var msgs []*natsio.Msg
	for {
		select {
		case <-r.backlog.wake:
		case <-r.done:
			return
		}
		for msgs = r.backlog.take(msgs); len(msgs) > 0; msgs = r.backlog.take(msgs) {
			for rest := msgs; len(rest) > 0; {
				n := min(len(rest), burst)
				if !r.pass(rest[:n]) {
					return
				}
				rest = rest[n:]
			}
		}
		if !r.out.Flush(r.session) {
			return
		}
	}
}

// taken is a message on its way to the dispatcher.
type taken struct {
	m broker.Message
	s *subscription
}

// pass acknowledges a few messages and puts them. A false says that Run is over.
func (r *run) pass(msgs []*natsio.Msg) bool {
	good := r.passing[:0]
	bytes := 0
	for _, m := range msgs {
		bytes += cost(m)
		if m.Subject == r.subject {
			r.back(m.Data)
			continue
		}
		if isQuestion(m.Reply) {
			continue
		}
		s := r.b.interest.lookup(m.Subject)
		if s == nil || !s.live.Load() {
			continue
		}
		data, ok := r.dataOf(m, s)
		if !ok {
			continue
		}
		if stamp := r.pulse.Last(); !r.pulse.Fresh(stamp) {
			r.stale(stamp)
			continue
		}
		r.acks.add(m.Reply)
		good = append(good, taken{broker.Message{Subject: s.subject, Data: data}, s})
	}
	if !r.acks.flush() {
		// The connection is gone. Who has published will hear that nobody was here.
		r.gaps.open(r.pulse.Time(r.pulse.Last()), "", errCut)
		clear(good)
		good = good[:0]
	}
	for _, t := range good {
		if !r.out.Put(r.session, t.m, &t.s.live) {
			return false
		}
	}
	r.backlog.done(bytes)
	clear(good)
	r.passing = good
	return true
}

// dataOf returns what was published, unless it was published on another subject with the same hash.
func (r *run) dataOf(m *natsio.Msg, s *subscription) ([]byte, bool) {
	if !strings.HasPrefix(m.Subject, r.b.names.long) {
		return m.Data, true
	}
	subject, data, err := splitNamed(m.Data)
	return data, err == nil && string(subject) == s.subject
}

// stale opens a gap for messages that were too old to be delivered. It is also called by the workers
// of the dispatcher.
func (r *run) stale(s beat.Stamp) { r.gaps.open(r.pulse.Time(s), "", errStale) }

// back takes a beat that has come round. If it is fresh, and from the connection that there is now,
// everything that is published from now on will be read: gaps end.
func (r *run) back(data []byte) {
	number, stamp, _ := bytes.Cut(data, []byte(" "))
	n, err := strconv.ParseUint(string(number), 10, 64)
	if err != nil || n != r.b.link.current().n {
		return // not ours, or of a connection that is gone
	}
	last := r.pulse.Last()
	if !r.pulse.Back(stamp) || r.pulse.Silent() {
		return
	}
	if n != r.epoch {
		r.epoch = n
		r.gaps.open(r.pulse.Time(last), "", errCut)
	}
	if r.b.cluster.joined.Load() != n {
		return // other servers may not know yet what is subscribed here
	}
	r.gaps.end(r.pulse.Time(r.pulse.Now()))
	r.good.Store(n)
	r.acks.trim()
	select {
	case r.fresh <- struct{}{}:
	default:
	}
}

// backlog is the queue between pump and feed, bounded by bytes.
type backlog struct {
	max  int64
	held atomic.Int64  // bytes that wait, here or with feed
	wake chan struct{} // capacity 1; there are messages

	mu   sync.Mutex
	msgs []*natsio.Msg // guarded by mu
}

func newBacklog(max int) *backlog {
	return &backlog{max: int64(max), wake: make(chan struct{}, 1)}
}

// cost is what a message counts for: its bytes and about what nats.go needs besides.
func cost(m *natsio.Msg) int { return len(m.Subject) + len(m.Reply) + len(m.Data) + 192 }

// put reports false if there is no room. There is always room for a beat.
func (q *backlog) put(m *natsio.Msg, isBeat bool) bool {
	n := int64(cost(m))
	if q.held.Load()+n > q.max && !isBeat {
		return false
	}
	q.held.Add(n)
	q.mu.Lock()
	q.msgs = append(q.msgs, m)
	first := len(q.msgs) == 1
	q.mu.Unlock()
	if first {
		select {
		case q.wake <- struct{}{}:
		default:
		}
	}
	return true
}

// take returns what waits, and takes a slice to use next.
func (q *backlog) take(spare []*natsio.Msg) []*natsio.Msg {
	clear(spare)
	q.mu.Lock()
	defer q.mu.Unlock()
	msgs := q.msgs
	q.msgs = spare[:0]
	return msgs
}

// done says that feed holds so many bytes less.
func (q *backlog) done(bytes int) { q.held.Add(-int64(bytes)) }
