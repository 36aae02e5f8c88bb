package adminui

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// guard tells operators from others. A session is a text that every node with the same password can check, so that pages
// come back to any node: the time of its end, eight random bytes, and the code of both.
type guard struct {
	username, password [sha256.Size]byte
	key                []byte
}

// sessionTime is how long a page comes back without the password.
const sessionTime = 24 * time.Hour

const sessionHead = 16 // bytes before the code

func newGuard(username, password string) *guard {
	code := hmac.New(sha256.New, []byte(password))
	code.Write([]byte("tether/adminui session of " + username))
	return &guard{sha256.Sum256([]byte(username)), sha256.Sum256([]byte(password)), code.Sum(nil)}
}

// same reports whether both let the same operators in.
func (g *guard) same(other *guard) bool {
	return g.username == other.username && g.password == other.password
}

// isOperator takes the same time whatever is wrong.
func (g *guard) isOperator(username, password string) bool {
	u, p := sha256.Sum256([]byte(username)), sha256.Sum256([]byte(password))
	return subtle.ConstantTimeCompare(u[:], g.username[:])&subtle.ConstantTimeCompare(p[:], g.password[:]) == 1
}

func (g *guard) session(now time.Time) string {
	head := binary.BigEndian.AppendUint64(nil, uint64(now.Add(sessionTime).Unix()))
	head = append(head, make([]byte, sessionHead-len(head))...)
	rand.Read(head[8:])
	return base64.RawURLEncoding.EncodeToString(append(head, g.code(head)...))
}

func (g *guard) isSession(text string, now time.Time) bool {
	raw, err := base64.RawURLEncoding.DecodeString(text)
	if err != nil || len(raw) != sessionHead+sha256.Size || !hmac.Equal(raw[sessionHead:], g.code(raw[:sessionHead])) {
		return false
	}
	return now.Unix() < int64(binary.BigEndian.Uint64(raw))
}

func (g *guard) code(head []byte) []byte {
	h := hmac.New(sha256.New, g.key)
	h.Write(head)
	return h.Sum(nil)
}
