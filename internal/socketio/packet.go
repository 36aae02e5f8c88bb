// Package socketio is the codec of the two protocols under Socket.IO: Engine.IO protocol 4 (packets
// and the payloads of HTTP long-polling) and Socket.IO protocol 5 (packet headers, JSON arguments and
// the placeholders of binary attachments). It is pure: no I/O, no goroutines, no state, nothing but
// the standard library. Every function is linear in its input, does not recurse, and does not panic
// whatever the input.
//
// Parse is strict where a client can only err, because what it lets through is forwarded to other
// clients as it came. Functions that say "of a parsed packet" expect JSON text that Parse has checked;
// given anything else they return something useless, but they return.
package socketio

import (
	"math"
	"strconv"
	"unicode/utf8"
)

// Type is the type of a Socket.IO packet, one digit on the wire.
type Type byte

// The types of Socket.IO protocol 5.
const (
	Connect Type = iota
	Disconnect
	Event
	Ack
	ConnectError
	BinaryEvent
	BinaryAck
)

// Binary reports whether packets of the type announce attachments.
func (t Type) Binary() bool { return t == BinaryEvent || t == BinaryAck }

// String is the type's name in the specification.
func (t Type) String() string {
	switch t {
	case Connect:
		return "CONNECT"
	case Disconnect:
		return "DISCONNECT"
	case Event:
		return "EVENT"
	case Ack:
		return "ACK"
	case ConnectError:
		return "CONNECT_ERROR"
	case BinaryEvent:
		return "BINARY_EVENT"
	case BinaryAck:
		return "BINARY_ACK"
	}
	return "unknown"
}

// Root is the namespace that a packet without one belongs to.
const Root = "/"

// Packet is the text part of one Socket.IO packet.
type Packet struct {
	Type        Type
	Namespace   string // begins with "/"
	ID          uint64 // of the acknowledgement that is asked for or given; counts if HasID. The largest if it is larger
	HasID       bool
	Attachments int // that follow, each as a binary message of its own; 0 unless Type.Binary()

	// Data is the payload, JSON text without surrounding space; nil if there is none. It aliases
	// the parsed input.
	Data []byte
	// Args is the number of elements of Data where that is an array. An event's name is one of them.
	Args int
	// Event is the decoded name of an event; nil if Data is nil or Type is another. A number
	// becomes the text that JavaScript makes of it. It aliases the parsed input where it can.
	Event []byte
}

// Parse reads the text of a Socket.IO packet, without the "4" of Engine.IO before it. An error means
// that the client broke the protocol and the connection is to be closed. What is allowed:
//
//	CONNECT        an object or nothing, no ID
//	DISCONNECT     nothing, no ID
//	EVENT          an array that begins with a name, or nothing (to be ignored)
//	ACK            an ID, and an array or nothing
//	CONNECT_ERROR  an object or a string, no ID
//	BINARY_…       as without BINARY_; the payload is required if there are attachments, and each
//	               placeholder in it has a number below their count that no other one has
//
// A name is a number, or a string that is not reserved. The payload is valid JSON to its end, and the
// text is valid UTF-8. Nothing is allocated unless the namespace is not "/", the name has an escape in
// it, or there are more than 64 attachments.
func Parse(text []byte, l Limits) (Packet, error) {
	l = l.withDefaults()
	p := Packet{Namespace: Root}
	if len(text) == 0 {
		return Packet{}, ErrEmpty
	}
	if !utf8.Valid(text) {
		return Packet{}, ErrUTF8
	}
	p.Type = Type(text[0] - '0')
	if p.Type > BinaryAck {
		return Packet{}, ErrType
	}
	rest, err := p.parseHeader(text[1:], l)
	if err != nil {
		return Packet{}, err
	}
	if err := p.parsePayload(rest, l); err != nil {
		return Packet{}, err
	}
	return p, nil
}

// parseHeader reads what is between type and payload and returns what is left.
func (p *Packet) parseHeader(text []byte, l Limits) ([]byte, error) {
	if p.Type.Binary() {
		n, width, ok := parseUint(text)
		if !ok || width == len(text) || text[width] != '-' {
			return nil, ErrAttachments
		}
		if n > uint64(l.Attachments) {
			return nil, ErrTooManyAttachments
		}
		p.Attachments = int(n)
		text = text[width+1:]
	}
	if len(text) > 0 && text[0] == '/' {
		end, rest := namespaceEnd(text)
		if end > l.Namespace {
			return nil, ErrNamespace
		}
		if end > 1 {
			p.Namespace = string(text[:end])
			if !ValidNamespace(p.Namespace) {
				return nil, ErrNamespace
			}
		}
		text = text[rest:]
	}
	if len(text) > 0 && isDigit(text[0]) {
		id, width, ok := parseUint(text)
		if !ok { // larger than any that this side gives out: nobody waits for it
			id, width = math.MaxUint64, digits(text)
		}
		p.ID, p.HasID = id, true
		text = text[width:]
	}
	acks := p.Type == Ack || p.Type == BinaryAck
	if acks != p.HasID && (acks || !p.isEvent()) {
		return nil, ErrID
	}
	return text, nil
}

func (p *Packet) isEvent() bool { return p.Type == Event || p.Type == BinaryEvent }

// parsePayload checks the payload against the type and the limits.
func (p *Packet) parsePayload(text []byte, l Limits) error {
	if len(text) == 0 {
		if p.Attachments > 0 || p.Type == ConnectError {
			return ErrPayload
		}
		return nil
	}
	if p.Type == Disconnect {
		return ErrPayload
	}
	data, args, err := checkJSON(text, l.Depth, l.Args)
	if err != nil {
		return err
	}
	p.Data, p.Args = data, args
	switch p.Type {
	case Connect:
		if data[0] != '{' {
			return ErrPayload
		}
	case ConnectError:
		if data[0] != '{' && data[0] != '"' {
			return ErrPayload
		}
	default:
		if data[0] != '[' {
			return ErrPayload
		}
	}
	if p.isEvent() {
		if p.Event, err = parseEvent(data, l.EventName); err != nil {
			return err
		}
	}
	if p.Type.Binary() {
		return Placeholders(data, p.Attachments)
	}
	return nil
}

// AppendHeader appends what comes before the payload: the "4" of Engine.IO, then type, attachments,
// namespace and ID, "451-/admin,13" say. The payload can be appended to that. It reads nothing else of
// p; an empty namespace is "/".
func AppendHeader(dst []byte, p Packet) []byte {
	dst = append(dst, EngineMessage, '0'+byte(p.Type))
	if p.Type.Binary() {
		dst = strconv.AppendInt(dst, int64(p.Attachments), 10)
		dst = append(dst, '-')
	}
	if p.Namespace != Root && p.Namespace != "" {
		dst = append(dst, p.Namespace...)
		dst = append(dst, ',')
	}
	if p.HasID {
		dst = strconv.AppendUint(dst, p.ID, 10)
	}
	return dst
}

// ValidNamespace reports whether name can stand in a packet: it begins with "/", is valid UTF-8, and
// has no comma and no control character.
func ValidNamespace(name string) bool {
	if len(name) == 0 || name[0] != '/' {
		return false
	}
	for i := range len(name) {
		if c := name[i]; c == ',' || c < ' ' || c == 0x7f {
			return false
		}
	}
	return utf8.ValidString(name)
}

// namespaceEnd finds the end of the namespace that text begins with, and the start of what follows.
func namespaceEnd(text []byte) (end, rest int) {
	for i, c := range text {
		if c == ',' {
			return i, i + 1
		}
	}
	return len(text), len(text)
}

// parseUint reads the decimal digits that b begins with. It fails if there are none, or if the number
// does not fit. Leading zeros are allowed, as the reference parser allows them.
func parseUint(b []byte) (n uint64, width int, ok bool) {
	for width < len(b) && isDigit(b[width]) {
		d := uint64(b[width] - '0')
		if n > math.MaxUint64/10 || n*10 > math.MaxUint64-d {
			return 0, width, false
		}
		n = n*10 + d
		width++
	}
	return n, width, width > 0
}

// digits is how many digits b begins with.
func digits(b []byte) (n int) {
	for n < len(b) && isDigit(b[n]) {
		n++
	}
	return n
}

func isDigit(c byte) bool { return c-'0' <= 9 }
