package transport

import (
	"encoding/binary"
	"unicode/utf8"
)

// fault is a mistake in a client's frames, as the WebSocket close code that answers it.
type fault uint16

const (
	faultProtocol fault = 1002
	faultEncoding fault = 1007
	faultPolicy   fault = 1008
	faultTooBig   fault = 1009
	faultInternal fault = 1011
)

func (f fault) Error() string {
	switch f {
	case faultProtocol:
		return "transport: WebSocket protocol error"
	case faultEncoding:
		return "transport: text is not UTF-8, or compressed data is corrupt"
	case faultPolicy:
		return "transport: too many fragments or control frames"
	case faultTooBig:
		return "transport: message too big"
	default:
		return "transport: internal error"
	}
}

// WebSocket opcodes, RFC 6455 section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA

	bitFin  = 0x80
	bitRSV1 = 0x40
	bitMask = 0x80
)

// maxFragments is how many frames a message may consist of. Clients do not fragment; proxies may.
const maxFragments = 1024

const (
	maxControl     = 125 // payload of a control frame, section 5.5
	maxFrameHeader = 14
)

// frame is the header of a frame from a client. It is small, because it lies several times on the stack of each
// reader of a portable connection, at its deepest: see websocket.serve.
type frame struct {
	op         byte
	fin        bool
	compressed bool  // RSV1: the message that begins with this frame is compressed
	header     uint8 // bytes before the payload
	mask       [4]byte
	payload    int // bytes of the payload
}

// size is what the frame takes on the wire, in bytes.
func (f *frame) size() int { return int(f.header) + f.payload }

// unmask undoes the masking of p, the whole payload, in place, section 5.3.
func (f *frame) unmask(p []byte) {
	key := uint64(binary.LittleEndian.Uint32(f.mask[:]))
	key |= key << 32
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^key)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= f.mask[i&3]
	}
}

// frameCheck enforces the rules of RFC 6455 on the headers of a client's frames, one after the other,
// before anything is reserved for what they announce. Its zero value is ready for the first frame.
type frameCheck struct {
	size       int    // bytes of the message's fragments so far, before its last
	fragments  uint16 // frames of the message so far
	open       bool   // a message has begun and not ended
	compressed bool   // the message is compressed
}

// next reads the header at the beginning of b. It reports false while b does not have all of it, and
// a [fault] as early as the bytes show it. Once it has reported true, b must next begin with the frame
// that follows. No message is larger than max bytes; compression says whether it was negotiated.
func (c *frameCheck) next(b []byte, max int, compression bool) (frame, bool, error) {
	if len(b) < 2 {
		return frame{}, false, nil
	}
	f := frame{op: b[0] & 0x0f, fin: b[0]&bitFin != 0, compressed: b[0]&bitRSV1 != 0}
	switch {
	case b[0]&0x30 != 0, // RSV2, RSV3
		f.compressed && (!compression || f.op != opText && f.op != opBinary),
		b[1]&bitMask == 0: // section 5.1: a client masks every frame
		return f, false, faultProtocol
	}
	short := int(b[1] &^ bitMask)
	if f.op >= opClose {
		if f.op > opPong || !f.fin || short > maxControl {
			return f, false, faultProtocol
		}
		return c.header(f, b, short, 2)
	}
	if f.op > opBinary || (f.op == opContinuation) != c.open {
		return f, false, faultProtocol
	}
	n, at := short, 2
	switch short {
	case 126:
		if len(b) < 4 {
			return f, false, nil
		}
		n, at = int(binary.BigEndian.Uint16(b[2:])), 4
	case 127:
		if len(b) < 10 {
			return f, false, nil
		}
		long := binary.BigEndian.Uint64(b[2:])
		if long>>63 != 0 { // section 5.2: the most significant bit must be 0
			return f, false, faultProtocol
		}
		if long > uint64(max) {
			return f, false, faultTooBig
		}
		n, at = int(long), 10
	}
	if f.op != opContinuation {
		c.size = 0
	}
	if n > max-c.size {
		return f, false, faultTooBig
	}
	if c.fragments == maxFragments {
		return f, false, faultPolicy
	}
	return c.header(f, b, n, at)
}

// header completes f with a payload of n bytes and the mask at b[at:], and counts it.
func (c *frameCheck) header(f frame, b []byte, n, at int) (frame, bool, error) {
	if len(b) < at+4 {
		return f, false, nil
	}
	copy(f.mask[:], b[at:])
	f.header, f.payload = uint8(at+4), n
	if f.op >= opClose {
		return f, true, nil
	}
	if f.op != opContinuation {
		c.compressed = f.compressed
	}
	c.open = !f.fin
	if f.fin {
		c.fragments = 0
	} else {
		c.size += n
		c.fragments++
	}
	return f, true, nil
}

// closeCode reads the payload of a close frame, section 5.5.1. Without a code it is 0.
func closeCode(p []byte) (uint16, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if len(p) == 1 {
		return 0, faultProtocol
	}
	code := binary.BigEndian.Uint16(p)
	switch {
	case code >= 3000 && code < 5000:
	case code >= 1000 && code < 1015 && code != 1004 && code != 1005 && code != 1006:
	default:
		return 0, faultProtocol
	}
	if !utf8.Valid(p[2:]) {
		return 0, faultEncoding
	}
	return code, nil
}

// The frames that this side makes itself, unmasked.
var (
	frameEnginePing = []byte{bitFin | opText, 1, '2'}
	frameProbe      = []byte{bitFin | opText, 6, '3', 'p', 'r', 'o', 'b', 'e'}
)

func appendTextFrame(dst []byte, text string) []byte {
	dst = append(dst, bitFin|opText)
	if len(text) < 126 {
		dst = append(dst, byte(len(text)))
	} else {
		dst = binary.BigEndian.AppendUint16(append(dst, 126), uint16(len(text)))
	}
	return append(dst, text...)
}

func appendPongFrame(dst, payload []byte) []byte {
	return append(append(dst, bitFin|opPong, byte(len(payload))), payload...)
}

// appendCloseFrame appends a close frame, without a status when code is 0.
func appendCloseFrame(dst []byte, code uint16) []byte {
	if code == 0 {
		return append(dst, bitFin|opClose, 0)
	}
	return binary.BigEndian.AppendUint16(append(dst, bitFin|opClose, 2), code)
}
