// Package mark numbers the messages of a benchmark. A mark is the beginning of a message's payload,
// in a fixed width of ASCII, so that it can be written and read without parsing and without
// allocation, in any language and inside any JSON string:
//
//	run (8 hex digits) publisher (4) phase ("w" or "m") user (8) sequence (10) time (16)
//
// followed by dots up to the size of the payload.
package mark

// Size is the number of bytes of a mark, and the smallest payload.
const Size = 8 + 4 + 1 + 8 + 10 + 16

// Everyone is the user of a message that goes to all.
const Everyone = 0xffff_ffff

// Mark says what a message is. The sequence of one publisher for one user begins with 1 and has no
// holes; messages for everyone have a sequence of their own.
type Mark struct {
	Run       uint32
	Publisher uint16
	Warm      bool // sent while warming up: checked, but not timed
	User      uint32
	Seq       uint64 // below 2^40
	At        int64  // when it was due, on the clock of package clock
}

const digits = "0123456789abcdef"

// Append appends m and dots, size bytes in all but not fewer than [Size].
func Append(dst []byte, m Mark, size int) []byte {
	dst = appendHex(dst, uint64(m.Run), 8)
	dst = appendHex(dst, uint64(m.Publisher), 4)
	if m.Warm {
		dst = append(dst, 'w')
	} else {
		dst = append(dst, 'm')
	}
	dst = appendHex(dst, uint64(m.User), 8)
	dst = appendHex(dst, m.Seq, 10)
	dst = appendHex(dst, uint64(m.At), 16)
	for fill := size - Size; fill > 0; fill -= len(dots) {
		dst = append(dst, dots[:min(fill, len(dots))]...)
	}
	return dst
}

const dots = "................................................................................................" +
	"................................................................................................"

func appendHex(dst []byte, v uint64, width int) []byte {
	for shift := 4 * (width - 1); shift >= 0; shift -= 4 {
		dst = append(dst, digits[v>>shift&15])
	}
	return dst
}

// Parse reads the mark at the beginning of b. It reports false when there is none.
func Parse(b []byte) (m Mark, ok bool) {
	if len(b) < Size || b[12] != 'w' && b[12] != 'm' {
		return Mark{}, false
	}
	run, a := parseHex(b[:8])
	publisher, c := parseHex(b[8:12])
	user, d := parseHex(b[13:21])
	seq, e := parseHex(b[21:31])
	at, f := parseHex(b[31:47])
	if a|c|d|e|f > 15 {
		return Mark{}, false
	}
	return Mark{
		Run: uint32(run), Publisher: uint16(publisher), Warm: b[12] == 'w',
		User: uint32(user), Seq: seq, At: int64(at),
	}, true
}

// parseHex returns the value and the or of all digits, which is above 15 when one is no digit.
func parseHex(b []byte) (v uint64, all byte) {
	for _, c := range b {
		d := values[c]
		v = v<<4 | uint64(d&15)
		all |= d
	}
	return v, all
}

var values = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i, c := range digits {
		t[c] = byte(i)
	}
	return t
}()
