package hub

import (
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// Packet is one Socket.IO packet with its attachments, encoded for the wire. It is immutable, and
// one packet is shared by all the sockets that it is sent to. Text and attachments are queued and
// written as one unit: no other packet comes between them.
type Packet struct {
	frames   []byte // the WebSocket frames back to back: a text frame, then a binary frame each
	text     span   // of the payload of the text frame in frames
	binary   []span // of the payloads of the binary frames in frames
	key      string // Terms, as the next three
	overflow Overflow
	volatile bool
	control  bool
	more     bool

	holders atomic.Int32                 // see Hold
	total   atomic.Pointer[atomic.Int64] // where the holders are counted

	once    sync.Once
	compact []byte // what Compact's function returned
}

type span struct{ from, to uint32 }

// WebSocket opcodes with FIN set, RFC 6455 section 5.2.
const (
	finText   = 0x81
	finBinary = 0x82
)

// newControl encodes a packet of the protocol itself.
func newControl(text []byte) *Packet {
	p := newPacket(text, nil, false)
	p.control = true
	return p
}

// newPacket encodes text, which begins with the Engine.IO type "4", and its attachments.
func newPacket(text []byte, attachments [][]byte, volatile bool) *Packet {
	size := maxFrameHeader + len(text)
	for _, a := range attachments {
		size += maxFrameHeader + len(a)
	}
	p := &Packet{frames: make([]byte, 0, size), volatile: volatile}
	p.text = p.add(finText, text)
	if len(attachments) > 0 {
		p.binary = make([]span, len(attachments))
		for i, a := range attachments {
			p.binary[i] = p.add(finBinary, a)
		}
	}
	return p
}

func (p *Packet) add(first byte, payload []byte) span {
	p.frames = appendFrameHeader(p.frames, first, len(payload))
	from := len(p.frames)
	p.frames = append(p.frames, payload...)
	return span{uint32(from), uint32(len(p.frames))}
}

// Frames is the packet as WebSocket frames from a server, RFC 6455 section 5, uncompressed, back to
// back. The caller must not modify it.
func (p *Packet) Frames() []byte { return p.frames }

// Compact is what compress made of the packet when it was first called for it: the frames compressed,
// say, for all the sockets that share the packet. The caller must not modify it.
func (p *Packet) Compact(compress func(*Packet) []byte) []byte {
	p.once.Do(func() { p.compact = compress(p) })
	return p.compact
}

// Text is the Engine.IO packet of type message, "42[…]" say. The caller must not modify it.
func (p *Packet) Text() []byte { return p.frames[p.text.from:p.text.to:p.text.to] }

// Attachments is the number of binary attachments that follow the text.
func (p *Packet) Attachments() int { return len(p.binary) }

// Attachment is the i-th binary attachment. The caller must not modify it.
func (p *Packet) Attachment(i int) []byte {
	s := p.binary[i]
	return p.frames[s.from:s.to:s.to]
}

// Volatile reports whether the packet is to be dropped when it cannot be written now.
func (p *Packet) Volatile() bool { return p.volatile }

// Control reports whether the packet is an answer, or one of the protocol itself, and must not be
// dropped.
func (p *Packet) Control() bool { return p.control }

// More reports whether the sender sends another packet to the connection right after this one, so that
// nothing needs to be written before that.
func (p *Packet) More() bool { return p.more }

// Overflow is what is to become of the packet when the queue is full. It counts only without Control.
func (p *Packet) Overflow() Overflow { return p.overflow }

// Key is what packets that replace each other have in common, "" for none: see [Terms].
func (p *Packet) Key() string { return p.key }

// setTerms is called before anybody else knows the packet.
func (p *Packet) setTerms(t Terms) {
	p.key, p.overflow, p.volatile, p.control = t.Key, t.Overflow, t.Volatile, t.Control
}

// packetCost is about what a packet costs beside its frames: itself, and a place in a queue.
const packetCost = 160

// Hold counts the memory of the packet in total, in bytes, once for all who hold it at a time. The
// sockets that a packet is sent to share it, so the sum of what waits for them is not what it costs.
func (p *Packet) Hold(total *atomic.Int64) {
	if p.holders.Add(1) == 1 {
		total.Add(int64(len(p.frames)) + packetCost)
		p.total.Store(total)
	}
}

// Release undoes one Hold.
func (p *Packet) Release() {
	if p.holders.Add(-1) == 0 {
		p.total.Load().Add(-int64(len(p.frames)) - packetCost)
	}
}

// Size is the number of bytes that the packet takes in a queue.
func (p *Packet) Size() int { return len(p.frames) }

const maxFrameHeader = 10 // of an unmasked frame

// appendFrameHeader appends the header of an unmasked frame, RFC 6455 section 5.2.
func appendFrameHeader(dst []byte, first byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, first, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(n))
	}
}
