package presence

import (
	"encoding/binary"
	"net/url"
	"strings"

	"tether/hub"
)

// The topics of this package's questions; see [cluster.Node.Handle].
const (
	topicOnline byte = 32 + iota // which devices users have on a node
	topicWord                    // to an owner: what has changed on a node
	topicPull                    // from an owner: all that a node knows of its users
	topicCopy                    // from an owner to the deputy of its users: records

	// What a node answers says what it is; nobody asks these.
	topicPart  // it takes part
	topicOwner // it can own users

	topicRooms // which members a node shows in rooms; from a node that watches, or only looks
	topicFeed  // to a node that watches: what has changed in rooms
)

// wireVersion begins questions between owners and other nodes. A node that gets another version does not
// answer it as if it understood.
const wireVersion = 1

// batchBytes is about how large a message, or a page of an answer, gets.
const batchBytes = 32 << 10

const maxText = 1 << 20 // bytes

func appendText[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// reader takes a message apart. It gives zero values once something did not fit.
type reader struct {
	data []byte
	bad  bool
}

func (r *reader) fail() { r.bad, r.data = true, nil }

func (r *reader) more() bool { return len(r.data) > 0 && !r.bad }

func (r *reader) byte() byte {
	if len(r.data) == 0 {
		r.fail()
		return 0
	}
	b := r.data[0]
	r.data = r.data[1:]
	return b
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

// fixed is a number of eight bytes.
func (r *reader) fixed() uint64 {
	if len(r.data) < 8 {
		r.fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.data)
	r.data = r.data[8:]
	return v
}

func (r *reader) varint() int64 {
	v, n := binary.Varint(r.data)
	if n <= 0 {
		r.fail()
		return 0
	}
	r.data = r.data[n:]
	return v
}

// count is a number of things that take a byte each at least.
func (r *reader) count() int {
	n := r.uvarint()
	if n > uint64(len(r.data)) {
		r.fail()
		return 0
	}
	return int(n)
}

func (r *reader) bytes() []byte {
	n := r.uvarint()
	if n > maxText || n > uint64(len(r.data)) {
		r.fail()
		return nil
	}
	b := r.data[:n:n]
	r.data = r.data[n:]
	return b
}

func (r *reader) text() string { return string(r.bytes()) }

// splitKey says what a key is about. A user's key is the subject of its room, without what all subjects begin
// with. There is no comma in a namespace.
func (p *Presence) splitKey(key string) (namespace string, user hub.Target) {
	namespace, name, _ := strings.Cut(key[min(p.prefix, len(key)):], ",")
	kind, id, _ := strings.Cut(name, ":")
	if plain, err := url.PathUnescape(kind); err == nil {
		kind = plain
	}
	return namespace, hub.Kind(kind).User(id)
}
