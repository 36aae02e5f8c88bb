package redis

import (
	"errors"
	"fmt"

	"tether/broker/internal/beat"
)

// subscriber is what one server has been told of the [subscriptions]. The writer of a session tells the
// server what differs from what is wanted, one subject in each command; the confirmations, which come in the order
// of the commands, wake the calls. Between them are beats, PINGs. An error in place of a beat's answer is an
// answer, too: a server that cannot save refuses PING, and carries messages.
//
// A Cluster's server also ends subscriptions by itself, when their slot leaves it, with the same words that confirm a
// SUNSUBSCRIBE. If one was on its way it is redirected. So a beat follows each, and a redirection in place of a
// beat's answer means nothing: what looked like the confirmation was none.
type subscriber struct {
	t    *subscriptions
	poke chan struct{} // wakes the writer; capacity 1

	// Guarded by the mu of t.
	dirty  []*subscription // what the writer must look at, in order; nil: the beat that closes up
	again  []*subscription // what was refused as the server serves nobody now; for the next beat
	sent   []command       // not yet answered, in order
	pulse  *beat.Pulse     // of the session
	up     chan struct{}   // closed when what was wanted at its beginning has been answered; nil: no session
	down   error           // why there is no session; nil: there is one, or the first is on its way
	leaves bool            // the server has lost partitions, and may still serve their subjects
}

// command is one command on its way.
type command struct {
	s  *subscription // nil: a beat
	on bool          // SUBSCRIBE

	stamp beat.Stamp // of a beat
	up    bool       // of a beat: it closes up
}

func newSubscriber(t *subscriptions) *subscriber {
	return &subscriber{t: t, poke: make(chan struct{}, 1)}
}

// addLocked adds what the writer must look at, and wakes it.
func (in *subscriber) addLocked(s *subscription) {
	in.dirty = append(in.dirty, s)
	select {
	case in.poke <- struct{}{}:
	default:
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
			in.t.markLocked(s)
		}
	}
	in.addLocked(nil)
	return in.up
}

// end forgets a session: without its connection there are no subscriptions.
func (in *subscriber) end(o *outage) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	in.up, in.dirty, in.sent, in.again = nil, nil, nil, nil
	for _, s := range in.t.all {
		if s.at != in {
			continue
		}
		if !s.want && (s.told || s.unheard > 0) { // what it was still counted for
			in.t.back = append(in.t.back, returned{s.name, o})
			in.t.change()
		}
		s.told, s.unheard = false, 0
		in.t.missLocked(s, o)
		in.t.settleLocked(s)
	}
	in.awayLocked(o.cause)
}

// away says that the server cannot be reached: calls need not wait for it.
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
	return in.appendBeatLocked(dst, false)
}

func (in *subscriber) appendBeatLocked(dst []byte, up bool) []byte {
	in.sent = append(in.sent, command{stamp: in.pulse.Now(), up: up})
	return appendCommand(dst, "PING", "beat")
}

// appendCommands appends what the server must be told now, until there is enough for a write. more says that there
// is more.
func (in *subscriber) appendCommands(dst []byte) (_ []byte, more bool) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	w := in.t.channels
	for len(in.dirty) > 0 && len(dst) < bufferSize {
		s := in.dirty[0]
		in.dirty[0], in.dirty = nil, in.dirty[1:]
		switch {
		case s == nil:
			dst = in.appendBeatLocked(dst, true)
		case s.at != in || s.want == s.told:
		case s.want && in.t.owner[s.part] != in:
			in.t.assignLocked(s) // or as soon as the commands on their way are answered
		default:
			name := w.unsubscribe
			if s.want {
				name = w.subscribe
			}
			dst = w.appendChannel(append(dst, name...), s.part, s.name)
			in.sent = append(in.sent, command{s: s, on: s.want})
			if s.told = s.want; !s.told && w.sharded {
				dst = in.appendBeatLocked(dst, false)
			}
			s.unheard++
		}
	}
	return dst, len(in.dirty) > 0
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
	s = in.popLocked().s
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

// nextLocked reports whether the next answer to come is this confirmation.
func (in *subscriber) nextLocked(on bool, name []byte) bool {
	if len(in.sent) == 0 {
		return false
	}
	c := in.sent[0]
	return c.s != nil && c.on == on && c.s.name == string(name)
}

func (in *subscriber) popLocked() command {
	c := in.sent[0]
	in.sent[0], in.sent = command{}, in.sent[1:]
	return c
}

// back records that the next beat has come back, and returns when it was sent.
func (in *subscriber) back() (beat.Stamp, error) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if len(in.sent) == 0 || in.sent[0].s != nil {
		return 0, errUnasked
	}
	c := in.popLocked()
	if c.up {
		close(in.up)
	}
	return c.stamp, nil
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

// refuse records an error in place of an answer. If it is that to a beat, it says so. Where the slot has moved
// nothing fails: its owner is known already, and the subjects go there.
func (in *subscriber) refuse(why serverError) (beat bool, err error) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	moved := why.code() == "MOVED"
	switch {
	case len(in.sent) == 0:
		return false, why
	case in.sent[0].s == nil:
		return !moved, nil
	}
	c := in.popLocked()
	s := c.s
	s.unheard--
	switch {
	case moved:
		if s.unheard == 0 {
			s.told = false
		}
		in.t.markLocked(s)
	case why.passes() && (s.held || !c.on): // the server is away, in a way; a new one fails at once
		s.told = !c.on
		in.again = append(in.again, s)
	case !c.on:
		return false, fmt.Errorf("unsubscribe: %w", why)
	default:
		if s.told = false; s.want {
			in.t.failLocked(s, refusal(why))
		}
	}
	in.t.settleLocked(s)
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
