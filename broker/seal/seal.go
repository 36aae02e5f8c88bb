// Package seal keeps strangers out of a cluster that shares its broker with them.
//
// A [Broker] stands between a node and its driver. With a key, each message that leaves is authenticated, or
// sealed so that only nodes with the key can read it, and each message that comes is refused unless a node with
// the key has published it, on this subject, in the last minute, and it has not come before. Without a key all
// messages pass as they are, and everybody who can publish at the backend is trusted.
//
// # What a stranger can do all the same
//
// A stranger here is a program that can publish and subscribe at the backend and does not have the key.
//
//   - It sees the subjects, and with them the IDs of users and the names of rooms; how much each program publishes, and
//     when. Without [Keys.Seal] it reads all messages.
//   - It can hold up or drop messages, as far as the backend lets it, and deliver one that it has held up within
//     [Window]. A message that a node has taken is not taken again, but it can be played on the same subject to
//     a node that has not had it, within Window: an event can reach a user who has changed nodes meanwhile twice.
//     A node that has just started has had none.
//   - It can say what drivers say to each other. See docs/trust.md for what that is worth.
//   - It can cost nodes time: to refuse a message takes about as long as to accept it, and two microseconds more
//     if it imitates a publisher that the node has not heard.
//
// # Clocks
//
// Nodes refuse what is older than Window, or newer, on their wall clock. A clock that is more than that away
// from the others makes its node a stranger. It says so in the log.
package seal

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// Window is how old a message may be when it comes, and by how much clocks may differ.
const Window = time.Minute

// Key is a secret that the nodes of a cluster share. The zero value is none. Package fmt prints its ID only.
type Key [32]byte

// GenerateKey returns a random key.
func GenerateKey() Key {
	var k Key
	rand.Read(k[:]) // it cannot fail
	return k
}

// ParseKey reads the base64 of 16, 24 or 32 bytes, with padding or without. Its error does not have the text
// in it.
func ParseKey(text string) (Key, error) {
	var k Key
	for _, e := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding} {
		if data, err := e.DecodeString(text); err == nil && (len(data) == 16 || len(data) == 24 || len(data) == 32) {
			k = Key{}
			copy(k[:], data) // HMAC, which the keys of messages are made with, fills shorter ones up in the same way
		}
	}
	if k == (Key{}) {
		return k, errors.New("seal: a key is the base64 of 16, 24 or 32 random bytes")
	}
	return k, nil
}

// Encode returns the text that ParseKey reads.
func (k Key) Encode() string { return base64.StdEncoding.EncodeToString(k[:]) }

// ID tells keys apart, in logs say. It is in each message, and gives nothing away of the key.
func (k Key) ID() string {
	id := k.id()
	return hex.EncodeToString(id[:])
}

// Format implements [fmt.Formatter], so that keys are not printed by accident.
func (k Key) Format(s fmt.State, _ rune) { io.WriteString(s, "key "+k.ID()) }

// MarshalText returns the ID, for encoders that would print the key.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.ID()), nil }

const (
	keyIDInfo     = "tether: key id"
	publisherInfo = "tether: messages of a publisher"
)

func (k Key) id() (id keyID) {
	copy(id[:], derive(k, nil, keyIDInfo, len(id)))
	return id
}

// derive makes n bytes, at most 8,160, of a key. RFC 5869.
func derive(k Key, salt []byte, info string, n int) []byte {
	out, err := hkdf.Key(sha256.New, k[:], salt, info, n)
	if err != nil {
		panic("seal: " + err.Error()) // of a length that HKDF does not have
	}
	return out
}

// Keys say which messages a node sends, and which it takes. The zero value is no key: all messages pass as they
// are, but for those that others have sealed.
//
// To change keys, have all nodes accept the new one, then use it and accept the old one, then forget the old
// one: each step when all nodes have taken the last one.
type Keys struct {
	Current Key   // of what is sent; also accepted
	Accept  []Key // accepted too: the next one, and the last one

	// Seal encrypts what is sent. Otherwise it can be read, and is authenticated. A node with the key takes
	// both.
	Seal bool

	// Plain says what is done with messages without a key, while a cluster gets its first key, or gives up
	// its last one.
	Plain Plain
}

// Plain is what to do with messages that have no key.
type Plain uint8

// The steps from no key to a key, in this order. A step is taken when all nodes have taken the last one.
const (
	RefusePlain Plain = iota // the third, and for good
	SendPlain                // the first: send as without a key, and accept both
	AcceptPlain              // the second: send with the key, and accept both
)

// Check says what is wrong with the keys.
func (k Keys) Check() error {
	switch {
	case k.Plain > AcceptPlain:
		return fmt.Errorf("seal: Plain is %d, which is none of its values", k.Plain)
	case slices.Contains(k.Accept, Key{}):
		return errors.New("seal: a key that is accepted is zero: ParseKey or GenerateKey makes one")
	case k.Current != (Key{}):
		return nil
	case len(k.Accept) > 0, k.Seal, k.Plain != RefusePlain:
		return errors.New("seal: Current is zero, and another field is set: without a key there is nothing to accept or to seal")
	}
	return nil
}
