package presence

import (
	"encoding/binary"
	"slices"
	"time"

	"tether/hub"
	"tether/internal/wire"
)

// record is what an owner knows of a user; its deputy has a copy, and a node that was one of the two may still
// have one. Of two copies the one with the higher version is right. All is guarded by the presence's mu.
type record struct {
	key     string
	hash    uint64
	version uint64
	change  change   // the last one
	devices []device // also those that are gone, until OnDevice has been told
	marks   []mark

	// What this node keeps for itself.
	deputy   string    // that has a copy
	copied   uint64    // its version
	queued   bool      // for the deputy
	working  bool      // it is ready to be told, or being told
	emptied  time.Time // since when there is no device, although the user is online; zero: there is one
	timer    *time.Timer
	idleFrom time.Time // since when the user is offline, as far as this node has to know; zero: he is not
}

func (r *record) inQueue() *bool { return &r.queued }

// device is a device of any node, or a session that waits there for one.
type device struct {
	node  string // tag
	id    string
	since int64
	came  uint64 // version of the record when it came
	went  uint64 // the same when it went; 0: it is there
	flags deviceFlags
	why   hub.Reason // of a session that is gone: "" if nobody has to be told
}

type deviceFlags byte

const (
	deviceTold     deviceFlags = 1 << iota // OnDevice has been told that it came
	deviceNodeGone                         // it went with its node
	deviceWaits                            // it is a session; nobody is told that it came
	deviceKept                             // a session would wait
	deviceGone                             // of a node's word: it went, and is kept until the owner knows
)

// mark is how far the word of a node has been heard: what it says with a number that is not higher is late.
type mark struct {
	node   string
	number uint64
}

// maxCopied is how many devices of a user a copy has. That is enough for people: of more the deputy, when it
// becomes the owner, hears from the nodes that live.
const maxCopied = 500

// nodeLost is why a session ends whose node dies.
const nodeLost hub.Reason = "node lost"

// present counts the devices that are there.
func (r *record) present() (n int) {
	for i := range r.devices {
		if r.devices[i].went == 0 && !r.devices[i].waits() {
			n++
		}
	}
	return n
}

func (r *record) mark(node string) uint64 {
	for _, m := range r.marks {
		if m.node == node {
			return m.number
		}
	}
	return 0
}

func (r *record) setMark(node string, number uint64) {
	for i := range r.marks {
		if r.marks[i].node == node {
			r.marks[i].number = max(r.marks[i].number, number)
			return
		}
	}
	r.marks = append(r.marks, mark{node, number})
}

func (d *device) waits() bool { return d.flags&deviceWaits != 0 }

// find is where a device is that is there, or its session, -1 if it is not.
func (r *record) find(node, id string, waits bool) int {
	return slices.IndexFunc(r.devices, func(d device) bool {
		return d.went == 0 && d.id == id && d.node == node && d.waits() == waits
	})
}

// apply takes what a node says has changed. It reports whether that was news. Each change has a version of its own: a device
// may come, go and come again in one word.
func (r *record) apply(node string, u *wordUser, next func() uint64) (changed bool) {
	before := r.mark(node)
	if u.number <= before {
		return false
	}
	for _, d := range u.devices {
		if d.number > before {
			r.applyDevice(node, d, next)
		}
	}
	r.setMark(node, u.number)
	return true
}

func (r *record) applyDevice(node string, d wordDevice, next func() uint64) {
	waits := d.flags&deviceWaits != 0
	at := r.find(node, d.id, waits)
	if at < 0 && !waits {
		r.emptied = time.Time{} // a grace begins anew, also if it has gone already
	}
	if at < 0 { // it may have gone, too, between two words
		at = len(r.devices)
		r.devices = append(r.devices, device{node: node, id: d.id, since: d.since, came: next(), flags: d.flags &^ deviceGone})
	}
	if d.flags&deviceGone != 0 {
		r.devices[at].went, r.devices[at].why = next(), d.why
	}
}

// replace takes all that a node has of the user; u is nil if it has nothing.
func (r *record) replace(node string, u *wordUser, next func() uint64) (changed bool) {
	before := r.mark(node)
	if u != nil && u.number < before {
		return false // a later word has been heard
	}
	type entry struct {
		id    string
		waits bool
	}
	there := make(map[entry]bool)
	if u != nil {
		for _, d := range u.devices {
			e, gone := entry{d.id, d.flags&deviceWaits != 0}, d.flags&deviceGone != 0
			switch {
			case gone && d.number > before:
				r.applyDevice(node, d, next)
				changed = true
			case !gone:
				there[e] = true
				if r.find(node, e.id, e.waits) < 0 {
					r.applyDevice(node, d, next)
					changed = true
				}
			}
		}
		r.setMark(node, u.number)
		changed = changed || u.number > before
	}
	for i := range r.devices {
		if d := &r.devices[i]; d.node == node && d.went == 0 && !there[entry{d.id, d.waits()}] {
			d.went = next()
			changed = true
		}
	}
	return changed
}

// lose notes that the devices of nodes that are not in v have gone with them, and so have sessions, unless they are on
// another node by now.
func (r *record) lose(v *view, next func() uint64) (changed bool) {
	for _, d := range r.devices {
		if _, lives := v.nodes[d.node]; !lives && d.went == 0 && d.flags&deviceKept != 0 && r.find(d.node, d.id, true) < 0 {
			r.devices = append(r.devices, device{node: d.node, id: d.id, since: d.since, came: next(), flags: deviceWaits | deviceTold})
		}
	}
	for i := range r.devices {
		d := &r.devices[i]
		if _, lives := v.nodes[d.node]; !lives && d.went == 0 {
			d.went, d.flags = next(), d.flags|deviceNodeGone
			changed = true
			elsewhere := func(o device) bool { return o.went == 0 && o.id == d.id && o.node != d.node }
			if d.waits() && !slices.ContainsFunc(r.devices, elsewhere) {
				d.why = nodeLost
			}
		}
	}
	return changed
}

// learn takes what a node was told of the last change, if it was told later than this record's.
func (r *record) learn(known change) bool {
	if known.number < r.change.number || known == r.change || known.number == r.change.number && r.change.told {
		return false
	}
	r.change = known
	return true
}

// forget drops what OnDevice need not be told any more.
func (r *record) forget() {
	r.devices = slices.DeleteFunc(r.devices, func(d device) bool { return d.went != 0 })
	for i := range r.devices {
		r.devices[i].flags |= deviceTold
	}
}

// untold are the devices that OnDevice has to be told of. One whose session has come from another node is not told ahead of
// that node's word that it has gone there.
func (r *record) untold() (list []device) {
	for _, d := range r.devices {
		if d.went == 0 && d.flags&deviceTold != 0 {
			continue
		}
		before := func(o device) bool {
			return o.id == d.id && o.node != d.node && o.went == 0 && !o.waits() && o.came < d.came
		}
		if !slices.ContainsFunc(r.devices, before) {
			list = append(list, d)
		}
	}
	return list
}

func (r *record) stopTimer() {
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
}

// append appends the record for another node:
//
//	text     key
//	uvarint  version
//	change   the last one
//	uvarint  number of marks, and of each a text and a number
//	uvarint  number of devices, and of each two texts, since, came, went, flags, and a text
func (r *record) append(dst []byte) []byte {
	dst = r.change.append(binary.AppendUvarint(wire.AppendText(dst, r.key), r.version))
	dst = binary.AppendUvarint(dst, uint64(len(r.marks)))
	for _, m := range r.marks {
		dst = binary.AppendUvarint(wire.AppendText(dst, m.node), m.number)
	}
	devices := r.devices[:min(len(r.devices), maxCopied)]
	dst = binary.AppendUvarint(dst, uint64(len(devices)))
	for _, d := range devices {
		dst = binary.AppendVarint(wire.AppendText(wire.AppendText(dst, d.node), d.id), d.since)
		dst = append(binary.AppendUvarint(binary.AppendUvarint(dst, d.came), d.went), byte(d.flags))
		dst = wire.AppendText(dst, string(d.why))
	}
	return dst
}

func readRecord(rd *reader) *record {
	r := &record{key: rd.text(), version: rd.Uvarint(), change: readChange(rd)}
	for range rd.Count() {
		r.marks = append(r.marks, mark{rd.text(), rd.Uvarint()})
	}
	for range rd.Count() {
		r.devices = append(r.devices, device{rd.text(), rd.text(), rd.Varint(), rd.Uvarint(), rd.Uvarint(), deviceFlags(rd.Byte()), hub.Reason(rd.text())})
	}
	return r
}
