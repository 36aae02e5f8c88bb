package presence

import (
	"encoding/binary"
	"slices"
	"time"

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

// device is a device of any node.
type device struct {
	node  string // tag
	id    string
	since int64
	came  uint64 // version of the record when it came
	went  uint64 // the same when it went; 0: it is there
	flags deviceFlags
}

type deviceFlags byte

const (
	deviceTold     deviceFlags = 1 << iota // OnDevice has been told that it came
	deviceNodeGone                         // it went with its node
)

// mark is how far the word of a node has been heard: what it says with a number that is not higher is late.
type mark struct {
	node   string
	number uint64
}

// maxCopied is how many devices of a user a copy has. That is enough for people: of more the deputy, when it
// becomes the owner, hears from the nodes that live.
const maxCopied = 500

// present counts the devices that are there.
func (r *record) present() (n int) {
	for i := range r.devices {
		if r.devices[i].went == 0 {
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

// find is where a device is that is there, -1 if it is not.
func (r *record) find(node, id string) int {
	return slices.IndexFunc(r.devices, func(d device) bool { return d.went == 0 && d.id == id && d.node == node })
}

// apply takes what a node says has changed. It reports whether that was news.
func (r *record) apply(node string, u *wordUser, version uint64) (changed bool) {
	before := r.mark(node)
	if u.number <= before {
		return false
	}
	for _, d := range u.devices {
		if d.number > before {
			r.applyDevice(node, d, version)
		}
	}
	r.setMark(node, u.number)
	return true
}

func (r *record) applyDevice(node string, d wordDevice, version uint64) {
	at := r.find(node, d.id)
	if at < 0 {
		r.emptied = time.Time{} // a grace begins anew, also if it has gone already
	}
	switch {
	case d.gone && at >= 0:
		r.devices[at].went = version
	case d.gone: // it has come and gone between two words
		r.devices = append(r.devices, device{node: node, id: d.id, since: d.since, came: version, went: version})
	case at < 0:
		r.devices = append(r.devices, device{node: node, id: d.id, since: d.since, came: version})
	}
}

// replace takes all that a node has of the user; u is nil if it has nothing.
func (r *record) replace(node string, u *wordUser, version uint64) (changed bool) {
	before := r.mark(node)
	if u != nil && u.number < before {
		return false // a later word has been heard
	}
	there := make(map[string]bool)
	if u != nil {
		for _, d := range u.devices {
			at := r.find(node, d.id)
			switch {
			case d.gone && (at >= 0 || d.number > before):
				r.applyDevice(node, d, version)
				changed = true
			case !d.gone:
				there[d.id] = true
				if at < 0 {
					r.applyDevice(node, d, version)
					changed = true
				}
			}
		}
		r.setMark(node, u.number)
		changed = changed || u.number > before
	}
	for i := range r.devices {
		if d := &r.devices[i]; d.node == node && d.went == 0 && !there[d.id] {
			d.went = version
			changed = true
		}
	}
	return changed
}

// lose notes that the devices of nodes that are not in v have gone with them.
func (r *record) lose(v *view, version uint64) (changed bool) {
	for i := range r.devices {
		d := &r.devices[i]
		if _, lives := v.nodes[d.node]; !lives && d.went == 0 {
			d.went, d.flags = version, d.flags|deviceNodeGone
			changed = true
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

// untold reports whether OnDevice has to be told something.
func (r *record) untold() bool {
	return slices.ContainsFunc(r.devices, func(d device) bool { return d.went != 0 || d.flags&deviceTold == 0 })
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
//	uvarint  number of devices, and of each two texts, since, came, went, flags
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
	}
	return dst
}

func readRecord(rd *reader) *record {
	r := &record{key: rd.text(), version: rd.Uvarint(), change: readChange(rd)}
	for range rd.Count() {
		r.marks = append(r.marks, mark{rd.text(), rd.Uvarint()})
	}
	for range rd.Count() {
		r.devices = append(r.devices, device{rd.text(), rd.text(), rd.Varint(), rd.Uvarint(), rd.Uvarint(), deviceFlags(rd.Byte())})
	}
	return r
}
