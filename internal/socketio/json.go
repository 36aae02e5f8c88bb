package socketio

import (
	"encoding/binary"
	"encoding/json"
	"math"
)

// ValidJSON reports what [json.Valid] does, faster where the text does not nest unusually deep.
func ValidJSON(text []byte) bool {
	_, _, err := checkJSON(text, MaxDepth, math.MaxInt)
	return err == nil || err == ErrDepth && json.Valid(text)
}

// checkJSON checks that text is one JSON value (RFC 8259), with nothing but space around it, that
// nests at most depth deep and, if it is an array, has at most maxElements elements. It returns the
// value without the space, and its number of elements if it is an array.
func checkJSON(text []byte, depth, maxElements int) (value []byte, elements int, err error) {
	start := skipSpace(text, 0)
	c := checker{data: text, limit: depth, maxElements: maxElements}
	end, err := c.value(start)
	if err != nil {
		return nil, 0, err
	}
	if skipSpace(text, end) != len(text) {
		return nil, 0, ErrJSON
	}
	return text[start:end:end], c.elements, nil
}

// checker walks one JSON value. The containers it is in are bits of a fixed stack: no recursion, and
// nothing on the heap.
type checker struct {
	data        []byte
	limit       int // of depth
	maxElements int

	depth    int
	objects  [MaxDepth / 64]uint64 // bit depth-1 is set where the container is an object
	elements int                   // of the outermost array
}

// value returns the index after the value at i.
func (c *checker) value(i int) (int, error) {
	for {
		var err error
		var opened bool
		if i, opened, err = c.start(i); err != nil {
			return 0, err
		}
		if opened {
			continue // at the first element, or at the value of the first member
		}
		if i, err = c.finish(i); err != nil {
			return 0, err
		}
		if c.depth == 0 {
			return i, nil
		}
	}
}

// start reads a scalar, an empty container, or the beginning of a container up to its first value.
func (c *checker) start(i int) (_ int, opened bool, err error) {
	i = skipSpace(c.data, i)
	switch b := at(c.data, i); {
	case b == '"':
		i = skipString(c.data, i)
	case b == '[' || b == '{':
		if c.depth == c.limit {
			return 0, false, ErrDepth
		}
		i = skipSpace(c.data, i+1)
		if at(c.data, i) == b+2 { // ']' and '}' are two after their opening
			return i + 1, false, nil
		}
		c.push(b == '{')
		if b == '{' {
			i, err = c.key(i)
		}
		return i, true, err
	case b == '-' || isDigit(b):
		i = skipNumber(c.data, i)
	case b == 't':
		i = skipLiteral(c.data, i, "true")
	case b == 'f':
		i = skipLiteral(c.data, i, "false")
	case b == 'n':
		i = skipLiteral(c.data, i, "null")
	default:
		return 0, false, ErrJSON
	}
	if i < 0 {
		return 0, false, ErrJSON
	}
	return i, false, nil
}

// finish follows a value: it closes the containers that end here, and stops at the next value.
func (c *checker) finish(i int) (int, error) {
	for c.depth > 0 {
		i = skipSpace(c.data, i)
		object := c.inObject()
		switch b := at(c.data, i); {
		case b == ',' && object:
			return c.key(skipSpace(c.data, i+1))
		case b == ',':
			return i + 1, c.count()
		case b == '}' && object, b == ']' && !object:
			if !object {
				if err := c.count(); err != nil {
					return 0, err
				}
			}
			c.depth--
			i++
		default:
			return 0, ErrJSON
		}
	}
	return i, nil
}

// key reads the name of a member and the colon after it.
func (c *checker) key(i int) (int, error) {
	if at(c.data, i) != '"' {
		return 0, ErrJSON
	}
	if i = skipString(c.data, i); i < 0 {
		return 0, ErrJSON
	}
	i = skipSpace(c.data, i)
	if at(c.data, i) != ':' {
		return 0, ErrJSON
	}
	return i + 1, nil
}

// count notes that an element has ended.
func (c *checker) count() error {
	if c.depth == 1 {
		if c.elements++; c.elements > c.maxElements {
			return ErrArgs
		}
	}
	return nil
}

func (c *checker) push(object bool) {
	word, bit := c.depth/64, uint64(1)<<(c.depth%64)
	if object {
		c.objects[word] |= bit
	} else {
		c.objects[word] &^= bit
	}
	c.depth++
}

func (c *checker) inObject() bool {
	d := c.depth - 1
	return c.objects[d/64]>>(d%64)&1 != 0
}

// at is data[i], or 0, which JSON has no use for, past the end.
func at(data []byte, i int) byte {
	if i < len(data) {
		return data[i]
	}
	return 0
}

func skipSpace(data []byte, i int) int {
	for i < len(data) && (data[i] == ' ' || data[i] == '\n' || data[i] == '\r' || data[i] == '\t') {
		i++
	}
	return i
}

// skipString returns the index after the string whose opening quote is at i, or -1.
func skipString(data []byte, i int) int {
	for i++; ; {
		i = skipPlain(data, i)
		switch at(data, i) {
		case '"':
			return i + 1
		case '\\':
			if i = skipEscape(data, i); i < 0 {
				return -1
			}
		default: // a control character or the end
			return -1
		}
	}
}

// skipPlain returns the index of the first byte from i on that is a quote, a backslash or a control
// character, or the length. It looks at eight bytes at a time: in each of the three terms the highest
// bit of a byte is set if it is such a byte. A borrow can only set it wrongly above a right one.
func skipPlain(data []byte, i int) int {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for len(data)-i >= 8 {
		w := binary.LittleEndian.Uint64(data[i:])
		quote, slash := w^ones*'"', w^ones*'\\'
		if ((quote-ones)&^quote|(slash-ones)&^slash|(w-ones*' ')&^w)&highs != 0 {
			break
		}
		i += 8
	}
	for i < len(data) && data[i] != '"' && data[i] != '\\' && data[i] >= ' ' {
		i++
	}
	return i
}

// skipEscape returns the index after the escape whose backslash is at i, or -1.
func skipEscape(data []byte, i int) int {
	switch at(data, i+1) {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return i + 2
	case 'u':
		for j := i + 2; j < i+6; j++ {
			if !isHex(at(data, j)) {
				return -1
			}
		}
		return i + 6
	}
	return -1
}

func isHex(c byte) bool { return isDigit(c) || (c|0x20)-'a' <= 'f'-'a' }

// skipNumber returns the index after the number at i, or -1.
func skipNumber(data []byte, i int) int {
	if at(data, i) == '-' {
		i++
	}
	switch {
	case at(data, i) == '0':
		i++
	case isDigit(at(data, i)):
		i = skipDigits(data, i)
	default:
		return -1
	}
	if at(data, i) == '.' {
		if !isDigit(at(data, i+1)) {
			return -1
		}
		i = skipDigits(data, i+1)
	}
	if at(data, i)|0x20 == 'e' {
		i++
		if s := at(data, i); s == '+' || s == '-' {
			i++
		}
		if !isDigit(at(data, i)) {
			return -1
		}
		i = skipDigits(data, i)
	}
	return i
}

func skipDigits(data []byte, i int) int {
	for i < len(data) && isDigit(data[i]) {
		i++
	}
	return i
}

func skipLiteral(data []byte, i int, literal string) int {
	if len(data)-i < len(literal) || string(data[i:i+len(literal)]) != literal {
		return -1
	}
	return i + len(literal)
}
