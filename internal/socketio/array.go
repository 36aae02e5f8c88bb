package socketio

import "iter"

// Elements iterates over the elements of data, a JSON array of a parsed packet, as raw text that
// aliases data. Of anything that is not an array it yields nothing.
func Elements(data []byte) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		i := skipSpace(data, 0)
		if at(data, i) != '[' {
			return
		}
		i = skipSpace(data, i+1)
		for i < len(data) && data[i] != ']' {
			end := skipValue(data, i)
			if end == i || !yield(data[i:end:end]) {
				return
			}
			i = skipSpace(data, end)
			if at(data, i) != ',' {
				return
			}
			i = skipSpace(data, i+1)
		}
	}
}

// SplitArray appends the elements of data, as [Elements] yields them, to dst. With room for
// [Packet.Args] in dst it allocates nothing.
func SplitArray(dst [][]byte, data []byte) [][]byte {
	for e := range Elements(data) {
		dst = append(dst, e)
	}
	return dst
}

// skipValue returns the index after the value at i, of JSON text that has been checked. It looks at
// nesting and strings only.
func skipValue(data []byte, i int) int {
	depth := 0
	for i < len(data) {
		switch data[i] {
		case '"':
			if i = skipString(data, i); i < 0 {
				return len(data)
			}
			if depth == 0 {
				return i
			}
			continue
		case '[', '{':
			depth++
		case ']', '}':
			if depth == 0 {
				return i
			}
			if depth--; depth == 0 {
				return i + 1
			}
		case ',', ' ', '\n', '\r', '\t':
			if depth == 0 {
				return i
			}
		}
		i++
	}
	return i
}
