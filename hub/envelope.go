package hub

import (
	"encoding/binary"
	"iter"
	"math/bits"

	"tether/engine"
)

// envelope is one message between the nodes of a cluster.
//
//	byte     version, 1
//	byte     kind
//	byte     flags
//	text     target: the room subject of one socket's ID; on a node's own subject, and where that node has passed it on to.
//	         The subject of the node, where the emitter publishes it again in the room
//	uvarint  number of excepted rooms
//	text     each of them
//	text     terms: a byte, the policy, and the key; only with flagTerms
//	4 bytes  the microsecond of the emit, see stamp.go; only with flagStamp
//	8 bytes  its publisher; only with flagOrigin
//	uvarint  its number of what that one has published; only with flagOrigin
//	text     marks of tracers, each a name and a mark, as texts; only with flagMarks
//	rest     body; of an event the packet as WebSocket frames, which go out as they are
//
// A text is a uvarint, its length in bytes, and the bytes. Kinds, flags and versions that a node does
// not know make it drop the message and count it. It counts an event with a policy that it does not know
// too, and delivers it without terms.
type envelope struct {
	kind    kind
	flags   flags
	target  []byte
	excepts int
	except  []byte // the excepted rooms, checked
	terms   []byte // nil without flagTerms
	stamp   uint32 // 0 without flagStamp
	from    uint64 // 0 without flagOrigin
	number  uint64
	marks   []byte // nil without flagMarks
	body    []byte
	place   uint64 // of the message that it came in
}

type kind byte

const (
	kindEvent   kind = 1 + iota // to sockets: body is the packet
	kindEvict                   // disconnect the target if its registration is older; see devices.go
	kindCluster                 // body is a message of package cluster
	kindFence                   // body is for the node that has sent it; see Hub.fence
	kindAsked                   // in the broker's log alone: the sockets of a room were asked something
	kindEnd
)

type flags byte

const (
	flagVolatile flags = 1 << iota // of kindEvent
	flagTerms                      // of kindEvent: terms follow the exceptions
	flagStamp                      // of kindEvent: the time of the emit comes before the body
	flagOrigin                     // of kindEvent: what tells it from all others follows that
	flagMarks                      // of kindEvent: marks of tracers follow that
	flagsEnd
)

const (
	envelopeVersion = 1

	// maxTargets is how many targets an [Emitter] may except, together with those of an EmitUnion.
	maxTargets = 256

	maxText = 1 << 20 // bytes of a room in an envelope
)

// envelopeError says why a message of the broker was dropped.
type envelopeError string

func (e envelopeError) Error() string { return "hub: envelope: " + string(e) }

const (
	errEnvelopeNewer     envelopeError = "of a version that this node does not know"
	errEnvelopeMalformed envelopeError = "malformed"
)

// appendEnvelope appends everything but the body.
func appendEnvelope(dst []byte, k kind, f flags, target string, except []Target) []byte {
	dst = append(dst, envelopeVersion, byte(k), byte(f))
	dst = appendText(dst, target)
	dst = binary.AppendUvarint(dst, uint64(len(except)))
	for _, t := range except {
		dst = appendText(dst, t.name)
	}
	return dst
}

// appendTerms appends what follows that with flagTerms.
func appendTerms(dst []byte, o Overflow, key string) []byte {
	dst = binary.AppendUvarint(dst, uint64(1+len(key)))
	return append(append(dst, byte(o)), key...)
}

// termsSize is what appendTerms appends.
func termsSize(key string) int { return textSize(1 + len(key)) }

// readTerms reads the terms of an event that is for sockets of a namespace. It reports whether they are
// known; if not, they are those of an event without.
func (e *envelope) readTerms(namespace string) (t engine.Terms, ok bool) {
	t.Volatile = e.flags&flagVolatile != 0
	if e.flags&flagTerms == 0 {
		return t, true
	}
	if o := Overflow(e.terms[0]); !o.Valid() {
		return t, false
	}
	t.Overflow = Overflow(e.terms[0])
	if key := e.terms[1:]; len(key) > 0 {
		t.Key = scopedKey(namespace, string(key))
	}
	return t, true
}

// appendOriginOf appends what follows that with flagOrigin.
func appendOriginOf(dst []byte, from, number uint64) []byte {
	return binary.AppendUvarint(binary.BigEndian.AppendUint64(dst, from), number)
}

const maxOriginSize = 8 + binary.MaxVarintLen64

// envelopeSize is what appendEnvelope appends.
func envelopeSize(target string, except []Target) int {
	n := 3 + textSize(len(target)) + varintSize(len(except))
	for _, t := range except {
		n += textSize(len(t.name))
	}
	return n
}

// textSize is what appendText appends of n bytes.
func textSize(n int) int { return varintSize(n) + n }

func varintSize(n int) int { return (bits.Len(uint(n)|1) + 6) / 7 }

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// parseEnvelope reads data, which the result aliases. Nothing is allocated, whatever data says.
func parseEnvelope(data []byte) (envelope, error) {
	if len(data) < 3 {
		return envelope{}, errEnvelopeMalformed
	}
	e := envelope{kind: kind(data[1]), flags: flags(data[2])}
	if data[0] != envelopeVersion || e.kind == 0 || e.kind >= kindEnd || e.flags >= flagsEnd {
		return envelope{}, errEnvelopeNewer
	}
	var ok bool
	if e.target, data, ok = cutText(data[3:]); !ok {
		return envelope{}, errEnvelopeMalformed
	}
	n, data, ok := cutUvarint(data, maxTargets)
	if !ok {
		return envelope{}, errEnvelopeMalformed
	}
	e.excepts = n
	rest := data
	for range n {
		if _, rest, ok = cutText(rest); !ok {
			return envelope{}, errEnvelopeMalformed
		}
	}
	e.except, e.body = data[:len(data)-len(rest)], rest
	if e.flags&flagTerms != 0 {
		if e.terms, e.body, ok = cutText(rest); !ok || len(e.terms) == 0 || len(e.terms) > 1+maxKey {
			return envelope{}, errEnvelopeMalformed
		}
	}
	if e.flags&flagStamp != 0 {
		if len(e.body) < stampSize {
			return envelope{}, errEnvelopeMalformed
		}
		e.stamp, e.body = binary.BigEndian.Uint32(e.body), e.body[stampSize:]
	}
	if e.flags&flagOrigin != 0 {
		if len(e.body) < 8 {
			return envelope{}, errEnvelopeMalformed
		}
		number, width := binary.Uvarint(e.body[8:])
		if width <= 0 {
			return envelope{}, errEnvelopeMalformed
		}
		e.from, e.number, e.body = binary.BigEndian.Uint64(e.body), number, e.body[8+width:]
	}
	if e.flags&flagMarks != 0 {
		if e.marks, e.body, ok = cutText(e.body); !ok || len(e.marks) > maxMarks {
			return envelope{}, errEnvelopeMalformed
		}
	}
	return e, nil
}

// exceptions iterates over the excepted rooms.
func (e *envelope) exceptions() iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		rest := e.except
		for range e.excepts {
			var text []byte
			if text, rest, _ = cutText(rest); !yield(text) {
				return
			}
		}
	}
}

func cutText(data []byte) (text, rest []byte, ok bool) {
	n, data, ok := cutUvarint(data, min(maxText, len(data)))
	if !ok || n > len(data) {
		return nil, nil, false
	}
	return data[:n:n], data[n:], true
}

// cutUvarint cuts off a number that is at most limit.
func cutUvarint(data []byte, limit int) (n int, rest []byte, ok bool) {
	v, width := binary.Uvarint(data)
	if width <= 0 || v > uint64(limit) {
		return 0, nil, false
	}
	return int(v), data[width:], true
}
