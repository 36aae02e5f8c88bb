package cluster

import (
	"encoding/binary"
	"strings"
	"time"

	"tether/internal/wire"
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
	Peer        string    // URL at which it takes requests of other nodes; "" if it takes none: see [Node.SetPeer]
	Topics      string    // that it answers by [Node.Handle], a byte each, sorted
	Digest      uint64    // of what it knows: see [Node.SetDigest]
}

// Answers reports whether the node answers questions on a topic that was given to [Node.Handle].
func (m Member) Answers(topic byte) bool { return strings.IndexByte(m.Topics, topic) >= 0 }

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
	dst = wire.AppendText(dst, b.Tag)
	for _, s := range [...]string{b.Name, b.Version, b.Address} {
		dst = wire.AppendText(dst, s[:min(len(s), maxName)])
	}
	dst = binary.AppendUvarint(dst, uint64(max(0, b.Since.UnixMilli())))
	dst = binary.AppendUvarint(dst, uint64(max(0, b.Connections)))
	dst = wire.AppendText(wire.AppendText(dst, b.Topics), b.Peer[:min(len(b.Peer), maxName)])
	return binary.AppendUvarint(dst, b.Digest)
}

func parseBeat(r *reader) (b beat, ok bool) {
	b.flags = beatFlags(r.Byte())
	b.number = r.Uvarint()
	b.Tag = r.tag()
	b.Name, b.Version, b.Address = r.Text(maxName), r.Text(maxName), r.Text(maxName)
	b.Since = r.millis()
	b.Connections = int(min(r.Uvarint(), 1<<31))
	b.Topics = r.Text(maxTopics)
	if len(r.Data) > 0 { // an older node does not say it
		b.Peer = r.Text(maxName)
	}
	if len(r.Data) > 0 { // likewise
		b.Digest = r.Uvarint()
	}
	b.Draining = b.flags&beatDraining != 0
	return b, !r.Bad // a newer node may say more
}
