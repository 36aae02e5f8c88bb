package follow

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"time"

	"tether/hub"
)

// What a key signs differs by its first byte.
const (
	signsMark byte = iota + 1
	signsQuestion
)

const (
	macSize  = 16
	maxDrift = time.Minute // between the clocks of the process that asks and the one that answers
)

var (
	errKey  = errors.New("follow: a key is needed: without one nothing is followed")
	errAsk  = errors.New("follow: refused: what asks has none of the keys of this node")
	errTime = errors.New("follow: refused: the question is older than a minute, or the clocks differ by that much")
)

// keyOf is what is signed with.
func keyOf(text string) []byte {
	sum := sha256.Sum256([]byte("tether follow\x00" + text))
	return sum[:]
}

func sign(key []byte, what byte, text []byte) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte{what})
	h.Write(text)
	return h.Sum(nil)[:macSize]
}

// good reports whether one of the keys has signed text.
func (f *Follower) good(what byte, text, mac []byte) bool {
	for _, key := range *f.keys.Load() {
		if hmac.Equal(sign(key, what, text), mac) {
			return true
		}
	}
	return false
}

// question is what is asked of other processes, or told them.
type question struct {
	At    int64         `json:"at"` // milliseconds
	IDs   []ID          `json:"ids,omitempty"`
	To    string        `json:"to,omitempty"`
	Limit int           `json:"limit,omitempty"`
	For   time.Duration `json:"for,omitempty"` // of a rule
}

// signed are the arguments of a question: its text, and the signature.
func (f *Follower) signed(q question) []any {
	q.At = time.Now().UnixMilli()
	text, _ := json.Marshal(q) // texts and numbers
	return []any{string(text), sign((*f.keys.Load())[0], signsQuestion, text)}
}

// opened is the question in a message, if its sender has a key.
func (f *Follower) opened(m *hub.Message) (q question, err error) {
	var text string
	var mac []byte
	if err := m.Bind(&text, &mac); err != nil {
		return q, err
	}
	if !f.good(signsQuestion, []byte(text), mac) {
		return q, errAsk
	}
	if err := json.Unmarshal([]byte(text), &q); err != nil {
		return q, err
	}
	if d := time.Since(time.UnixMilli(q.At)); d > maxDrift || d < -maxDrift {
		return q, errTime
	}
	return q, nil
}
