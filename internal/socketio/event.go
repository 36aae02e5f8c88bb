package socketio

import (
	"encoding/json"
	"math"
	"strconv"
)

// Reserved reports whether an event may not have the name, because Socket.IO uses it for its own.
func Reserved(name string) bool {
	switch name {
	case "connect", "connect_error", "disconnect", "disconnecting", "newListener", "removeListener":
		return true
	}
	return false
}

// parseEvent decodes the name that begins data, a JSON array that has been checked.
func parseEvent(data []byte, limit int) ([]byte, error) {
	var raw []byte
	for e := range Elements(data) {
		raw = e
		break
	}
	if len(raw) == 0 || len(raw) > limit {
		return nil, ErrEventName
	}
	switch {
	case raw[0] == '"':
		name := decodeString(raw)
		if len(name) <= len("removeListener") && Reserved(string(name)) { // short: the string stays on the stack
			return nil, ErrReserved
		}
		return name, nil
	case raw[0] == '-' || isDigit(raw[0]):
		return decodeNumber(raw), nil
	}
	return nil, ErrEventName
}

// decodeString is the value of raw, a JSON string that has been checked.
func decodeString(raw []byte) []byte {
	inner := raw[1 : len(raw)-1 : len(raw)-1]
	for _, c := range inner {
		if c == '\\' {
			var s string
			if json.Unmarshal(raw, &s) != nil {
				return nil
			}
			return []byte(s)
		}
	}
	return inner
}

// decodeNumber is the text that JavaScript makes of the number raw: ECMA-262, Number::toString.
func decodeNumber(raw []byte) []byte {
	if exactInteger(raw) {
		return raw
	}
	f, err := strconv.ParseFloat(string(raw), 64)
	switch {
	case err != nil && f < 0:
		return []byte("-Infinity")
	case err != nil:
		return []byte("Infinity")
	case f == 0:
		return []byte("0") // also for -0
	}
	if abs := math.Abs(f); abs >= 1e-6 && abs < 1e21 {
		return strconv.AppendFloat(nil, f, 'f', -1, 64)
	}
	text := strconv.AppendFloat(nil, f, 'e', -1, 64)
	if n := len(text); text[n-2] == '0' { // e-07 is e-7 in JavaScript
		text[n-2] = text[n-1]
		text = text[:n-1]
	}
	return text
}

// exactInteger reports whether the number raw is an integer that a float64 holds exactly and whose
// shortest text is raw.
func exactInteger(raw []byte) bool {
	digits := raw
	if raw[0] == '-' {
		digits = raw[1:]
		if at(digits, 0) == '0' {
			return false
		}
	}
	return len(digits) <= 15 && skipDigits(digits, 0) == len(digits)
}
