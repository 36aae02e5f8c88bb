package hub

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
)

// Binary is a value that leaves as a binary attachment, wherever it stands in the arguments of an
// event, and arrives in a client as a Buffer or an ArrayBuffer. An argument of type []byte is one
// too; a []byte inside another value is base64 text, as always in encoding/json. One event has at
// most ten of them.
//
// To receive, decode into a Binary or a []byte, at any depth.
type Binary []byte

// MarshalJSON is for the encoder of this package, which replaces its result by a placeholder.
// encoding/json does not tell a value which attachments it belongs to, so the bytes take a way
// through the text, behind a mark that nobody outside of this process can know.
func (b Binary) MarshalJSON() ([]byte, error) {
	if b == nil {
		return []byte("null"), nil
	}
	text := make([]byte, 0, len(marker)+base64.StdEncoding.EncodedLen(len(b))+1)
	text = append(text, marker...)
	text = base64.StdEncoding.AppendEncode(text, b)
	return append(text, '"'), nil
}

// marker begins the JSON string that stands for a Binary: a quote, and 128 random bits.
var marker = []byte(`"` + rand.Text() + ":")

// cutMarked finds the first marked string of text: what is before it, its bytes, what is after it.
func cutMarked(text []byte) (before, value, after []byte, ok bool) {
	start := bytes.Index(text, marker)
	if start < 0 {
		return text, nil, nil, false
	}
	rest := text[start+len(marker):]
	end := bytes.IndexByte(rest, '"')
	if end < 0 {
		return text, nil, nil, false
	}
	value, err := base64.StdEncoding.AppendDecode([]byte{}, rest[:end]) // never nil, which would be null
	if err != nil {
		return text, nil, nil, false
	}
	return text[:start], value, rest[end+1:], true
}
