package token

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"time"
	"unicode/utf8"
)

// ErrExpired says that a token was good, and is no longer.
var ErrExpired = errors.New("token: expired")

// Identity is whom a token speaks for, and until when.
type Identity struct {
	User    string
	Expires time.Time // the zero Time: never
	ID      string    // of the token: its jti; "": it has none
	Issued  time.Time // its iat; the zero Time: it does not say
}

// Expired reports whether the identity is over at now.
func (id Identity) Expired(now time.Time) bool {
	return !id.Expires.IsZero() && !now.Before(id.Expires)
}

// SealUser seals a token for the user that is good for ttl, rounded up to a second. With ttl 0 it
// never expires, and holds nothing but the ID as a JSON string, which is what a Psychic application
// seals; otherwise it holds {"user_id":…,"exp":…,"iat":…,"jti":…}, times in seconds since 1970.
func (k *Keyring) SealUser(user string, ttl time.Duration) (string, error) {
	switch {
	case !validUser(user):
		return "", errors.New("token: a user ID is valid UTF-8 and not empty")
	case ttl < 0:
		return "", errors.New("token: negative time to live")
	case ttl == 0:
		return k.Seal(user)
	}
	now := time.Now()
	end := now.Add(ttl)
	exp := end.Unix()
	if end.Nanosecond() > 0 {
		exp++
	}
	var id [9]byte
	rand.Read(id[:])
	return k.Seal(struct {
		User    string  `json:"user_id"`
		Expires int64   `json:"exp"`
		Issued  float64 `json:"iat"` // in milliseconds, so that a token is not older than what was revoked before it
		ID      string  `json:"jti"`
	}{user, exp, float64(now.UnixMilli()) / 1000, base64.RawURLEncoding.EncodeToString(id[:])})
}

// OpenUser opens a token that holds a user's ID, as SealUser and Psychic applications make it: a
// JSON string, a number (whose text becomes the ID as it stands), or an object with the ID in the
// first of user_id, id and sub that it has, and, if it expires, with exp in seconds since 1970. It may
// have iat, likewise, and jti, a text; what is none of that is as if it were missing.
// The error is ErrInvalid or ErrExpired.
func (k *Keyring) OpenUser(tok string) (Identity, error) {
	return k.OpenUserAt(tok, time.Now())
}

// OpenUserAt is OpenUser as of now. To allow for clocks that differ, pass a time that much earlier.
func (k *Keyring) OpenUserAt(tok string, now time.Time) (Identity, error) {
	plain, err := k.open(tok)
	if err != nil {
		return Identity{}, err
	}
	id, ok := identity(plain)
	if !ok {
		return Identity{}, ErrInvalid
	}
	if id.Expired(now) {
		return Identity{}, ErrExpired
	}
	return id, nil
}

// identity reads the payload of a token, which is valid JSON.
func identity(plain []byte) (Identity, bool) {
	var members map[string]json.RawMessage
	if json.Unmarshal(plain, &members) != nil {
		user, ok := userID(plain)
		return Identity{User: user}, ok
	}
	id := Identity{}
	for _, name := range []string{"user_id", "id", "sub"} {
		if raw, ok := members[name]; ok {
			if id.User, ok = userID(raw); !ok {
				return Identity{}, false
			}
			break
		}
	}
	if id.User == "" {
		return Identity{}, false
	}
	if raw, ok := members["exp"]; ok {
		if id.Expires, ok = expiry(raw); !ok {
			return Identity{}, false
		}
	}
	if raw, ok := members["iat"]; ok {
		if issued, ok := expiry(raw); ok {
			id.Issued = issued
		}
	}
	_ = json.Unmarshal(members["jti"], &id.ID) // it stays empty
	return id, true
}

// userID reads a string or a number.
func userID(raw json.RawMessage) (string, bool) {
	var v any
	d := json.NewDecoder(strings.NewReader(string(raw)))
	d.UseNumber()
	if d.Decode(&v) != nil {
		return "", false
	}
	switch v := v.(type) {
	case string:
		return v, validUser(v)
	case json.Number:
		return v.String(), true
	}
	return "", false
}

// validUser refuses what JSON cannot carry as it is: two such IDs could become one on the way.
func validUser(user string) bool {
	return user != "" && utf8.ValidString(user) && !strings.ContainsRune(user, utf8.RuneError)
}

// maxExpiry is the end of the year 9999. What is later was meant in milliseconds.
const maxExpiry = 253402300799

func expiry(raw json.RawMessage) (time.Time, bool) {
	var seconds *float64
	if json.Unmarshal(raw, &seconds) != nil || seconds == nil || *seconds < 0 || *seconds > maxExpiry {
		return time.Time{}, false
	}
	whole, frac := math.Modf(*seconds)
	return time.Unix(int64(whole), int64(frac*1e9)), true
}
