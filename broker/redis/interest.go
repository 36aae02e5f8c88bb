package redis

import (
	"errors"
	"fmt"
)

const (
	maxCommand      = 1000      // subjects in one SUBSCRIBE
	maxCommandBytes = 256 << 10 // likewise, unless it is one alone
)

// interest is what one server has been told of a [table]. The writer of a session tells the server what
// differs from what is wanted; the confirmations, which come in the order of the commands, wake the
// calls.
//
// A Cluster's server also ends subscriptions by itself, when their slot leaves it, with the same words
// that confirm a SUNSUBSCRIBE. So there each command is followed by a mark, a PING: what arrives before
// the mark of a refused command was not its confirmation.
type interest struct {
	t    *table
	poke chan struct{} // wakes the writer; capacity 1

	// Guarded by the mu of t.
	dirty    [][]*subject  // by partition; what the writer must look at
	queue    []uint8       // partitions with dirty subjects
	commands []command     // sent and not yet answered, in order
	initial  int           // subjects to confirm before the session is up
	up       chan struct{} // closed when initial becomes 0; nil: no session
	leaves   bool          // the server has lost partitions, and may still serve their subjects
}

// command is one SUBSCRIBE or UNSUBSCRIBE on its way.
type command struct {
	on       bool
	refused  bool
	subjects []*subject
	next     int // the first that is not confirmed
}

func newInterest(t *table) *interest {
	return &interest{t: t, poke: make(chan struct{}, 1), dirty: make([][]*subject, len(t.owner))}
}

// addLocked adds a dirty subject and wakes the writer.
func (in *interest) addLocked(s *subject) {
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
func (in *interest) arrivedLocked(s *subject) {
	s.initial = false
	if in.initial--; in.initial == 0 {
		close(in.up)
	}
}

// begin starts a session, of which the server knows nothing yet. The channel is closed when all that
// is wanted of it now has been confirmed.
func (in *interest) begin() <-chan struct{} {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	in.up = make(chan struct{})
	for _, s := range in.t.subjects {
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
func (in *interest) end(o *outage) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	in.up, in.initial, in.queue, in.commands = nil, 0, nil, nil
	clear(in.dirty)
	for _, s := range in.t.subjects {
		if s.at == in {
			if in.t.keeps && !s.want && (s.told || s.unheard > 0) { // what it was still counted for
				in.t.back = append(in.t.back, returned{s.name, o})
				in.t.change()
			}
			s.told, s.unheard, s.dirty, s.initial, s.alone = false, 0, false, false, false
			in.t.missLocked(s, o)
			in.t.settleLocked(s)
		}
	}
}

// appendCommands appends what the server must be told now: of one partition, and at most one command
// of each kind. more says that there is more.
func (in *interest) appendCommands(dst []byte) (_ []byte, more bool) {
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
	w := in.t.wire
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
		if w.sharded {
			dst = appendCommand(dst, "PING", mark)
		}
		in.commands = append(in.commands, b)
	}
	return dst, len(in.queue) > 0
}

// mark comes back after the answer to a command. Beats are digits.
const mark = "done"

// takeLocked takes from the dirty subjects of a partition what two commands hold.
func (in *interest) takeLocked(part uint8) (batch [2]command) {
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

var errUnasked = errors.New("redis: a confirmation that nobody asked for")

// confirm records that the server has done the next thing that it was told. name is a subject. Who waits for
// the end of a subscription is not woken yet, but returned.
func (in *interest) confirm(on bool, name []byte) (s *subject, ended []*waiter, err error) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if !in.nextLocked(on, name) {
		return nil, nil, errUnasked
	}
	c := &in.commands[0]
	s = c.subjects[c.next]
	if c.next++; c.next == len(c.subjects) && !in.t.wire.sharded {
		in.commands[0].subjects = nil
		in.commands = in.commands[1:]
	}
	if s.unheard--; s.unheard == 0 && s.at == in {
		s.told = on
	}
	if !s.want && s.settled() {
		ended, s.waiting = s.waiting, nil
	}
	in.t.settleLocked(s)
	if !s.settled() {
		in.t.markLocked(s)
	}
	return s, ended, nil
}

// nextLocked reports whether the next confirmation to come is this one.
func (in *interest) nextLocked(on bool, name []byte) bool {
	if len(in.commands) == 0 {
		return false
	}
	c := &in.commands[0]
	return c.on == on && c.next < len(c.subjects) && c.subjects[c.next].name == string(name)
}

// answered records that the mark of the next command has come back.
func (in *interest) answered() error {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if len(in.commands) == 0 || !in.commands[0].refused && in.commands[0].next < len(in.commands[0].subjects) {
		return errUnasked
	}
	in.commands[0].subjects = nil
	in.commands = in.commands[1:]
	return nil
}

// asked reports whether the end of a subscription, which the server has just told, is the confirmation of
// what it was told itself.
func (in *interest) asked(name []byte) bool {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	return in.nextLocked(false, name)
}

// lost records that the server has unsubscribed a subject by itself.
func (in *interest) lost(name []byte, o *outage) {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	s := in.t.subjects[string(name)]
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

// refuse records that the server refused the next command, all of it. Of several subjects each is
// tried alone; one alone fails its calls. A subject that was held is an error: the session cannot
// be what this node is believed to have. Where the slot has moved nothing fails: the table is told
// who owns it, and the subjects go there.
func (in *interest) refuse(why serverError) error {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if len(in.commands) == 0 || in.commands[0].on && in.commands[0].next > 0 {
		return why
	}
	c := &in.commands[0]
	subjects, on := c.subjects[c.next:], c.on
	if in.t.wire.sharded {
		c.refused = true
	} else {
		in.commands = in.commands[1:]
	}
	moved := in.t.wire.sharded && why.code() == "MOVED"
	for _, s := range subjects {
		s.unheard--
		switch {
		case moved:
			if s.unheard == 0 {
				s.told = false
			}
			in.t.markLocked(s)
		case !on || len(subjects) == 1 && s.held:
			return fmt.Errorf("subscribe: %w", why)
		case len(subjects) > 1:
			s.alone = true
			s.told = false
			in.t.markLocked(s)
		default:
			s.told = false
			in.t.wakeLocked(s, unavailable(why))
			if s.want {
				s.live.Store(false)
				in.t.dropLocked(s)
			}
		}
		in.t.settleLocked(s)
	}
	return nil
}

// lingering reports whether the server still serves subjects of partitions that it does not own.
func (in *interest) lingering() bool {
	in.t.mu.Lock()
	defer in.t.mu.Unlock()
	if in.up == nil || !in.leaves {
		return false
	}
	for _, s := range in.t.subjects {
		if s.at == in && s.told && in.t.owner[s.part] != in {
			return true
		}
	}
	in.leaves = false
	return false
}
