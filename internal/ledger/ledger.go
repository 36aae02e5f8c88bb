// Package ledger keeps books about numbered messages in a test: who sent what to which rooms, who was
// in which room from when to when, what arrived, and in which times messages may have been missed. It
// says what was lost, doubled, inverted or foreign, and whether every loss lies inside a reported gap.
//
// Moments are counted, not only timed, so that "before" is exact also within one instant of a fake
// clock. The books are strict where a promise is: a socket that was told that it is in a room, and that
// has not begun to leave it until a message's latency has passed, must get it; a socket that was never
// in a room, or knew that it had left it, must not.
package ledger

import (
	"fmt"
	"sync"
	"time"

	"tether/broker"
	"tether/hub"
)

// Ghost is how long after the last member of a room has gone a receipt may still count somebody.
const Ghost = 6 * time.Second

// Withdrawal is how long before its end a connection of a node that drains may get nothing more, while the
// broker is well: its subscriptions end first.
const Withdrawal = 1200 * time.Millisecond

// Moment says when something happened in this process. The zero Moment has not happened.
type Moment struct {
	n  uint64
	At time.Time
}

func (m Moment) happened() bool { return m.n != 0 }

// Before reports whether m came before o. What has not happened comes after everything.
func (m Moment) Before(o Moment) bool {
	switch {
	case !m.happened():
		return false
	case !o.happened():
		return true
	}
	return m.n < o.n
}

// Ledger is the book of one run. Its methods may be called from any goroutine.
type Ledger struct {
	latency time.Duration // immutable

	mu       sync.Mutex
	moments  uint64                  // guarded by mu, like everything below
	first    uint64                  // the number of messages[0]; what came before is settled, or late
	messages []*Message              // by number
	late     map[uint64]*Message     // older than messages, and not settled yet
	streams  map[string]uint64       // the last sequence of each
	rooms    map[string][]*Receiver  // that have been in it, or were about to be
	own      map[string]bool         // rooms whose name says which node they are on
	gaps     map[string][]broker.Gap // by node
	drains   map[string]Moment       // when a node began to drain

	overtakes bool // guarded by mu; see Overtakes
	counts    Counts
	faults    []string
}

// Counts is what the book has come to.
type Counts struct {
	Sent     int // messages
	Refused  int // messages that the broker did not take, and said so
	Received int // by somebody
	Expected int // pairs of a message and a receiver that was there the whole time
	InGap    int // of these, not received, and inside a reported gap
	Lost     int // of these, not received although no gap says so
	Doubled  int
	Inverted int // received after a later one of the same publisher and room
	Foreign  int // received by a socket that they were not for, or not as they were sent
	Receipts int // that were not true
	Unheard  int // messages that a node took and nobody there received, although only a drain has sent anybody away
}

// Faults is the number of things that must not happen.
func (c Counts) Faults() int {
	return c.Lost + c.Doubled + c.Inverted + c.Foreign + c.Receipts + c.Unheard
}

func (c Counts) String() string {
	return fmt.Sprintf("%d sent (%d refused), %d received; of %d that had to arrive %d in a gap, %d lost; %d doubled, %d inverted, %d foreign, %d untrue receipts, %d unheard",
		c.Sent, c.Refused, c.Received, c.Expected, c.InGap, c.Lost, c.Doubled, c.Inverted, c.Foreign, c.Receipts, c.Unheard)
}

const maxFaults = 20 // that are kept in words

// New returns an empty book. A message takes no longer than latency from the end of its publishing to
// its receiver, unless it is lost.
func New(latency time.Duration) *Ledger {
	return &Ledger{
		latency: latency,
		late:    make(map[uint64]*Message),
		streams: make(map[string]uint64),
		rooms:   make(map[string][]*Receiver),
		own:     make(map[string]bool),
		gaps:    make(map[string][]broker.Gap),
		drains:  make(map[string]Moment),
	}
}

// Overtakes says that the broker may confirm the end of a subscription ahead of messages that it has counted
// for it, as a stand-in for Redis does: then nobody can say that a node should have heard one.
func (l *Ledger) Overtakes() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.overtakes = true
}

// Now is this moment.
func (l *Ledger) Now() Moment {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nowLocked()
}

func (l *Ledger) nowLocked() Moment {
	l.moments++
	return Moment{l.moments, time.Now()}
}

// Gap notes that a node has reported a gap.
func (l *Ledger) Gap(node string, g broker.Gap) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gaps[node] = append(l.gaps[node], g)
}

// Drain notes that a node begins to drain.
func (l *Ledger) Drain(node string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drains[node] = l.nowLocked()
}

// Gaps is the number of gaps that a node has reported.
func (l *Ledger) Gaps(node string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.gaps[node])
}

// Excused reports whether a gap of the node touches the time from one moment to another.
func (l *Ledger) Excused(node string, from, to time.Time) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.excusedLocked(node, from, to)
}

func (l *Ledger) excusedLocked(node string, from, to time.Time) bool {
	for _, g := range l.gaps[node] {
		if !g.From.After(to) && !g.To.Before(from) {
			return true
		}
	}
	return false
}

// Mark is what a message carries.
type Mark struct {
	Number    uint64 `json:"number"` // in the run
	Publisher string `json:"publisher"`
	Room      string `json:"room"` // of its stream
	Seq       uint64 `json:"seq"`  // in its stream
}

// Message is one message, to one room or to the union of several.
type Message struct {
	Mark   Mark
	to     []string
	except []string
	call   Moment
	end    Moment
	failed bool // it may or may not have been sent
	waived bool // nobody has to get it
	nodes  int
	bound  broker.Bound
	noted  bool     // there is a receipt
	heard  []string // on these nodes
}

// Send opens the entry of a message that is about to be published by publisher. The messages of one
// publisher to one room are a stream: the caller publishes them one after the other. A union has a
// stream without an order.
func (l *Ledger) Send(publisher string, to, except []string) *Message {
	l.mu.Lock()
	defer l.mu.Unlock()
	m := &Message{to: to, except: except, call: l.nowLocked()}
	m.Mark = Mark{Number: l.first + uint64(len(l.messages)), Publisher: publisher, Room: to[0]}
	if len(to) == 1 {
		stream := publisher + "\x00" + to[0]
		l.streams[stream]++
		m.Mark.Seq = l.streams[stream]
	}
	l.messages = append(l.messages, m)
	l.counts.Sent++
	return m
}

// Waive notes that nobody has to get the message: because it is volatile, or carries no mark and only
// its receipt counts.
func (l *Ledger) Waive(m *Message) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.waived = true
}

// Sent closes the entry of a message with what the publisher was told.
func (l *Ledger) Sent(m *Message, r hub.Receipt, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	m.end = l.nowLocked()
	m.failed = err != nil
	m.nodes, m.bound, m.noted = r.Nodes, r.Bound, err == nil
	if m.failed {
		l.counts.Refused++
	}
}

// find returns a message that is not settled yet, or nil.
func (l *Ledger) findLocked(number uint64) *Message {
	if number < l.first {
		return l.late[number]
	}
	if number -= l.first; number < uint64(len(l.messages)) {
		return l.messages[number]
	}
	return nil
}

func (l *Ledger) faultLocked(count *int, format string, args ...any) {
	*count++
	if len(l.faults) < maxFaults {
		l.faults = append(l.faults, fmt.Sprintf(format, args...))
	}
}

// Faults are the first things that must not have happened, in words.
func (l *Ledger) Faults() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]string(nil), l.faults...)
}

// Counts is what the book has come to so far. What was lost is known after Settle only.
func (l *Ledger) Counts() Counts {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts
}
