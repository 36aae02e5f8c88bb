package engine

import (
	"encoding/binary"
	"math"
)

// The first bytes of the frames of a packet: a WebSocket opcode with FIN set, RFC 6455 section 5.2.
const (
	FinText   = 0x81
	FinBinary = 0x82
)

// maxFrameHeader is the size of the largest header of an unmasked frame.
const maxFrameHeader = 10

// message is the Engine.IO type that the text of a packet begins with.
const message = '4'

// FrameHeader is the size of the header of an unmasked frame with n bytes of payload, RFC 6455
// section 5.2.
func FrameHeader(n int) int {
	switch {
	case n < 126:
		return 2
	case n < 1<<16:
		return 4
	default:
		return maxFrameHeader
	}
}

// AppendFrameHeader appends the header of an unmasked frame with n bytes of payload.
func AppendFrameHeader(dst []byte, first byte, n int) []byte {
	switch {
	case n < 126:
		return append(dst, first, byte(n))
	case n < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, first, 126), uint16(n))
	default:
		return binary.BigEndian.AppendUint64(append(dst, first, 127), uint64(n))
	}
}

// span is a part of the frames of a packet.
type span struct{ from, to uint32 }

// cutText reads the first frame of a packet.
func cutText(frames []byte) (payload span, next int, ok bool) {
	if uint64(len(frames)) > math.MaxUint32 {
		return span{}, 0, false
	}
	payload, next, ok = cutFrame(frames, 0, FinText)
	return payload, next, ok && payload.to-payload.from >= 2 && frames[payload.from] == message
}

// cutFrame reads the frame at index i, the way AppendFrameHeader writes it and no other.
func cutFrame(data []byte, i int, first byte) (payload span, next int, ok bool) {
	rest := data[i:]
	if len(rest) < 2 || rest[0] != first {
		return span{}, 0, false
	}
	n, header := uint64(rest[1]), 2
	switch {
	case n < 126:
	case n == 126 && len(rest) >= 4:
		n, header = uint64(binary.BigEndian.Uint16(rest[2:])), 4
		ok = n >= 126
	case n == 127 && len(rest) >= maxFrameHeader:
		n, header = binary.BigEndian.Uint64(rest[2:]), maxFrameHeader
		ok = n >= 1<<16
	default:
		return span{}, 0, false
	}
	if header > 2 && !ok || n > uint64(len(rest)-header) {
		return span{}, 0, false
	}
	from := i + header
	return span{uint32(from), uint32(from + int(n))}, from + int(n), true
}
