package redis

import (
	"errors"
	"fmt"

	"tether/broker/internal/beat"
)

const (
	maxCommand      = 1000      // subjects in one SUBSCRIBE
	maxCommandBytes = 256 << 10 // likewise, unless it is one alone
)

// subscriber is what one server has been told of the [subscriptions]. The writer of a session tells the
// server what differs from what is wanted; the confirmations, which come in the order of the commands, wake
// the calls.
//
// Each command is followed by a beat, a PING: what arrives before the answer to that of a refused command was
// not its confirmation. For a Cluster's server also ends subscriptions by itself, when their slot leaves it,
// with the same words that confirm a SUNSUBSCRIBE. An error in the place of a beat's answer is an answer, too:
// a server that cannot save refuses PING, and carries messages.
type subscriber struct {
	t    *subscriptions
	poke chan struct{} // wakes the writer; capacity 1

	// Guarded by the mu of t.
	dirty   [][]*subscription // by partition; what the writer must look at
	queue   []uint8           // partitions with dirty subscriptions
	again   []*subscription   // what was refused as the server serves nobody now; for the next beat
	sent    []command         // not yet answered, in order
	pulse   *beat.Pulse       // of the session
	initial int               // subscriptions to confirm before the session is up
	up      chan struct{}     // closed when initial becomes 0; nil: no session
	down    error             // why there is no session; nil: there is one, or the first is on its way
	leaves  bool              // the server has lost partitions, and may still serve their subjects
}

// command is one SUBSCRIBE, UNSUBSCRIBE or PING on its way.
type command struct {
	beat  bool // it is a PING
	stamp beat.Stamp

	on       bool
	refused  bool
	subjects []*subscription
	next     int // the first that is not confirmed
}

func newSubscriber(t *subscriptions) *subscriber {
	return &subscriber{t: t, poke: make(chan struct{}, 1), dirty: make([][]*subscription, len(t.owner))}
}

// addLocked adds a dirty subscription and wakes the writer.
func (in *subscriber) addLocked(s *subscription) {
	if len(in.dirty[s.part]) == 0 {
		in.queue = append(in.queue, s.part)
	}
	in.dirty[s.part] = append(in.dirty[s.part], s)
	select {
	case in.poke <- struct{}{}:
	default:
	}
}

// arrivedLocked records that the session need no longer wait for s.
func (in *subscriber) arrivedLocked(s *subscription) {
	s.initial = false
	if in.initial--; in.initial == 0 {
		close(in.up)
	}
}

// begin starts a session, of which the server knows nothing yet. The channel is closed when all that
// is wanted of it now has been confirmed, or refused.
func (in *subscriber) begin(p *beat.Pulse) <-chan struct{} {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	in.up, in.down, in.pulse = make(chan struct{}), nil, p
	for _, s := range in.t.all {
		if s.at == in {
			s.initial = true
			in.initial++
			in.t.markLocked(s)
		}
	}
	if in.initial == 0 {
		close(in.up)
	}
	return in.up
}

// end forgets a session: without its connection there are no subscriptions.
func (in *subscriber) end(o *outage) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	in.up, in.initial, in.queue, in.sent, in.again = nil, 0, nil, nil, nil
	clear(in.dirty)
	for _, s := range in.t.all {
		if s.at != in {
			continue
		}
		if !s.want && (s.told || s.unheard > 0) { // what it was still counted for
			in.t.back = append(in.t.back, returned{s.name, o})
			in.t.change()
		}
		s.told, s.unheard, s.dirty, s.initial, s.alone = false, 0, false, false, false
		in.t.missLocked(s, o)
		in.t.settleLocked(s)
	}
	in.awayLocked(o.cause)
}

// away says that the server cannot be reached: who waits for it need not.
func (in *subscriber) away(err error) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	in.awayLocked(err)
}

func (in *subscriber) awayLocked(err error) {
	in.down = err
	for _, s := range in.t.all {
		if s.at == in && s.want && !s.held {
			in.t.failLocked(s, err)
		}
	}
}

// appendBeat appends a beat.
func (in *subscriber) appendBeat(dst []byte) []byte {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	for _, s := range in.again {
		in.t.markLocked(s)
	}
	in.again = nil
	return in.appendBeatLocked(dst)
}

func (in *subscriber) appendBeatLocked(dst []byte) []byte {
	in.sent = append(in.sent, command{beat: true, stamp: in.pulse.Now()})
	return appendCommand(dst, "PING", "beat")
}

// appendCommands appends what the server must be told now: of one partition, and at most one command
// of each kind. more says that there is more.
func (in *subscriber) appendCommands(dst []byte) (_ []byte, more bool) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if len(in.queue) == 0 {
		return dst, false
	}
	part := in.queue[0]
	batch := in.takeLocked(part)
	if len(in.dirty[part]) == 0 {
		in.dirty[part] = nil
		in.queue = in.queue[1:]
	}
	w := in.t.channels
	for i, name := range [2]string{w.unsubscribe, w.subscribe} {
		b := batch[i]
		if len(b.subjects) == 0 {
			continue
		}
		dst = appendHeader(dst, '*', 1+len(b.subjects))
		dst = appendBulk(dst, name)
		for _, s := range b.subjects {
			dst = w.appendChannel(dst, part, s.name)
		}
		in.sent = append(in.sent, b)
		dst = in.appendBeatLocked(dst)
	}
	return dst, len(in.queue) > 0
}

// takeLocked takes from the dirty subscriptions of a partition what two commands hold.
func (in *subscriber) takeLocked(part uint8) (batch [2]command) {
	batch[1].on = true
	bytes, n := 0, 0
	list := in.dirty[part]
	for _, s := range list {
		if s.at != in {
			n++
			continue
		}
		if s.want && !s.told && in.t.owner[part] != in {
			n++
			s.dirty = false
			in.t.placeLocked(s) // or as soon as the commands on their way are answered
			continue
		}
		b := &batch[0]
		if s.want {
			b = &batch[1]
		}
		if s.want != s.told {
			full := len(b.subjects) == maxCommand || bytes > maxCommandBytes || s.alone
			if full && len(b.subjects) > 0 {
				break
			}
			b.subjects = append(b.subjects, s)
			bytes += len(s.name)
			s.told = s.want
			s.unheard++
		}
		n++
		s.dirty = false
		if s.alone {
			s.alone = false
			break
		}
	}
	clear(list[:n])
	in.dirty[part] = list[n:]
	return batch
}

var errUnasked = errors.New("redis: an answer that nobody asked for")

// confirm records that the server has done the next thing that it was told. name is a subject. A call that
// waits for the end of s is not woken yet: ended says that there is one.
func (in *subscriber) confirm(on bool, name []byte) (s *subscription, ended bool, err error) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if !in.nextLocked(on, name) {
		return nil, false, errUnasked
	}
	c := &in.sent[0]
	s = c.subjects[c.next]
	c.next++
	if s.unheard--; s.unheard == 0 && s.at == in {
		s.told = on
	}
	waits := s.call
	if !s.want && s.settled() {
		s.call, ended = nil, waits != nil
	}
	in.t.settleLocked(s)
	if ended {
		s.call = waits
	}
	if !s.settled() {
		in.t.markLocked(s)
	}
	return s, ended, nil
}

// nextLocked reports whether the next confirmation to come is this one.
func (in *subscriber) nextLocked(on bool, name []byte) bool {
	if len(in.sent) == 0 || in.sent[0].answered() {
		return false
	}
	c := &in.sent[0]
	return c.on == on && c.subjects[c.next].name == string(name)
}

// answered reports whether what comes next is the answer to a beat: c itself, or the one behind it.
func (c *command) answered() bool { return c.beat || c.refused || c.next == len(c.subjects) }

// back records that the next beat has come back, and returns when it was sent.
func (in *subscriber) back() (beat.Stamp, error) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if len(in.sent) == 0 || !in.sent[0].answered() {
		return 0, errUnasked
	}
	n := 1
	if !in.sent[0].beat {
		n = 2 // what has been answered, and the beat behind it
	}
	stamp := in.sent[n-1].stamp
	clear(in.sent[:n])
	in.sent = in.sent[n:]
	return stamp, nil
}

// asked reports whether the end of a subscription, which the server has just told, is the confirmation of
// what it was told itself.
func (in *subscriber) asked(name []byte) bool {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	return in.nextLocked(false, name)
}

// ended records that the server has unsubscribed a subject by itself.
func (in *subscriber) ended(name []byte, o *outage) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	s := in.t.all[string(name)]
	if s == nil || s.at != in || !s.told {
		return // it is about to be unsubscribed anyway
	}
	s.told = false
	in.t.missLocked(s, o)
	in.t.settleLocked(s)
	if !s.settled() {
		in.t.markLocked(s)
	}
}

// refuse records an error in the place of an answer. If it is that to a beat, it says so. Else the server has
// refused the next command, all of it. Of several subjects of which one may be forbidden each is tried alone.
// Where the slot has moved nothing fails: who owns it is known already, and the subjects go there.
func (in *subscriber) refuse(why serverError) (beat bool, err error) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if len(in.sent) == 0 {
		return false, why
	}
	c := &in.sent[0]
	if c.answered() && (c.beat || why.code() != "MOVED") { // else what looked like its confirmation was none
		return true, nil
	}
	if c.on && c.next > 0 {
		return false, why
	}
	c.refused = true
	subjects := c.subjects[c.next:]
	for _, s := range subjects {
		s.unheard--
		switch {
		case why.code() == "MOVED":
			if s.unheard == 0 {
				s.told = false
			}
			in.t.markLocked(s)
		case !c.on && !why.passes():
			return false, fmt.Errorf("unsubscribe: %w", why)
		case why.passes() && (s.held || !c.on): // the server is away, in a way; a new one fails at once
			s.told = !c.on
			in.again = append(in.again, s)
		case len(subjects) > 1 && why.code() == "NOPERM":
			s.alone, s.told = true, false
			in.t.markLocked(s)
		default:
			if s.told = false; s.want {
				in.t.failLocked(s, refusal(why))
			}
		}
		in.t.settleLocked(s)
	}
	return false, nil
}

// lingering reports whether the server still serves subjects of partitions that it does not own.
func (in *subscriber) lingering() bool {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if in.up == nil || !in.leaves {
		return false
	}
	for _, s := range in.t.all {
		if s.at == in && s.told && in.t.owner[s.part] != in {
			return true
		}
	}
	in.leaves = false
	return false
}
