package load

import (
	"encoding/binary"
	"errors"
)

// WebSocket opcodes, RFC 6455 section 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

const maxPayload = 16 << 20 // of one frame from a server

var (
	errFrame    = errors.New("websocket frame is not well formed")
	errTooLarge = errors.New("websocket frame is larger than 16 MiB")
)

type frame struct {
	op      byte
	fin     bool
	payload []byte // aliases what was parsed
}

// parseFrame reads one frame of a server, and returns its length. A length of 0 without an error
// means that more bytes are needed.
func parseFrame(b []byte) (f frame, n int, err error) {
	if len(b) < 2 {
		return frame{}, 0, nil
	}
	if b[0]&0x70 != 0 || b[1]&0x80 != 0 { // no extension was offered, and servers do not mask
		return frame{}, 0, errFrame
	}
	f = frame{op: b[0] & 15, fin: b[0]&0x80 != 0}
	size, head := uint64(b[1]), 2
	switch size {
	case 126:
		head = 4
		if len(b) < head {
			return frame{}, 0, nil
		}
		size = uint64(binary.BigEndian.Uint16(b[2:]))
	case 127:
		head = 10
		if len(b) < head {
			return frame{}, 0, nil
		}
		size = binary.BigEndian.Uint64(b[2:])
	}
	if size > maxPayload {
		return frame{}, 0, errTooLarge
	}
	if f.op >= opClose && (!f.fin || size > 125) {
		return frame{}, 0, errFrame
	}
	if uint64(len(b)-head) < size {
		return frame{}, 0, nil
	}
	n = head + int(size)
	f.payload = b[head:n:n]
	return f, n, nil
}

// appendFrame appends a final frame of a client, masked with key.
func appendFrame(dst []byte, op byte, payload []byte, key uint32) []byte {
	switch n := len(payload); {
	case n < 126:
		dst = append(dst, 0x80|op, 0x80|byte(n))
	case n < 1<<16:
		dst = append(dst, 0x80|op, 0x80|126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	default:
		dst = append(dst, 0x80|op, 0x80|127)
		dst = binary.BigEndian.AppendUint64(dst, uint64(n))
	}
	mask := [4]byte{byte(key >> 24), byte(key >> 16), byte(key >> 8), byte(key)}
	dst = append(dst, mask[:]...)
	for i, c := range payload {
		dst = append(dst, c^mask[i&3])
	}
	return dst
}
