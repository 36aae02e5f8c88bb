package transport

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
)

// id is a session ID. All of its bytes are random, because anybody who knows it can take the session over.
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

// cutID takes an ID apart: what is the session's own, and the node that has made it, which is "" without a relay.
func (h *Handler) cutID(sid string) (own, node string) {
	at := max(len(sid)-len(h.node), 0)
	return sid[:at], sid[at:]
}

// nodeOf is the other node that has made an ID, "" if there is none.
func (h *Handler) nodeOf(sid string) string {
	own, node := h.cutID(sid)
	_, ok := parseID(own)
	if h.o.GenerateID != nil {
		ok = own != ""
	}
	if !ok || node == h.node || !validID(sid) {
		return ""
	}
	return node
}

// maxIDText is the length of the longest ID that Options.GenerateID may make.
const maxIDText = 128

// nameID is what a session is found by whose ID is not ours.
func nameID(name string) (d id) {
	sum := sha256.Sum256([]byte(name))
	copy(d[:], sum[:])
	return d
}

// validID reports whether name may be the ID of a session: it stands in URLs, in JSON, and in cookies.
func validID(name string) bool {
	for i := range len(name) {
		switch c := name[i]; {
		case c >= '0' && c <= '9', c >= 'A' && c <= 'Z', c >= 'a' && c <= 'z', c == '-', c == '.', c == '_', c == '~':
		default:
			return false
		}
	}
	return name != "" && len(name) <= maxIDText
}
