package transport

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"strings"
)

// wantsUpgrade reports whether r asks to change the protocol of its connection, RFC 9110 section 7.8.
func wantsUpgrade(r *http.Request) bool {
	return r.Header.Get("Upgrade") != "" && hasToken(r.Header["Connection"], "upgrade")
}

// checkHandshake applies RFC 6455 section 4.2.1 to a request that wants to upgrade.
func checkHandshake(r *http.Request) *refusal {
	h := r.Header
	switch {
	case r.Method != http.MethodGet,
		r.ProtoMajor != 1 || r.ProtoMinor < 1,
		!hasToken(h["Upgrade"], "websocket"):
		return errHandshake
	case !onlyValue(h["Sec-Websocket-Version"], "13"):
		return errVersion
	case len(h["Sec-Websocket-Key"]) != 1 || !validKey(h["Sec-Websocket-Key"][0]):
		return errHandshake
	}
	return nil
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

// validKey reports whether key is 16 bytes in base64.
func validKey(key string) bool {
	b, err := base64.StdEncoding.Strict().DecodeString(key)
	return err == nil && len(b) == 16
}
