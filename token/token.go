// Package token makes and opens small encrypted tokens: AES-GCM over a JSON value, with key
// rotation, in the format of the Encrypt class of Dream, the ORM of Psychic. A login handler seals
// the user's ID, the browser carries the token to the hub, and the hub's connect hook opens it.
//
// A token is the base64 of a JSON object with three members, ciphertext, iv and tag, each base64 of
// its bytes. Nobody without the key can read it, make one, or change a bit of one. It is as good as
// a password until it expires, so give it an expiry ([Keyring.SealUser]) and carry it over TLS only.
package token

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// MaxLen is the length of the longest token, in bytes. Open refuses a longer one before it decodes
// anything, and Seal does not make one. It holds a payload of about 4,500 bytes.
const MaxLen = 8192

const (
	ivSize  = 12
	tagSize = 16
)

var (
	// ErrInvalid is what every token that does not open is refused with, whatever the cause: not a
	// token, another key, a changed bit, a shortened tag, a payload that is not what was asked for.
	// A caller has nothing to learn from the difference, and neither has an attacker.
	ErrInvalid = errors.New("token: invalid")

	// ErrTooLong says that the sealed value would make a token longer than MaxLen.
	ErrTooLong = errors.New("token: value too long")

	errNoKey = errors.New("token: the keyring has no key")
)

// Key is an AES key of 128, 192 or 256 bits. Make one with [NewKey]; the zero Key opens nothing.
type Key struct {
	aead cipher.AEAD
}

// NewKey reads a key from the base64 of its 16, 24 or 32 bytes, as [GenerateKey] returns it. Errors
// do not quote the text.
func NewKey(text string) (Key, error) {
	raw, ok := decode64(strings.TrimSpace(text))
	if !ok {
		return Key{}, errors.New("token: the key is not base64")
	}
	switch len(raw) {
	case 16, 24, 32:
	default:
		return Key{}, fmt.Errorf("token: a key has 16, 24 or 32 bytes, this one has %d", len(raw))
	}
	block, err := aes.NewCipher(raw)
	if err != nil {
		return Key{}, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return Key{}, err
	}
	return Key{aead}, nil
}

// GenerateKey returns a new 256-bit key, in base64. Keep it where the application's secrets are.
func GenerateKey() string {
	raw := make([]byte, 32)
	rand.Read(raw) // never fails
	return base64.StdEncoding.EncodeToString(raw)
}

// Keyring seals with one key, and opens with that key and the ones before it. It is safe for
// concurrent use.
type Keyring struct {
	keys []cipher.AEAD // the current key first
}

// NewKeyring returns a keyring that seals with current. The legacy keys open tokens that were
// sealed before current came into use, and are tried in order, only after current has failed.
// Because initialization vectors are random, change the key before four billion tokens.
func NewKeyring(current Key, legacy ...Key) *Keyring {
	k := new(Keyring)
	for _, key := range append([]Key{current}, legacy...) {
		if key.aead != nil {
			k.keys = append(k.keys, key.aead)
		} else if len(k.keys) == 0 {
			return k // never seal with a legacy key because the current one is missing
		}
	}
	return k
}

// sealed is the JSON form of a token, in the order of its members.
type sealed struct {
	Ciphertext []byte `json:"ciphertext"`
	IV         []byte `json:"iv"`
	Tag        []byte `json:"tag"`
}

// Seal encrypts the JSON of v. The error is that of encoding v, or ErrTooLong.
func (k *Keyring) Seal(v any) (string, error) {
	if len(k.keys) == 0 {
		return "", errNoKey
	}
	var plain bytes.Buffer
	enc := json.NewEncoder(&plain)
	enc.SetEscapeHTML(false) // JSON.stringify does not
	if err := enc.Encode(v); err != nil {
		return "", fmt.Errorf("token: encode the value: %w", err)
	}
	iv := make([]byte, ivSize)
	rand.Read(iv) // never fails
	return k.seal(bytes.TrimSuffix(plain.Bytes(), []byte("\n")), iv)
}

func (k *Keyring) seal(plain, iv []byte) (string, error) {
	if len(plain) > MaxLen {
		return "", ErrTooLong
	}
	out := k.keys[0].Seal(nil, iv, plain, nil)
	text, err := json.Marshal(sealed{out[:len(plain)], iv, out[len(plain):]})
	if err != nil {
		return "", err
	}
	if base64.StdEncoding.EncodedLen(len(text)) > MaxLen {
		return "", ErrTooLong
	}
	return base64.StdEncoding.EncodeToString(text), nil
}

// Open decrypts tok and decodes its JSON into v, a pointer, as [json.Unmarshal] does. A token that
// does not open, or does not hold a value for v, is refused with ErrInvalid, and what v points to
// means nothing then. Open accepts the standard and the URL-safe alphabet of base64, padded or not.
func (k *Keyring) Open(tok string, v any) error {
	plain, err := k.open(tok)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(plain, v); err != nil {
		if misuse := (*json.InvalidUnmarshalError)(nil); errors.As(err, &misuse) {
			return fmt.Errorf("token: %w", err) // the caller's mistake, not the token's
		}
		return ErrInvalid
	}
	return nil
}

// open returns the JSON that tok holds.
func (k *Keyring) open(tok string) ([]byte, error) {
	iv, ciphertext, ok := parse(tok)
	if !ok {
		return nil, ErrInvalid
	}
	for _, aead := range k.keys {
		plain, err := aead.Open(nil, iv, ciphertext, nil)
		if err != nil {
			continue
		}
		if !utf8.Valid(plain) || !json.Valid(plain) {
			return nil, ErrInvalid
		}
		return plain, nil
	}
	return nil, ErrInvalid
}

// parse takes tok apart, into the initialization vector and the ciphertext with its tag.
func parse(tok string) (iv, ciphertext []byte, ok bool) {
	if len(tok) > MaxLen {
		return nil, nil, false
	}
	text, ok := decode64(tok)
	if !ok {
		return nil, nil, false
	}
	// Not a struct: encoding/json would take a member's name in any case.
	var members map[string]json.RawMessage
	if json.Unmarshal(text, &members) != nil {
		return nil, nil, false
	}
	ciphertext, okText := member(members, "ciphertext")
	iv, okIV := member(members, "iv")
	tag, okTag := member(members, "tag")
	if !okText || !okIV || !okTag || len(ciphertext) == 0 || len(iv) != ivSize || len(tag) != tagSize {
		return nil, nil, false
	}
	return iv, append(ciphertext, tag...), true
}

func member(members map[string]json.RawMessage, name string) ([]byte, bool) {
	var text *string
	if json.Unmarshal(members[name], &text) != nil || text == nil {
		return nil, false
	}
	return decode64(*text)
}

var toStandard = strings.NewReplacer("-", "+", "_", "/")

// decode64 decodes base64 of either alphabet, padded or not. It is strict about the bits that do
// not count and about line breaks, so that a token has no twin that differs in a single bit.
func decode64(s string) ([]byte, bool) {
	if strings.ContainsAny(s, "\r\n") {
		return nil, false
	}
	if padded := len(s); strings.HasSuffix(s, "=") {
		s = strings.TrimSuffix(strings.TrimSuffix(s, "="), "=")
		if padded%4 != 0 {
			return nil, false
		}
	}
	raw, err := base64.RawStdEncoding.Strict().DecodeString(toStandard.Replace(s))
	return raw, err == nil
}
