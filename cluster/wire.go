package cluster

import (
	"encoding/binary"
	"time"
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

func appendText[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// reader takes a message apart. It gives zero values once something did not fit.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) byte() byte {
	if len(r.data) == 0 {
		r.bad = true
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.bad, r.data = true, nil
		return 0
	}
	r.data = r.data[n:]
	return v
}

// bytes is a text that shares memory with the message.
func (r *reader) bytes(limit int) []byte {
	n := r.uvarint()
	if n > uint64(limit) || n > uint64(len(r.data)) {
		r.bad, r.data = true, nil
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) text(limit int) string { return string(r.bytes(limit)) }

// tag is the tag of a node, which is never empty.
func (r *reader) tag() string {
	t := r.text(maxTag)
	r.bad = r.bad || t == ""
	return t
}

func (r *reader) millis() time.Time { return time.UnixMilli(int64(r.uvarint())) }

// done reports whether the message was as it has to be, to its end.
func (r *reader) done() bool { return !r.bad && len(r.data) == 0 }

const (
	maxTag    = 64   // bytes
	maxName   = 1024 // bytes of a name, a version, an address
	maxTopics = 256
)
