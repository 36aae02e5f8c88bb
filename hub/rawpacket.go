package hub

// NewPacket encodes a packet for a [Conn] that is used without a hub, as an Engine.IO connection
// alone. The text begins with its Engine.IO type, "4" for a message; nil leaves the text out, so that
// only the attachments are sent. Neither argument is kept.
func NewPacket(text []byte, attachments [][]byte, volatile bool) *Packet {
	if text != nil {
		return newPacket(text, attachments, volatile)
	}
	p := &Packet{binary: make([]span, len(attachments)), volatile: volatile}
	for i, a := range attachments {
		p.binary[i] = p.add(finBinary, a)
	}
	return p
}
