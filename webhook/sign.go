package webhook

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SignatureHeader is the header of a request that says when it was made, and proves by whom:
//
//	Tether-Signature: t=1767366245,v1=5257a869…
//
// T is in seconds since 1970, and v1 the hexadecimal HMAC-SHA256, with a key of the sender, of t, a dot and the body. There
// is one v1 for each key, so that a key can be changed.
const SignatureHeader = "Tether-Signature"

// DefaultTolerance is how old a request may be for Verify, or how far ahead its clock.
const DefaultTolerance = 5 * time.Minute

// ErrSignature says that a request is not from the sender, or too old.
var ErrSignature = errors.New("webhook: the signature is not that of this body, or too old")

// sign is the value of SignatureHeader.
func sign(keys []string, now time.Time, body []byte) string {
	at := strconv.FormatInt(now.Unix(), 10)
	var b strings.Builder
	b.WriteString("t=" + at)
	for _, key := range keys {
		b.WriteString(",v1=" + hex.EncodeToString(mac(key, at, body)))
	}
	return b.String()
}

func mac(key, at string, body []byte) []byte {
	h := hmac.New(sha256.New, []byte(key))
	h.Write([]byte(at + "."))
	h.Write(body)
	return h.Sum(nil)
}

// Verify checks a request, which comes with the header and the whole body. It takes the same time whatever is wrong
// with a signature. The tolerance keeps a request that somebody has recorded from being good for ever; 0:
// DefaultTolerance. The error wraps ErrSignature.
func Verify(key, header string, body []byte, tolerance time.Duration) error {
	if key == "" {
		return errors.New("webhook: verify: the key is empty")
	}
	if tolerance == 0 {
		tolerance = DefaultTolerance
	}
	at, found := "", false
	var signatures [][]byte
	for part := range strings.SplitSeq(header, ",") {
		switch name, value, _ := strings.Cut(strings.TrimSpace(part), "="); name {
		case "t":
			at = value
		case "v1":
			if s, err := hex.DecodeString(value); err == nil {
				signatures = append(signatures, s)
			}
		}
	}
	want := mac(key, at, body)
	for _, s := range signatures {
		found = hmac.Equal(s, want) || found
	}
	if !found {
		return ErrSignature
	}
	seconds, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return ErrSignature
	}
	if age := time.Since(time.Unix(seconds, 0)).Abs(); age > tolerance {
		return fmt.Errorf("%w: it is of another time, by %v", ErrSignature, age.Round(time.Second))
	}
	return nil
}
