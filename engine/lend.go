package engine

import (
	"bytes"
	"sync"
)

// Most events are for one socket, and written at once. Such a packet is lent: it goes no further than the call
// of [Conn.Send], and then its memory is used again. What has to wait is kept: a lent packet is copied into
// memory that is used again too, once it has been gathered for a write.

// lent are packets that nobody has, and copies are those with memory for frames.
var lent, copies = sync.Pool{New: newPacket}, sync.Pool{New: newPacket}

func newPacket() any { return new(Packet) }

// maxCopy is the largest packet whose memory is used again, in bytes.
const maxCopy = 4 << 10

// Lend returns a packet that is lent until GiveBack: of frames as NewPacket makes them, which it
// aliases. It returns nil if they are anything but one frame of text.
func Lend(frames []byte, volatile bool) *Packet {
	text, rest, ok := cutText(frames)
	if !ok || rest < len(frames) {
		return nil
	}
	p := lent.Get().(*Packet)
	p.frames, p.text, p.traits = frames, text, traitLent
	if volatile {
		p.traits |= traitVolatile
	}
	return p
}

// Lent reports whether the packet, and its frames, are used again for something else once [Conn.Send] has
// returned.
func (p *Packet) Lent() bool { return p.traits&traitLent != 0 }

// Keep returns what the caller may keep: the packet itself, or if it is lent a copy.
func (p *Packet) Keep() *Packet {
	if !p.Lent() {
		return p
	}
	return &Packet{frames: bytes.Clone(p.frames), text: p.text, traits: p.traits &^ traitLent}
}

// KeepAlone is Keep for a holder that shows the packet to nobody else, and calls GiveBack: the memory of a copy
// is used again.
func (p *Packet) KeepAlone() *Packet {
	if !p.Lent() {
		return p
	}
	c := copies.Get().(*Packet)
	*c = Packet{frames: append(c.frames[:0], p.frames...), text: p.text, traits: p.traits&^traitLent | traitCopy}
	return c
}

// GiveBack ends the loan of a packet that Lend has made. A holder also calls it for a packet that it does not
// need any more: a copy that KeepAlone has made is used again. To other packets it does nothing.
func (p *Packet) GiveBack() {
	switch {
	case p.Lent():
		*p = Packet{}
		lent.Put(p)
	case p.traits&traitCopy != 0 && p.Size() <= maxCopy:
		copies.Put(p)
	}
}
