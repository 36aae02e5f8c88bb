package transport

import "tether/hub"

// frames is p as it goes over a WebSocket connection.
func frames(p *hub.Packet, compress bool) []byte {
	return p.Frames()
}
