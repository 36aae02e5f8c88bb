package hub

import (
	"bytes"
	"encoding/binary"
	"sync"
	"sync/atomic"
)

// Packet is one Socket.IO packet with its attachments, encoded for the wire. It is immutable, and
// one packet is shared by all the sockets that it is sent to. Text and attachments are queued and
// written as one unit: no other packet comes between them.
//
// One is made of each event, so what few have is apart. One that is written at once is not even made,
// but lent: see Keep.
type Packet struct {
	frames   []byte // the WebSocket frames back to back: a text frame, then a binary frame each
	text     span   // of the payload of the text frame in frames
	overflow Overflow
	traits   traits
	holders  atomic.Int32 // see Hold
	rare     atomic.Pointer[rare]
}

type traits uint8

const (
	traitVolatile traits = 1 << iota
	traitControl
	traitMore
	traitLent // see Keep
	traitOwn  // see KeepIn
)

// rare is what few packets have. All but compact is written before anybody else knows the packet.
type rare struct {
	binary []span // of the payloads of the binary frames in frames
	key    string // Terms.Key

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
	p.traits |= traitControl
	return p
}

// newPacket encodes text, which begins with the Engine.IO type "4", and its attachments.
func newPacket(text []byte, attachments [][]byte, volatile bool) *Packet {
	size := frameHeader(len(text)) + len(text)
	for _, a := range attachments {
		size += frameHeader(len(a)) + len(a)
	}
	p := &Packet{frames: make([]byte, 0, size)}
	if volatile {
		p.traits = traitVolatile
	}
	p.text = p.add(finText, text)
	p.attach(attachments)
	return p
}

func (p *Packet) attach(attachments [][]byte) {
	if len(attachments) == 0 {
		return
	}
	binary := make([]span, len(attachments))
	for i, a := range attachments {
		binary[i] = p.add(finBinary, a)
	}
	p.others().binary = binary
}

// others is rare, which there is from then on.
func (p *Packet) others() *rare {
	if r := p.rare.Load(); r != nil {
		return r
	}
	p.rare.CompareAndSwap(nil, new(rare))
	return p.rare.Load()
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
	r := p.others()
	r.once.Do(func() { r.compact = compress(p) })
	return r.compact
}

// Text is the Engine.IO packet of type message, "42[…]" say. The caller must not modify it.
func (p *Packet) Text() []byte { return p.frames[p.text.from:p.text.to:p.text.to] }

// Attachments is the number of binary attachments that follow the text.
func (p *Packet) Attachments() int {
	if r := p.rare.Load(); r != nil {
		return len(r.binary)
	}
	return 0
}

// Attachment is the i-th binary attachment. The caller must not modify it.
func (p *Packet) Attachment(i int) []byte {
	s := p.rare.Load().binary[i]
	return p.frames[s.from:s.to:s.to]
}

// lentPackets are those that nobody has.
var lentPackets = sync.Pool{New: func() any { return &Packet{traits: traitLent} }}

// lendPacket returns a packet that is lent until giveBack: frames, as newPacket makes them, which it
// aliases. It returns nil if they are anything but one frame of text.
func lendPacket(frames []byte, volatile bool) *Packet {
	text, rest, ok := cutTextFrame(frames)
	if !ok || rest < len(frames) {
		return nil
	}
	p := lentPackets.Get().(*Packet)
	p.frames, p.text = frames, text
	if volatile {
		p.traits |= traitVolatile
	}
	return p
}

// giveBack takes back a packet that was lent. Whoever has kept it all the same has an empty one.
func (p *Packet) giveBack() {
	*p = Packet{traits: traitLent}
	lentPackets.Put(p)
}

// Lent reports whether the packet, and its frames, are used again for something else once [Conn.Send] has
// returned.
func (p *Packet) Lent() bool { return p.traits&traitLent != 0 }

// Keep is the packet for who keeps it: itself, or a copy if it is lent.
func (p *Packet) Keep() *Packet {
	if !p.Lent() {
		return p
	}
	return &Packet{frames: bytes.Clone(p.frames), text: p.text, traits: p.traits &^ traitLent}
}

// KeepIn is Keep for who keeps a lent packet to itself: the copy is made in own, which nobody else has, and
// whose memory is used again.
func (p *Packet) KeepIn(own *Packet) {
	*own = Packet{frames: append(own.frames[:0], p.frames...), text: p.text, traits: p.traits&^traitLent | traitOwn}
}

// Own reports whether the packet is of KeepIn.
func (p *Packet) Own() bool { return p.traits&traitOwn != 0 }

// Volatile reports whether the packet is to be dropped when it cannot be written now.
func (p *Packet) Volatile() bool { return p.traits&traitVolatile != 0 }

// Control reports whether the packet is an answer, or one of the protocol itself, and must not be
// dropped.
func (p *Packet) Control() bool { return p.traits&traitControl != 0 }

// More reports whether the sender sends another packet to the connection right after this one, so that
// nothing needs to be written before that.
func (p *Packet) More() bool { return p.traits&traitMore != 0 }

// Overflow is what is to become of the packet when the queue is full. It counts only without Control.
func (p *Packet) Overflow() Overflow { return p.overflow }

// Key is what packets that replace each other have in common, "" for none: see [Terms].
func (p *Packet) Key() string {
	if r := p.rare.Load(); r != nil {
		return r.key
	}
	return ""
}

// setTerms is called before anybody else knows the packet.
func (p *Packet) setTerms(t Terms) {
	p.overflow = t.Overflow
	if t.Volatile {
		p.traits |= traitVolatile
	}
	if t.Control {
		p.traits |= traitControl
	}
	if t.Key != "" {
		p.others().key = t.Key
	}
}

// packetCost is about what a packet costs beside its frames: itself, and a place in a queue.
const packetCost = 96

// Hold counts the memory of the packet in total, in bytes, once for all who hold it at a time. The
// sockets that a packet is sent to share it, so the sum of what waits for them is not what it costs.
// There is one total for all holders of a packet.
func (p *Packet) Hold(total *atomic.Int64) {
	if p.holders.Add(1) == 1 {
		total.Add(int64(len(p.frames)) + packetCost)
	}
}

// Release undoes one Hold.
func (p *Packet) Release(total *atomic.Int64) {
	if p.holders.Add(-1) == 0 {
		total.Add(-int64(len(p.frames)) - packetCost)
	}
}

// Size is the number of bytes that the packet takes in a queue.
func (p *Packet) Size() int { return len(p.frames) }

// frameHeader is the size of the header of an unmasked frame, RFC 6455 section 5.2.
func frameHeader(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	default:
		return 10
	}
}

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
