package nats

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"tether/broker"
)

// maxEscaped is the length up to which a subject is written out. A server takes 4,096 bytes for a
// whole protocol line by default.
const maxEscaped = 200

// names turns subjects into those of NATS and back into what the messages were published on.
type names struct {
	short   string // "prefix.s.", with a log "prefix.r.s."
	long    string // "prefix.h.", with a log "prefix.r.h."
	cluster string // "prefix.c"
	all     string // "prefix.m"
}

func newNames(prefix string, k *keeping) names {
	rooms := prefix + "."
	if k != nil {
		rooms = k.rooms()
	}
	return names{short: rooms + "s.", long: rooms + "h.", cluster: prefix + ".c", all: prefix + ".m"}
}

func validPrefix(s string) bool {
	if len(s) == 0 || len(s) > 64 || s[0] == '.' || s[len(s)-1] == '.' || strings.Contains(s, "..") {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !letterOrDigit(c) && c != '-' && c != '_' && c != '.' {
			return false
		}
	}
	return true
}

func letterOrDigit(c byte) bool {
	return '0' <= c && c <= '9' || 'A' <= c && c <= 'Z' || 'a' <= c && c <= 'z'
}

// wire returns the NATS subject of a subject. If that is a hash the message carries the subject itself.
func (n names) wire(subject string) string {
	return string(n.appendWire(nil, subject))
}

// appendWire appends what wire returns.
func (n names) appendWire(dst []byte, subject string) []byte {
	start := len(dst)
	if len(subject) <= maxEscaped {
		dst = appendEscaped(append(dst, n.short...), subject)
		if len(dst)-start <= len(n.short)+maxEscaped {
			return dst
		}
		dst = dst[:start]
	}
	sum := sha256.Sum256([]byte(subject))
	return hex.AppendEncode(append(dst, n.long...), sum[:])
}

// isRoom reports whether a NATS subject is that of a subject.
func (n names) isRoom(wire string) bool {
	return strings.HasPrefix(wire, n.short) || strings.HasPrefix(wire, n.long)
}

// isControl reports whether a NATS subject is one of the brokers' own.
func (n names) isControl(wire string) bool {
	return wire == n.all || wire == n.cluster || strings.HasPrefix(wire, n.cluster+".")
}

// isHash reports whether a NATS subject is a hash.
func (n names) isHash(wire string) bool { return strings.HasPrefix(wire, n.long) }

// plain are the bytes that a subject of NATS carries as they are.
var plain = func() (is [256]bool) {
	for c := range is {
		is[c] = c > ' ' && c < 0x7f && !strings.ContainsRune(".*>=$", rune(c))
	}
	return is
}()

// appendEscaped keeps printable ASCII but for what has a meaning to NATS, keeps dots between other
// bytes, and writes every other byte as "=" and two hexadecimal digits. Since those digits and dots
// say exactly what they came from, no two subjects become the same.
func appendEscaped(dst []byte, s string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(s) {
		c := s[i]
		switch {
		case plain[c], c == '.' && i > 0 && i < len(s)-1 && s[i-1] != '.':
			dst = append(dst, c)
		default:
			dst = append(dst, '=', digits[c>>4], digits[c&15])
		}
	}
	return dst
}

// subjectOf undoes appendEscaped.
func subjectOf(s string) string {
	var out []byte
	for i := 0; i < len(s); i++ {
		if s[i] == '=' && i+2 < len(s) {
			if c, err := strconv.ParseUint(s[i+1:i+3], 16, 8); err == nil {
				out = append(out, byte(c))
				i += 2
				continue
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}

// appendNamed prepends to data the subject that a hash stands for.
func appendNamed(dst []byte, m broker.Message) []byte {
	dst = binary.AppendUvarint(dst, uint64(len(m.Subject)))
	dst = append(dst, m.Subject...)
	return append(dst, m.Data...)
}

var errUnnamed = errors.New("nats: message does not say its subject")

// splitNamed undoes appendNamed; the results alias payload.
func splitNamed(payload []byte) (subject, data []byte, err error) {
	n, used := binary.Uvarint(payload)
	if used <= 0 || n > uint64(len(payload)-used) {
		return nil, nil, errUnnamed
	}
	end := used + int(n)
	return payload[used:end:end], payload[end:], nil
}
