package socketio

import (
	"bytes"
	"encoding/base64"
	"iter"
)

// The types of Engine.IO packets, protocol 4: the first byte of a text.
const (
	EngineOpen    = '0'
	EngineClose   = '1'
	EnginePing    = '2'
	EnginePong    = '3'
	EngineMessage = '4'
	EngineUpgrade = '5'
	EngineNoop    = '6'
)

// Separator stands between the packets of a payload. It cannot occur in a Socket.IO packet: JSON
// escapes it, and a namespace may not have it.
const Separator = '\x1e'

// EnginePacket is one Engine.IO packet.
type EnginePacket struct {
	Type   byte   // EngineOpen to EngineNoop
	Binary bool   // a message that is bytes, not text
	Data   []byte // what follows the type
}

// ParseEngine reads one Engine.IO packet that came as text: a WebSocket text message, or a packet of a
// payload that is not binary. Data aliases text. The error is [ErrEmpty] or [ErrType].
func ParseEngine(text []byte) (EnginePacket, error) {
	if len(text) == 0 {
		return EnginePacket{}, ErrEmpty
	}
	if text[0] < EngineOpen || text[0] > EngineNoop {
		return EnginePacket{}, ErrType
	}
	return EnginePacket{Type: text[0], Data: text[1:]}, nil
}

// Payload iterates over the packets of the body of a polling request. The first error is the last
// thing it yields. A binary packet's Data is decoded into memory of its own, another's aliases body.
// Nothing that it yields is larger than body, so its limit is the caller's limit on body.
func Payload(body []byte) iter.Seq2[EnginePacket, error] {
	return func(yield func(EnginePacket, error) bool) {
		for more := true; more; {
			var text []byte
			text, body, more = bytes.Cut(body, []byte{Separator})
			p, err := parsePayloadPacket(text)
			if !yield(p, err) || err != nil {
				return
			}
		}
	}
}

func parsePayloadPacket(text []byte) (EnginePacket, error) {
	if len(text) == 0 || text[0] != 'b' {
		return ParseEngine(text)
	}
	data, err := ParseBinary(text)
	if err != nil {
		return EnginePacket{}, err
	}
	return EnginePacket{Type: EngineMessage, Binary: true, Data: data}, nil
}

// ParseBinary decodes a binary message in base64, "b" before it, into memory of its own. Line breaks are
// skipped: some clients' base64 has them.
func ParseBinary(text []byte) ([]byte, error) {
	data, err := base64.StdEncoding.AppendDecode(nil, text[1:])
	if err != nil {
		return nil, ErrBase64
	}
	return data, nil
}

// AppendText appends a packet, its type included, to the payload that dst is.
func AppendText(dst, packet []byte) []byte {
	return append(appendSeparator(dst), packet...)
}

// AppendBinary appends a binary message in base64 to the payload that dst is.
func AppendBinary(dst, data []byte) []byte {
	dst = append(appendSeparator(dst), 'b')
	return base64.StdEncoding.AppendEncode(dst, data)
}

func appendSeparator(dst []byte) []byte {
	if len(dst) > 0 {
		dst = append(dst, Separator)
	}
	return dst
}
