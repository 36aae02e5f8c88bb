package engine

import (
	"slices"
	"sync/atomic"
)

// Entry is a packet as logs keep it.
type Entry struct {
	Packet
	Origin              // of the event; written before others know the entry
	Room   uint64       // that it came through; likewise
	Late   bool         // it may be there already, or too late; likewise
	Passed bool         // another node has passed it on, and it may be too late; likewise
	Place  uint64       // where the event stands among all others; 0: that is not known. Likewise
	logs   atomic.Int32 // that it is in
}

// Origin tells an event from all others, wherever it arrives. The zero value is that of one that only one node has.
type Origin struct {
	From   uint64 // the publisher
	Number uint64 // of its events
	Target uint64 // which of those that it was emitted to, if a client gets it for each; 0: it gets it once
}

const (
	slotCost  = 8               // of an entry in a log
	entryCost = packetCost + 48 // beside its frames
)

// NewEntry returns an entry that is the packet p, an event, with last as one more argument: JSON text. If that is
// empty it is p as it is. The frames of p are copied if p is lent, or last is not empty.
func NewEntry(p *Packet, last []byte) *Entry {
	e := &Entry{Packet: Packet{text: p.text, overflow: p.overflow, traits: p.traits & (traitVolatile | traitEmitted | traitWatched)}}
	shift := 0
	switch {
	case len(last) > 0:
		text := p.Text()
		n := len(text) + 1 + len(last)
		e.frames = AppendFrameHeader(make([]byte, 0, FrameHeader(n)+n+len(p.frames)-int(p.text.to)), FinText, n)
		e.text.from = uint32(len(e.frames))
		e.frames = append(append(e.frames, text[:len(text)-1]...), ',')
		e.frames = append(append(e.frames, last...), ']')
		e.text.to = uint32(len(e.frames))
		shift = int(e.text.to) - int(p.text.to)
		e.frames = append(e.frames, p.frames[p.text.to:]...)
	case p.Lent() || p.traits&traitCopy != 0:
		e.frames = slices.Clone(p.frames)
	default:
		e.frames = p.frames
	}
	if r := p.rare.Load(); r != nil && (r.binary != nil || r.key != "" || p.Noted()) {
		x := &rare{key: r.key, emitted: r.emitted, watcher: r.watcher, binary: slices.Clone(r.binary)}
		for i := range x.binary {
			x.binary[i].from += uint32(shift)
			x.binary[i].to += uint32(shift)
		}
		e.rare.Store(x)
	}
	return e
}

// Entry is what make has made of the packet when it was first called for it. All logs share it.
func (p *Packet) Entry(make func(*Packet) *Entry) *Entry {
	r := p.others()
	if e := r.entry.Load(); e != nil {
		return e
	}
	r.entry.CompareAndSwap(nil, make(p))
	return r.entry.Load()
}
