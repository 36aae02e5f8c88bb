package transport

import (
	"crypto/rand"
	"encoding/base64"
)

// id is a session ID. All of its bytes are random, because who knows it can take the session's place.
type id [15]byte

func newID() (d id) {
	rand.Read(d[:])
	return d
}

// String is the ID in the form of the reference server's: 20 characters.
func (d id) String() string { return base64.RawURLEncoding.EncodeToString(d[:]) }

// parseID undoes String.
func parseID(s string) (d id, ok bool) {
	if len(s) != 20 {
		return d, false
	}
	n, err := base64.RawURLEncoding.Strict().Decode(d[:], []byte(s))
	return d, err == nil && n == len(d) // line breaks are ignored, and make it shorter
}
