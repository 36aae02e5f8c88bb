package hub

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
)

// A socket's ID is public: 20 characters of base64url, like those of the reference server. In it are
// the tag of the socket's node, the socket's place in that node's roster, and random bytes, so that
// what is for one socket finds it without a subscription or a directory.
const (
	idLength    = 20 // characters
	tagLength   = 8  // characters of an ID that are its node's tag: 6 random bytes
	tagBytes    = 6
	placeBytes  = 4
	randomBytes = 5
)

func newTag() string {
	var b [tagBytes]byte
	rand.Read(b[:])
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func appendID(dst []byte, tag string, place uint32, nonce [randomBytes]byte) []byte {
	var b [placeBytes + randomBytes]byte
	binary.BigEndian.PutUint32(b[:], place)
	copy(b[placeBytes:], nonce[:])
	return base64.RawURLEncoding.AppendEncode(append(dst, tag...), b[:])
}

// isID reports whether text could be a socket's ID.
func isID(text string) bool {
	if len(text) != idLength {
		return false
	}
	for i := range len(text) {
		c := text[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9', c == '-', c == '_':
		default:
			return false
		}
	}
	return true
}

// placeOf is the place that is in an ID for which isID is true.
func placeOf(id string) uint32 {
	var b [placeBytes + randomBytes]byte
	if _, err := base64.RawURLEncoding.Decode(b[:], []byte(id[tagLength:])); err != nil {
		return noPlace
	}
	return binary.BigEndian.Uint32(b[:])
}
