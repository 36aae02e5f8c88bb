package hub

import (
	"encoding/binary"

	"tether/engine"
)

// offer is what the node that has a session says of it.
//
//	text     tag of that node
//	text     ID
//	uvarint  how often it has moved so far
//	uvarint  number of rooms, and of each its name as a text and since when it is a registration
//	text     data as JSON
//	         places, as uvarints: start, changed, have, and the mark of each room
type offer struct {
	node, id string
	moves    int
	rooms    []offeredRoom
	data     []byte
	places   places
}

type offeredRoom struct {
	name  string
	since int64
	mark  uint64 // the place behind which the session gets what is emitted to it; 0: that is not known
}

func (c *offer) append(dst []byte) []byte {
	dst = appendText(appendText(dst, c.node), c.id)
	dst = binary.AppendUvarint(dst, uint64(c.moves))
	dst = binary.AppendUvarint(dst, uint64(len(c.rooms)))
	for _, r := range c.rooms {
		dst = binary.AppendVarint(appendText(dst, r.name), r.since)
	}
	dst = appendText(dst, string(c.data))
	dst = binary.AppendUvarint(dst, c.places.start)
	dst = binary.AppendUvarint(dst, c.places.changed)
	dst = binary.AppendUvarint(dst, c.places.have)
	for _, r := range c.rooms {
		dst = binary.AppendUvarint(dst, r.mark)
	}
	return dst
}

func parseOffer(b []byte) (c offer, ok bool) {
	texts := [2]*string{&c.node, &c.id}
	for _, t := range texts {
		var text []byte
		if text, b, ok = cutText(b); !ok {
			return c, false
		}
		*t = string(text)
	}
	if c.moves, b, ok = cutUvarint(b, 1<<62); !ok {
		return c, false
	}
	n, b, ok := cutUvarint(b, len(b))
	for range n {
		var name []byte
		if name, b, ok = cutText(b); !ok {
			return c, false
		}
		since, width := binary.Varint(b)
		if width <= 0 {
			return c, false
		}
		c.rooms, b = append(c.rooms, offeredRoom{name: string(name), since: since}), b[width:]
	}
	if !ok {
		return c, false
	}
	if c.data, b, ok = cutText(b); !ok || !isID(c.id) {
		return c, false
	}
	if len(b) == 0 { // it is of a node that knows no places
		return c, true
	}
	all := []*uint64{&c.places.start, &c.places.changed, &c.places.have}
	for i := range c.rooms {
		all = append(all, &c.rooms[i].mark)
	}
	for _, at := range all {
		n, width := binary.Uvarint(b)
		if width <= 0 {
			return c, false
		}
		*at, b = n, b[width:]
	}
	return c, true
}

// appendEntries appends events on their way to another node:
//
//	uvarint  number of events, and of each
//	byte     flags: 1 volatile
//	byte     policy
//	text     key
//	         origin
//	8 bytes  room
//	text     frames
//	uvarint  number of origins, and each
//
// An origin is three numbers of eight bytes.
func appendEntries(dst []byte, entries []*engine.Entry, origins []engine.Origin) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(entries)))
	for _, e := range entries {
		volatile := byte(0)
		if e.Volatile() {
			volatile = 1
		}
		dst = appendText(append(dst, volatile, byte(e.Overflow())), e.Key())
		dst = binary.BigEndian.AppendUint64(appendOrigin(dst, e.Origin), e.Room)
		dst = append(binary.AppendUvarint(dst, uint64(len(e.Frames()))), e.Frames()...)
	}
	dst = binary.AppendUvarint(dst, uint64(len(origins)))
	for _, o := range origins {
		dst = appendOrigin(dst, o)
	}
	return dst
}

const originSize = 24

func appendOrigin(dst []byte, o engine.Origin) []byte {
	dst = binary.BigEndian.AppendUint64(dst, o.From)
	dst = binary.BigEndian.AppendUint64(dst, o.Number)
	return binary.BigEndian.AppendUint64(dst, o.Target)
}

func cutOrigin(b []byte) (o engine.Origin, rest []byte, ok bool) {
	if len(b) < originSize {
		return o, nil, false
	}
	o.From, o.Number, o.Target = binary.BigEndian.Uint64(b), binary.BigEndian.Uint64(b[8:]), binary.BigEndian.Uint64(b[16:])
	return o, b[originSize:], true
}

func parseEntries(b []byte) (entries []*engine.Entry, seen map[engine.Origin]bool, ok bool) {
	n, b, ok := cutUvarint(b, len(b))
	for range n {
		if len(b) < 2 {
			return nil, nil, false
		}
		t := engine.Terms{Volatile: b[0]&1 != 0, Overflow: engine.Overflow(b[1])}
		var text, frames []byte
		var origin engine.Origin
		var room uint64
		if text, b, ok = cutText(b[2:]); ok {
			origin, b, ok = cutOrigin(b)
		}
		if ok = ok && len(b) >= 8; ok {
			room = binary.BigEndian.Uint64(b)
			frames, b, ok = cutText(b[8:])
		}
		if !ok || !t.Overflow.Valid() {
			return nil, nil, false
		}
		t.Key = string(text)
		p, err := engine.ParsePacket(t, frames)
		if err != nil {
			return nil, nil, false
		}
		e := engine.NewEntry(p, nil)
		e.Origin, e.Room, e.Place = origin, room, placeIn(e)
		entries = append(entries, e)
	}
	if !ok {
		return nil, nil, false
	}
	n, b, ok = cutUvarint(b, len(b))
	seen = make(map[engine.Origin]bool, n)
	for range n {
		var o engine.Origin
		if o, b, ok = cutOrigin(b); !ok {
			return nil, nil, false
		}
		seen[o] = true
	}
	return entries, seen, ok
}
