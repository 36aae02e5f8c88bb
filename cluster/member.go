package cluster

import (
	"encoding/binary"
	"time"
)

// Member is one live node.
type Member struct {
	Tag         string    // random: another one each time that the node starts
	Name        string    // for people
	Version     string    // of its program
	Address     string    // at which other nodes reach it; "" if there is none
	Since       time.Time // when it started, by its own clock
	Connections int       // of clients
	Draining    bool      // it takes no more clients, and sends those that it has away
}

// beat is what a node says of itself every second, and when something has changed.
type beat struct {
	Member
	number uint64 // of the node's beats, from 1; one with a lower number comes too late to mean anything
	flags  beatFlags
}

type beatFlags byte

const (
	beatDraining beatFlags = 1 << iota
	beatHello              // the node is new: tell it who you are
	beatBye                // the node ends
	beatGuest              // it is no member: it only asks
)

func (b *beat) append(dst []byte) []byte {
	if b.Draining {
		b.flags |= beatDraining
	}
	dst = append(dst, typeBeat, byte(b.flags))
	dst = binary.AppendUvarint(dst, b.number)
	dst = appendText(dst, b.Tag)
	for _, s := range [...]string{b.Name, b.Version, b.Address} {
		dst = appendText(dst, s[:min(len(s), maxName)])
	}
	dst = binary.AppendUvarint(dst, uint64(max(0, b.Since.UnixMilli())))
	return binary.AppendUvarint(dst, uint64(max(0, b.Connections)))
}

func parseBeat(r *reader) (b beat, ok bool) {
	b.flags = beatFlags(r.byte())
	b.number = r.uvarint()
	b.Tag = r.tag()
	b.Name, b.Version, b.Address = r.text(maxName), r.text(maxName), r.text(maxName)
	b.Since = r.millis()
	b.Connections = int(min(r.uvarint(), 1<<31))
	b.Draining = b.flags&beatDraining != 0
	return b, r.done()
}
