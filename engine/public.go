package engine

import (
	"crypto/sha256"
	"encoding/hex"
)

// PublicID is a name of 12 characters for the connection with a session ID, for logs and for people: the ID
// itself is a secret, and cannot be told by its name. It is worked out for each call.
func PublicID(id string) string {
	sum := sha256.Sum256([]byte("tether connection " + id))
	return hex.EncodeToString(sum[:6])
}
