package cluster

import (
	"time"

	"tether/internal/wire"
)

// Messages between nodes. Each begins with its type; a text is a uvarint, its length in bytes, and the
// bytes. A type that a node does not know it ignores.
const (
	typeBeat    byte = 1 + iota // a node is there: see beat
	typeAsk                     // a question: see ask
	typePage                    // a part of an answer: see page
	typeMore                    // more parts may be sent: number, asker, granted
	typeEnd                     // the answer is not wanted any more: number, asker
	typeWorking                 // the answer is being made: number, tag, run, messages sent so far
)

// reader takes a message of this package apart.
type reader struct{ wire.Reader }

// tag is the tag of a node, which is never empty.
func (r *reader) tag() string {
	t := r.Text(maxTag)
	r.Bad = r.Bad || t == ""
	return t
}

func (r *reader) millis() time.Time { return time.UnixMilli(int64(r.Uvarint())) }

const (
	maxTag    = 64   // bytes
	maxName   = 1024 // bytes of a name, a version, an address
	maxTopics = 256
)
