package socketio

import (
	"encoding/base64"
	"math"
	"strconv"
)

// A placeholder stands in the JSON text for a binary attachment: an object of exactly two members,
// "_placeholder", which is true, and "num", the number of the attachment, from 0. Clients write them
// in either order. The reference decoder also takes an object with further members for a placeholder;
// no encoder writes one, and here it is an error.
type placeholder struct {
	start, end       int // of the object
	numStart, numEnd int // of the digits
	num              int
}

// Placeholders checks that each placeholder in data, the JSON text of a parsed binary packet, has a
// number from 0 to n-1 that no other one has. An attachment that is not referred to is allowed.
func Placeholders(data []byte, n int) error {
	var small [1]uint64
	seen := small[:]
	if n > 64 {
		seen = make([]uint64, (n+63)/64)
	}
	for i := 0; ; {
		p, next, err := nextPlaceholder(data, i)
		if err != nil {
			return err
		}
		if next < 0 {
			return nil
		}
		if p.num >= n {
			return ErrPlaceholder
		}
		word, bit := p.num/64, uint64(1)<<(p.num%64)
		if seen[word]&bit != 0 {
			return ErrPlaceholder
		}
		seen[word] |= bit
		i = next
	}
}

// AppendPlaceholder appends the placeholder of attachment num.
func AppendPlaceholder(dst []byte, num int) []byte {
	dst = append(dst, `{"_placeholder":true,"num":`...)
	dst = strconv.AppendInt(dst, int64(num), 10)
	return append(dst, '}')
}

// AppendRemapped appends data, JSON text that [Placeholders] has checked or a value of it, with each
// placeholder's number replaced by what renumber makes of it. It is called in the order of the text:
// when only some values of a packet are passed on, renumber sees which attachments they need.
func AppendRemapped(dst, data []byte, renumber func(num int) int) []byte {
	done := 0
	for i := 0; ; {
		p, next, err := nextPlaceholder(data, i)
		if err != nil || next < 0 {
			return append(dst, data[done:]...)
		}
		dst = append(dst, data[done:p.numStart]...)
		dst = strconv.AppendInt(dst, int64(renumber(p.num)), 10)
		done, i = p.numEnd, next
	}
}

// AppendReplaced appends data, JSON text that [Placeholders] has checked or a value of it, with each
// placeholder replaced by a JSON string: the attachment of that number in standard base64, which
// [encoding/json] decodes into a byte slice. A placeholder without an attachment is left as it is.
func AppendReplaced(dst, data []byte, attachments [][]byte) []byte {
	done := 0
	for i := 0; ; {
		p, next, err := nextPlaceholder(data, i)
		if err != nil || next < 0 {
			return append(dst, data[done:]...)
		}
		if p.num < len(attachments) {
			dst = append(dst, data[done:p.start]...)
			dst = append(dst, '"')
			dst = base64.StdEncoding.AppendEncode(dst, attachments[p.num])
			dst = append(dst, '"')
			done = p.end
		}
		i = next
	}
}

// nextPlaceholder finds the first placeholder of data from index i on, which is not inside a string,
// and returns the index to go on from, or -1 if there is none.
func nextPlaceholder(data []byte, i int) (placeholder, int, error) {
	for i < len(data) {
		switch data[i] {
		case '{':
			if p, ok := parsePlaceholder(data, i); ok {
				return p, p.end, nil
			}
			i++
		case '"':
			end := skipString(data, i)
			if end < 0 {
				return placeholder{}, -1, nil
			}
			if _, marks := parseMark(data, i, end); marks {
				return placeholder{}, -1, ErrPlaceholder
			}
			i = end
		default:
			i++
		}
	}
	return placeholder{}, -1, nil
}

// parsePlaceholder reads the object at i if it is a placeholder. It looks no further than the third
// string, so every byte is looked at twice at most.
func parsePlaceholder(data []byte, i int) (p placeholder, ok bool) {
	p.start = i
	var mark, num bool
	for i = skipSpace(data, i+1); ; i = skipSpace(data, i+1) {
		if at(data, i) != '"' {
			return p, false
		}
		end := skipString(data, i)
		if end < 0 {
			return p, false
		}
		after, isMark := parseMark(data, i, end)
		switch {
		case isMark && !mark:
			mark = true
		case !isMark && !num && isString(data[i:end], "num"):
			if after, ok = p.parseNum(data, end); !ok {
				return p, false
			}
			num = true
		default:
			return p, false
		}
		switch i = skipSpace(data, after); {
		case at(data, i) == ',' && !(mark && num):
		case at(data, i) == '}' && mark && num:
			p.end = i + 1
			return p, true
		default:
			return p, false
		}
	}
}

// parseMark reports whether the string at data[i:end] and what follows it is the member
// "_placeholder": true, and the index after that.
func parseMark(data []byte, i, end int) (after int, ok bool) {
	colon := skipSpace(data, end)
	if at(data, colon) != ':' || !isString(data[i:end], "_placeholder") {
		return 0, false
	}
	after = skipLiteral(data, skipSpace(data, colon+1), "true")
	return after, after > 0
}

// parseNum reads the colon and the number after the name "num", which ends at i.
func (p *placeholder) parseNum(data []byte, i int) (after int, ok bool) {
	if i = skipSpace(data, i); at(data, i) != ':' {
		return 0, false
	}
	i = skipSpace(data, i+1)
	n, width, ok := parseUint(data[i:])
	if !ok || n > math.MaxInt32 {
		return 0, false
	}
	p.num, p.numStart, p.numEnd = int(n), i, i+width
	return i + width, true
}

// isString reports whether the JSON string raw has the value want, which has only letters in it and
// characters that need no escape.
func isString(raw []byte, want string) bool {
	if len(raw) < len(want)+2 || len(raw) > 6*len(want)+2 {
		return false
	}
	if string(raw[1:len(raw)-1]) == want {
		return true
	}
	return len(raw) > len(want)+2 && string(decodeString(raw)) == want
}
