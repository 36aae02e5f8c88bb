package hub

// NewPacket encodes a packet for a [Conn] that is used without a hub, as an Engine.IO connection
// alone. The text begins with its Engine.IO type, "4" for a message; nil leaves the text out, so that
// only the attachments are sent. Neither argument is kept.
func NewPacket(text []byte, attachments [][]byte, volatile bool) *Packet {
	return NewPacketOn(Terms{Volatile: volatile}, text, attachments)
}

// NewPacketOn is NewPacket with terms.
func NewPacketOn(t Terms, text []byte, attachments [][]byte) *Packet {
	var p *Packet
	if text != nil {
		p = newPacket(text, attachments, false)
	} else {
		p = new(Packet)
		p.attach(attachments)
	}
	p.setTerms(t)
	return p
}
