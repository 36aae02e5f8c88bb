package engine

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// Log keeps what a client is sent, in the order in which it is sent, so that a client that has lost its
// connection can have the rest of it. It belongs to one gate at a time: what passes another one is not added.
//
// Entries have numbers, from 0 on. Its lock is a leaf.
type Log struct {
	limit int       // bytes
	total *LogTotal // of all logs

	mu      sync.Mutex
	gate    *Gate    // guarded by mu; nil once the log is closed
	entries []*Entry // guarded by mu; those before head are gone
	head    int      // guarded by mu
	first   uint64   // guarded by mu; number of entries[head]
	bytes   int      // guarded by mu; of all entries
	lost    uint64   // guarded by mu; of the entries before this number some were dropped
	proven  uint64   // guarded by mu; the client has the entries before this number
	marks   [2]mark  // guarded by mu; the older one first: that has been confirmed, the other may be yet

	late map[Origin]bool // guarded by mu; of events that were added late; nil: of none
}

// mark is a place in a log.
type mark struct {
	number uint64
	at     time.Time
}

// logAge is for how long at least a log keeps what the client has got: another node may still come upon it.
const logAge = 5 * time.Second

// LogTotal is the memory of many logs. An entry that is in several counts once.
type LogTotal struct {
	limit int64
	used  atomic.Int64
}

// NewLogTotal returns a total that logs try not to exceed, in bytes.
func NewLogTotal(limit int) *LogTotal { return &LogTotal{limit: int64(limit)} }

// Used is what the logs take now, in bytes.
func (t *LogTotal) Used() int { return int(t.used.Load()) }

// NewLog returns a log of at most limit bytes for what passes gate.
func NewLog(gate *Gate, limit int, total *LogTotal) *Log {
	return &Log{gate: gate, limit: limit, total: total}
}

// Add adds an entry. It reports false if the log does not belong to from, or the entry is not [Missing]. What does not
// fit has the oldest entries dropped.
func (l *Log) Add(e *Entry, from *Gate) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gate != from || l.standingLocked(e) != Missing {
		return false
	}
	if e.Late {
		if l.late == nil {
			l.late = make(map[Origin]bool)
		}
		l.late[e.Origin] = true
	}
	l.addLocked(e)
	return true
}

// Standing says whether an event is missing from a log.
type Standing uint8

const (
	Missing   Standing = iota // it may be added
	Had                       // it is there
	Overtaken                 // a later one of the same publisher and room is there
)

// Standing is that of an entry. Of one that is neither late nor passed on it is known only whether it was added late.
func (l *Log) Standing(e *Entry) Standing {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.standingLocked(e)
}

func (l *Log) standingLocked(e *Entry) Standing {
	switch {
	case l.late != nil && l.late[e.Origin]:
		return Had
	case !e.Late && (!e.Passed || e.From == 0):
		return Missing
	}
	is := Missing
	for _, o := range l.entries[l.head:] {
		if o.Origin == e.Origin {
			return Had
		}
		if o.From == e.From && o.Room == e.Room && o.Number > e.Number {
			is = Overtaken
		}
	}
	return is
}

// ForgetLate forgets which events were added late: they do not come again.
func (l *Log) ForgetLate() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.late = nil
}

func (l *Log) addLocked(e *Entry) {
	if l.head > 32 && 2*l.head >= len(l.entries) && len(l.entries) == cap(l.entries) {
		n := copy(l.entries, l.entries[l.head:])
		clear(l.entries[n:])
		l.entries, l.head = l.entries[:n], 0
	}
	l.entries = append(l.entries, e)
	l.bytes += e.Size() + slotCost
	if e.logs.Add(1) == 1 {
		l.total.used.Add(int64(e.Size() + entryCost))
	}
	for l.head < len(l.entries) && (l.bytes > l.limit || l.total.used.Load() > l.total.limit) {
		l.dropLocked()
		l.lost = l.first
	}
}

// dropLocked drops the oldest entry.
func (l *Log) dropLocked() {
	e := l.entries[l.head]
	l.entries[l.head] = nil
	l.head++
	l.first++
	l.bytes -= e.Size() + slotCost
	if e.logs.Add(-1) == 0 {
		l.total.used.Add(-int64(e.Size() + entryCost))
	}
	if l.head == len(l.entries) {
		l.head, l.entries = 0, l.entries[:0]
		if cap(l.entries) > 64 { // give a burst's memory back
			l.entries = nil
		}
	}
}

// Move gives the log to another gate. Nothing that passes the old one is added from then on.
func (l *Log) Move(to *Gate) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gate != nil {
		l.gate = to
	}
}

// Close drops all entries. None is added from then on.
func (l *Log) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.gate = nil
	for l.head < len(l.entries) {
		l.dropLocked()
	}
	l.lost, l.entries = l.first, nil
}

// Cut drops all entries as lost: what is missing among them cannot be known.
func (l *Log) Cut() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for l.head < len(l.entries) {
		l.dropLocked()
	}
	l.first++ // so that what was proven before does not count as all that there was
	l.lost = l.first
}

// Prepend puts entries before those that there are, without those that drop reports: the first entry has number 0
// then. It reports false if some have been dropped, or there is no room.
func (l *Log) Prepend(entries []*Entry, drop func(*Entry) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.gate == nil || l.first > 0 {
		return false
	}
	held := slices.Clone(l.entries[l.head:])
	for l.head < len(l.entries) {
		l.dropLocked()
	}
	l.first, l.lost, l.proven = 0, 0, 0
	for _, e := range inOrder(slices.Concat(entries, slices.DeleteFunc(held, drop))) {
		l.addLocked(e)
	}
	return l.first == 0
}

// inOrder puts entries in the order of their places. One without a place stays behind the one that it is behind.
func inOrder(entries []*Entry) []*Entry {
	type placed struct {
		at uint64
		e  *Entry
	}
	list, last := make([]placed, len(entries)), uint64(0)
	for i, e := range entries {
		if e.Place != 0 {
			last = e.Place
		}
		list[i] = placed{last, e}
	}
	slices.SortStableFunc(list, func(a, b placed) int { return cmp.Compare(a.at, b.at) })
	for i := range list {
		entries[i] = list[i].e
	}
	return entries
}

// Unproven are the entries that the client is not proven to have. It reports false if some of those have been dropped.
func (l *Log) Unproven() ([]*Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.head + int(min(max(l.proven, l.first)-l.first, uint64(len(l.entries)-l.head)))
	return slices.Clone(l.entries[at:]), l.proven >= l.lost
}

// First is the number of the oldest entry.
func (l *Log) First() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// Next is the number that the next entry gets.
func (l *Log) Next() uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nextLocked()
}

func (l *Log) nextLocked() uint64 { return l.first + uint64(len(l.entries)-l.head) }

// Size is the memory of the entries in bytes, as if no other log had them.
func (l *Log) Size() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.bytes
}

// From appends at most max entries to dst, those from number n on. It reports false if some of them have been
// dropped.
func (l *Log) From(dst []*Entry, n uint64, max int) ([]*Entry, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if n < l.first {
		return dst, n >= l.nextLocked()
	}
	at := l.head + int(min(n-l.first, uint64(len(l.entries)-l.head)))
	return append(dst, l.entries[at:min(at+max, len(l.entries))]...), true
}

// Give is what another log is to have, of one moment: the entries from number n on, the origins of all entries, and the
// number that the next one gets. It reports false if some of the former have been dropped.
func (l *Log) Give(n uint64) (entries []*Entry, origins []Origin, next uint64, intact bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	all := l.entries[l.head:]
	for _, e := range all {
		if e.Origin != (Origin{}) {
			origins = append(origins, e.Origin)
		}
	}
	next = l.nextLocked()
	if n < l.first {
		return nil, origins, next, n >= next
	}
	return slices.Clone(all[min(n-l.first, uint64(len(all))):]), origins, next, true
}

// After is the number of the first entry that the client does not have. The last entry that matches is one that
// it has; without a match it has those that it has been proven to have. Intact says that none of the entries from
// there on was dropped.
func (l *Log) After(match func(*Entry) bool) (n uint64, matched, intact bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.entries) - 1; i >= l.head; i-- {
		if match(l.entries[i]) {
			n, matched = l.first+uint64(i-l.head)+1, true
			break
		}
	}
	n = max(n, l.proven)
	return n, matched, n >= l.lost
}

// Any reports whether one of the entries from number n on matches.
func (l *Log) Any(n uint64, match func(*Entry) bool) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	at := l.head + int(min(max(n, l.first)-l.first, uint64(len(l.entries)-l.head)))
	return slices.ContainsFunc(l.entries[at:], match)
}

// Dropped reports whether entries were dropped that the client may not have had.
func (l *Log) Dropped() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lost > 0
}

// Prove says that the client has the last entry that matches, and so all before it.
func (l *Log) Prove(match func(*Entry) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := len(l.entries) - 1; i >= l.head; i-- {
		if match(l.entries[i]) {
			l.proven = max(l.proven, l.first+uint64(i-l.head)+1)
			return
		}
	}
}

// Mark notes that everything that has been added leaves before a question to the client.
func (l *Log) Mark(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.marks[1] = mark{l.nextLocked(), now}
}

// Confirm says that the client has answered that question. What it has, and had for a while, is not kept any
// longer, but for the last entry: the client may name it.
func (l *Log) Confirm(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.marks[1].at.IsZero() {
		return
	}
	l.proven = max(l.proven, l.marks[1].number)
	if l.marks[0].at.IsZero() {
		l.marks[0] = l.marks[1]
	}
	if old := l.marks[0]; now.Sub(old.at) >= logAge {
		for l.first+1 < old.number && l.head < len(l.entries) {
			l.dropLocked()
		}
		l.marks[0] = l.marks[1]
	}
	l.marks[1] = mark{}
}
