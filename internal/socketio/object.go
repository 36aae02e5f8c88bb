package socketio

import "iter"

// Members iterates over the members of data, a JSON object of a parsed packet: the decoded name, and the raw
// text of the value, which aliases data. Of anything that is not an object it yields nothing.
func Members(data []byte) iter.Seq2[[]byte, []byte] {
	return func(yield func(name, value []byte) bool) {
		i := skipSpace(data, 0)
		if at(data, i) != '{' {
			return
		}
		i = skipSpace(data, i+1)
		for at(data, i) == '"' {
			end := skipString(data, i)
			if end < 0 {
				return
			}
			name := data[i:end:end]
			if i = skipSpace(data, end); at(data, i) != ':' {
				return
			}
			i = skipSpace(data, i+1)
			end = skipValue(data, i)
			if end == i || !yield(decodeString(name), data[i:end:end]) {
				return
			}
			if i = skipSpace(data, end); at(data, i) != ',' {
				return
			}
			i = skipSpace(data, i+1)
		}
	}
}
