package engine

import (
	"errors"
	"sync"
	"sync/atomic"
	"time"
)

// MaxAttachments is the number of binary attachments that a packet may have: clients close the
// connection on more.
const MaxAttachments = 10

// ErrMalformed says that bytes are not the frames of a packet.
var ErrMalformed = errors.New("tether: malformed packet")

// Packet is one packet for a client with its attachments, encoded for the wire. It is immutable, and
// one packet is shared by all the connections that it is sent to. Text and attachments are queued and
// written as one unit: no other packet comes between them.
//
// One is made of each event, so what few have is apart. One that is written at once is not even made,
// but lent: see Lend.
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
	traitLent // see Lend
	traitCopy // see KeepAlone
	traitEmitted
	traitWatched
)

// rare is what few packets have. All but entry and compact is written before anybody else knows the packet.
type rare struct {
	binary []span // of the payloads of the binary frames in frames
	key    string // Terms.Key

	entry   atomic.Pointer[Entry] // see Packet.Entry
	emitted time.Time
	watcher Watcher

	once    sync.Once
	compact []byte // what Compact's function returned
}

// NewPacket encodes a packet. Its text begins with the Engine.IO type, "4" for a message; nil leaves the
// text out, so that only the attachments are sent. Neither text nor attachments are kept.
func NewPacket(t Terms, text []byte, attachments ...[]byte) *Packet {
	size := 0
	if text != nil {
		size = FrameHeader(len(text)) + len(text)
	}
	for _, a := range attachments {
		size += FrameHeader(len(a)) + len(a)
	}
	p := &Packet{frames: make([]byte, 0, size)}
	if text != nil {
		p.text = p.add(FinText, text)
	}
	if len(attachments) > 0 {
		binary := make([]span, len(attachments))
		for i, a := range attachments {
			binary[i] = p.add(FinBinary, a)
		}
		p.others().binary = binary
	}
	p.setTerms(t)
	return p
}

// ParsePacket makes a packet of frames as NewPacket makes them: one of text, which is a message, then the
// binary ones. The packet aliases frames. The error is ErrMalformed.
func ParsePacket(t Terms, frames []byte) (*Packet, error) {
	text, rest, ok := cutText(frames)
	if !ok {
		return nil, ErrMalformed
	}
	p := &Packet{frames: frames, text: text}
	p.setTerms(t)
	var binary []span
	for rest < len(frames) {
		var attachment span
		if attachment, rest, ok = cutFrame(frames, rest, FinBinary); !ok || len(binary) == MaxAttachments {
			return nil, ErrMalformed
		}
		binary = append(binary, attachment)
	}
	if binary != nil {
		p.others().binary = binary
	}
	return p, nil
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
	p.frames = AppendFrameHeader(p.frames, first, len(payload))
	from := len(p.frames)
	p.frames = append(p.frames, payload...)
	return span{uint32(from), uint32(len(p.frames))}
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
	if t.More {
		p.traits |= traitMore
	}
	if t.Key != "" {
		p.others().key = t.Key
	}
}

// Frames is the packet as WebSocket frames from a server, RFC 6455 section 5, uncompressed, back to
// back. The caller must not modify it.
func (p *Packet) Frames() []byte { return p.frames }

// Size is the number of bytes that the packet takes in a queue.
func (p *Packet) Size() int { return len(p.frames) }

// Compact is what compress made of the packet when it was first called for it: the frames compressed,
// say, for all the connections that share the packet. The caller must not modify it.
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

// Volatile is Terms.Volatile.
func (p *Packet) Volatile() bool { return p.traits&traitVolatile != 0 }

// Control is Terms.Control.
func (p *Packet) Control() bool { return p.traits&traitControl != 0 }

// More is Terms.More.
func (p *Packet) More() bool { return p.traits&traitMore != 0 }

// Overflow is Terms.Overflow.
func (p *Packet) Overflow() Overflow { return p.overflow }

// Key is Terms.Key.
func (p *Packet) Key() string {
	if r := p.rare.Load(); r != nil {
		return r.key
	}
	return ""
}

// SetEmitted says when the packet's event was emitted, for a transport that tells how long events take to be
// written. It is called before anybody else knows the packet, which is not lent.
func (p *Packet) SetEmitted(at time.Time) {
	p.traits |= traitEmitted
	p.others().emitted = at
}

// Emitted is what SetEmitted was given, if it was called.
func (p *Packet) Emitted() (at time.Time, ok bool) {
	if p.traits&traitEmitted == 0 {
		return at, false
	}
	return p.rare.Load().emitted, true
}

// Untimed is the packet without what SetEmitted was given.
func (p *Packet) Untimed() *Packet {
	if p.traits&traitEmitted == 0 {
		return p
	}
	u := &Packet{frames: p.frames, text: p.text, overflow: p.overflow, traits: p.traits &^ traitEmitted}
	if r := p.rare.Load(); r.binary != nil || r.key != "" || r.watcher != nil {
		u.rare.Store(&rare{binary: r.binary, key: r.key, watcher: r.watcher})
	}
	return u
}

// SetWatcher says which watcher is told what becomes of the packet. It is called before anybody else knows the packet,
// which is not lent.
func (p *Packet) SetWatcher(w Watcher) {
	p.traits |= traitWatched
	p.others().watcher = w
}

// Watched reports whether SetWatcher was called.
func (p *Packet) Watched() bool { return p.traits&traitWatched != 0 }

// Noted reports whether SetEmitted or SetWatcher was called: a transport has more to do than to write the packet.
func (p *Packet) Noted() bool { return p.traits&(traitEmitted|traitWatched) != 0 }

// Became tells the watcher, if there is one, what has become of the packet for a client.
func (p *Packet) Became(c Conn, o Outcome) {
	if p.Watched() {
		p.rare.Load().watcher.Became(c, o)
	}
}

// Routed tells the watcher, if there is one, how many sockets the packet is for.
func (p *Packet) Routed(sockets int) {
	if p.Watched() {
		p.rare.Load().watcher.Routed(sockets)
	}
}

// packetCost is about what a packet costs beside its frames: itself, and a place in a queue.
const packetCost = 96

// Hold counts the memory of the packet in total, in bytes, once for all queues that hold it at a time. The
// connections that a packet is sent to share it, so the sum of what waits for them is not what it costs.
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
