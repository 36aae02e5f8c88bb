package transport

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"strings"
)

// wantsUpgrade reports whether r asks to change the protocol of its connection, RFC 9110 section 7.8. Where
// it is not to WebSocket, a request of polling is served without: some clients offer HTTP/2 so.
func wantsUpgrade(r *http.Request, transport string) bool {
	h := r.Header
	return h.Get("Upgrade") != "" && hasToken(h["Connection"], "upgrade") &&
		(transport != Polling || hasToken(h["Upgrade"], WebSocket))
}

// doubled reports whether a header stands there twice that means something, and that may stand there once:
// a proxy may have looked at the other one.
func doubled(h http.Header) bool { return len(h["Origin"]) > 1 || len(h["Content-Type"]) > 1 }

// checkHandshake applies RFC 6455 section 4.2.1 to a request that wants to upgrade.
func checkHandshake(r *http.Request) *refusal {
	h := r.Header
	switch {
	case r.Method != http.MethodGet,
		r.ProtoMajor != 1 || r.ProtoMinor < 1,
		!hasToken(h["Upgrade"], WebSocket),
		r.ContentLength != 0, // it would be taken for frames
		len(h["Sec-Websocket-Version"]) > 1:
		return errHandshake
	case !onlyValue(h["Sec-Websocket-Version"], "13"):
		return errVersion
	case len(h["Sec-Websocket-Key"]) != 1 || !validKey(h["Sec-Websocket-Key"][0]):
		return errHandshake
	}
	if _, ok := subprotocol(h); !ok {
		return errHandshake
	}
	return nil
}

// subprotocol is the first that the client offers, as the reference server answers: a client that offers some
// fails without an answer. It is empty without an offer, and not ok for one against RFC 6455 section 4.1.
func subprotocol(h http.Header) (first string, ok bool) {
	values := h["Sec-Websocket-Protocol"]
	if len(values) == 0 {
		return "", true
	}
	seen := make(map[string]bool)
	for offer := range strings.SplitSeq(strings.Join(values, ","), ",") {
		offer = strings.Trim(offer, " \t")
		if !isToken(offer) || seen[offer] {
			return "", false
		}
		if len(seen) == 0 {
			first = offer
		}
		seen[offer] = true
	}
	return first, true
}

// isToken reports whether s is a token, RFC 9110 section 5.6.2.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte(`"(),/:;<=>?@[\]{}`, c) >= 0 {
			return false
		}
	}
	return s != ""
}

// handshakeAnswer is the answer of RFC 6455 section 4.2.2 to a handshake with key, and more headers.
func handshakeAnswer(key string, more http.Header) []byte {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	b := bytes.NewBuffer(make([]byte, 0, 512))
	b.WriteString("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ")
	b.WriteString(base64.StdEncoding.EncodeToString(sum[:]))
	b.WriteString("\r\n")
	more.Write(b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// hasToken reports whether one of the comma-separated values of a header is token.
func hasToken(values []string, token string) bool {
	for _, v := range values {
		for t := range strings.SplitSeq(v, ",") {
			if strings.EqualFold(strings.Trim(t, " \t"), token) {
				return true
			}
		}
	}
	return false
}

func onlyValue(values []string, want string) bool {
	return len(values) == 1 && strings.Trim(values[0], " \t") == want
}

// validKey reports whether key is 16 bytes in base64. The bits that its last character has too many may be
// anything.
func validKey(key string) bool {
	b, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(b) == 16
}
