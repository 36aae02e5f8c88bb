package transport

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"tether/engine"
)

// The rows of TestRFC6455 follow the cases of the Autobahn suite's fuzzing client: row says which. What
// comes back is compared byte by byte, on both carriers, over TCP. Two things are not as that suite has
// them, because this is Engine.IO: a text message begins with its packet type, so that an empty one is
// an error (1.1.1, 6.1.1, 6.1.2), and a message has [maxFragments] frames at most (9.3.1, 9.4.1). Text
// is checked when its message is complete; 6.4 therefore ends with the message, which the suite calls
// non-strict. Cases of another implementation's performance (9.7, 9.8) are here for their sizes.
type rfcCase struct {
	row  string // of the suite
	name string
	in   string // what the client sends, whole frames or not
	chop int    // bytes of one write; 0: all in one

	messages []string // that come back: "t", "b", or "z" when it is compressed, and the payload
	pongs    []string // that come back
	code     int      // of the close frame; 0: the client closes at last, with 1000, and is answered so
}

// noStatus stands for a close frame without a code, section 7.4.1.
const noStatus = 1005

// rfcMax is the limit on a message in the tests of this file.
const rfcMax = 1 << 20

func text(payload string) string    { return frameBytes(bitFin|opText, payload) }
func bin(payload string) string     { return frameBytes(bitFin|opBinary, payload) }
func ping(payload string) string    { return frameBytes(bitFin|opPing, payload) }
func pong(payload string) string    { return frameBytes(bitFin|opPong, payload) }
func closing(payload string) string { return frameBytes(bitFin|opClose, payload) }

func closingWith(code uint16, reason string) string {
	return closing(string(binary.BigEndian.AppendUint16(nil, code)) + reason)
}

// inFragments is a message in frames of n bytes, the first of which begins with op.
func inFragments(op byte, payload string, n int) string {
	var b strings.Builder
	for len(payload) > n {
		b.WriteString(frameBytes(op, payload[:n]))
		op, payload = opContinuation, payload[n:]
	}
	b.WriteString(frameBytes(bitFin|op, payload))
	return b.String()
}

// letters is text of n bytes that repeats nowhere near.
func letters(n int) string {
	var b strings.Builder
	for i := 0; b.Len() < n; i++ {
		fmt.Fprintf(&b, "%d,", i)
	}
	return b.String()[:n]
}

func rfcFraming() (all []rfcCase) {
	for i, n := range []int{0, 125, 126, 127, 128, 65535, 65536} {
		row := fmt.Sprint(i + 1)
		if n > 0 {
			payload := "4" + letters(n-1)
			all = append(all, rfcCase{row: "1.1." + row, name: fmt.Sprint("text of ", n), in: text(payload), messages: []string{"t" + payload}})
		} else {
			all = append(all,
				rfcCase{row: "1.1.1", name: "text of 0", in: text(""), code: noStatus},
				rfcCase{row: "1.1.1", name: "an empty message as text", in: text("4"), messages: []string{"t4"}})
		}
		payload := strings.Repeat("\xfe", n)
		all = append(all, rfcCase{row: "1.2." + row, name: fmt.Sprint("binary of ", n), in: bin(payload), messages: []string{"b" + payload}})
	}
	long, short := "4"+letters(65535), "4"+letters(300)
	for _, chop := range []int{1, 2, 7, 126, 997, 4096, 65536} {
		all = append(all, rfcCase{row: "1.1.8, 1.2.8", name: fmt.Sprint("in writes of ", chop), chop: chop,
			in:       text(short) + bin(short) + text("4") + text(short),
			messages: []string{"t" + short, "b" + short, "t4", "t" + short}})
		if chop > 100 {
			all = append(all, rfcCase{row: "1.1.8, 1.2.8", name: fmt.Sprint("65536 in writes of ", chop), chop: chop,
				in: text(long) + bin(long), messages: []string{"t" + long, "b" + long}})
		}
	}
	unmasked := func(mask string) string {
		b := []byte("\x81\x84" + mask + "4abc")
		for i := range 4 {
			b[6+i] ^= mask[i]
		}
		return string(b)
	}
	return append(all,
		rfcCase{row: "section 5.3", name: "masks of any kind", in: unmasked("\x00\x00\x00\x00") + unmasked("\xff\xff\xff\xff") + unmasked("\x00\x01\x80\xff"),
			messages: []string{"t4abc", "t4abc", "t4abc"}},
		rfcCase{row: "section 5.1", name: "no mask", in: text("4a") + "\x81\x024b", messages: []string{"t4a"}, code: 1002},
		rfcCase{row: "section 5.1", name: "a ping without a mask", in: "\x89\x00", code: 1002},
		rfcCase{row: "section 5.2", name: "lengths in longer forms", in: "\x81\xfe\x00\x02\x00\x00\x00\x004a" + "\x82\xff\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00b",
			messages: []string{"t4a", "bb"}},
		rfcCase{row: "section 5.2", name: "a length with the top bit set", in: text("4a") + "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x04mask", messages: []string{"t4a"}, code: 1002},
	)
}

func rfcPings() []rfcCase {
	p125 := strings.Repeat("\xfe", 125)
	var ten string
	var tenPongs []string
	for i := range 10 {
		ten += ping(fmt.Sprint("payload-", i))
		tenPongs = append(tenPongs, fmt.Sprint("payload-", i))
	}
	all := []rfcCase{
		{row: "2.1", name: "without payload", in: ping(""), pongs: []string{""}},
		{row: "2.2", name: "text", in: ping("Hello, world!"), pongs: []string{"Hello, world!"}},
		{row: "2.3", name: "not text", in: ping("\x00\xff\xfe\xfd\xfc\xfb\x00\xff"), pongs: []string{"\x00\xff\xfe\xfd\xfc\xfb\x00\xff"}},
		{row: "2.4", name: "of 125", in: ping(p125), pongs: []string{p125}},
		{row: "2.5", name: "of 126", in: ping(p125 + "x"), code: 1002},
		{row: "2.6", name: "of 125, byte by byte", in: ping(p125), chop: 1, pongs: []string{p125}},
		{row: "2.7", name: "a pong that nobody asked for", in: pong("") + text("4a"), messages: []string{"t4a"}},
		{row: "2.8", name: "one with payload", in: pong("unsolicited") + text("4a"), messages: []string{"t4a"}},
		{row: "2.9", name: "one, and a ping", in: pong("unsolicited") + ping("ping"), pongs: []string{"ping"}},
		{row: "2.10", name: "ten", in: ten, pongs: tenPongs},
		{row: "2.11", name: "ten, byte by byte", in: ten, chop: 1, pongs: tenPongs},
		{row: "2.5", name: "a pong of 126", in: pong(p125 + "x"), code: 1002},
	}
	for n := range 126 {
		all = append(all, rfcCase{row: "2.2, 2.3", name: fmt.Sprint("of ", n), in: ping(p125[:n]), pongs: []string{p125[:n]}})
	}
	return all
}

func rfcReserved() (all []rfcCase) {
	hello := []string{"t4Hello"}
	for _, chop := range []int{0, 1} {
		all = append(all,
			rfcCase{row: "3.1", name: "RSV 1", in: frameBytes(bitFin|0x10|opText, "4Hello"), chop: chop, code: 1002},
			rfcCase{row: "3.2", name: "RSV 2 behind a text", in: text("4Hello") + frameBytes(bitFin|0x20|opText, "4Hello") + ping(""), chop: chop, messages: hello, code: 1002},
			rfcCase{row: "3.3, 3.4", name: "RSV 3 behind a text", in: text("4Hello") + frameBytes(bitFin|0x30|opText, "4Hello") + ping(""), chop: chop, messages: hello, code: 1002},
			rfcCase{row: "3.3, 3.4", name: "RSV 4 behind a text", in: text("4Hello") + frameBytes(bitFin|0x40|opText, "4Hello") + ping(""), chop: chop, messages: hello, code: 1002},
			rfcCase{row: "3.5", name: "RSV 5 on binary", in: frameBytes(bitFin|0x50|opBinary, "\x00\xff"), chop: chop, code: 1002},
			rfcCase{row: "3.6", name: "RSV 6 on a ping", in: frameBytes(bitFin|0x60|opPing, "x"), chop: chop, code: 1002},
			rfcCase{row: "3.7", name: "RSV 7 on a close", in: frameBytes(bitFin|0x70|opClose, ""), chop: chop, code: 1002},
			rfcCase{row: "3", name: "RSV 4 on a continuation", in: frameBytes(opText, "4") + frameBytes(bitFin|0x40, "x"), chop: chop, code: 1002})
		for i, op := range []byte{3, 4, 5, 6, 7, 11, 12, 13, 14, 15} {
			row := fmt.Sprintf("4.%d.%d", i/5+1, i%5+1)
			for _, payload := range []string{"", "x"} {
				all = append(all,
					rfcCase{row: row, name: fmt.Sprintf("opcode %d with %q", op, payload), in: frameBytes(bitFin|op, payload), chop: chop, code: 1002},
					rfcCase{row: row, name: fmt.Sprintf("opcode %d with %q behind a text", op, payload), in: text("4Hello") + frameBytes(bitFin|op, payload) + ping(""), chop: chop, messages: hello, code: 1002},
					rfcCase{row: row, name: fmt.Sprintf("opcode %d with %q inside a message", op, payload), in: frameBytes(opText, "4") + frameBytes(op, payload), chop: chop, code: 1002})
			}
		}
	}
	return all
}

func rfcFragments() (all []rfcCase) {
	start := frameBytes(opText, "4fragment1")
	end := frameBytes(bitFin, "fragment2")
	whole := []string{"t4fragment1fragment2"}
	nothing := frameBytes(bitFin, "non-continuation")
	open := frameBytes(0, "non-continuation")
	five := frameBytes(opText, "4fragment1") + frameBytes(0, "fragment2") + ping("pongme 1!") + frameBytes(0, "fragment3") +
		frameBytes(0, "fragment4") + ping("pongme 2!") + frameBytes(bitFin, "fragment5")
	for _, chop := range []int{0, 1, 3, 17} {
		all = append(all,
			rfcCase{row: "5.1", name: "a ping in two fragments", in: frameBytes(opPing, "fragment1") + frameBytes(bitFin, "fragment2"), chop: chop, code: 1002},
			rfcCase{row: "5.2", name: "a pong in two fragments", in: frameBytes(opPong, "fragment1") + frameBytes(bitFin, "fragment2"), chop: chop, code: 1002},
			rfcCase{row: "5.1", name: "a close in two fragments", in: frameBytes(opClose, "\x03\xe8") + frameBytes(bitFin, "bye"), chop: chop, code: 1002},
			rfcCase{row: "5.3, 5.4, 5.5", name: "text in two", in: start + end, chop: chop, messages: whole},
			rfcCase{row: "5.6, 5.7, 5.8", name: "text in two, with a ping inside", in: start + ping("pongme") + end, chop: chop, messages: whole, pongs: []string{"pongme"}},
			rfcCase{row: "5.6", name: "text in two, with a pong inside", in: start + pong("unsolicited") + end, chop: chop, messages: whole},
			rfcCase{row: "5.9, 5.10, 5.11", name: "a last continuation of nothing", in: nothing + text("4Hello"), chop: chop, code: 1002},
			rfcCase{row: "5.12, 5.13, 5.14", name: "a continuation of nothing", in: open + text("4Hello"), chop: chop, code: 1002},
			rfcCase{row: "5.15", name: "a last continuation behind a message", in: start + end + nothing + text("4Hello"), chop: chop, messages: whole, code: 1002},
			rfcCase{row: "5.15", name: "a continuation behind a message", in: start + end + open + text("4Hello"), chop: chop, messages: whole, code: 1002},
			rfcCase{row: "5.16", name: "a continuation before a message, twice", in: strings.Repeat(open+frameBytes(opText, "4f")+frameBytes(bitFin, "g"), 2), chop: chop, code: 1002},
			rfcCase{row: "5.17", name: "a last continuation before a message, twice", in: strings.Repeat(nothing+frameBytes(opText, "4f")+frameBytes(bitFin, "g"), 2), chop: chop, code: 1002},
			rfcCase{row: "5.18", name: "two texts for one", in: start + text("4fragment2"), chop: chop, code: 1002},
			rfcCase{row: "5.18", name: "a binary inside a text", in: start + frameBytes(opBinary, "x"), chop: chop, code: 1002},
			rfcCase{row: "5.19, 5.20", name: "five, with two pings", in: five, chop: chop, pongs: []string{"pongme 1!", "pongme 2!"},
				messages: []string{"t4fragment1fragment2fragment3fragment4fragment5"}},
			rfcCase{row: "5.3", name: "binary in fragments of nothing", in: frameBytes(opBinary, "") + frameBytes(0, "") + frameBytes(0, "a") + frameBytes(0, "") + frameBytes(bitFin, ""), chop: chop, messages: []string{"ba"}},
			rfcCase{row: "5.3", name: "binary of nothing in fragments", in: frameBytes(opBinary, "") + frameBytes(bitFin, ""), chop: chop, messages: []string{"b"}},
			rfcCase{row: "5", name: "fragments and whole messages in turn", in: start + end + bin("x") + start + end + text("4y"), chop: chop, messages: []string{whole[0], "bx", whole[0], "t4y"}})
	}
	return all
}

// rfcTexts are the sequences of group 6, by row. Those of the first are valid.
var rfcTexts = map[bool]map[string][]string{
	true: {
		"6.2":  {"Hello-µ@ßöäüàá-UTF-8!!"},
		"6.5":  {"κόσμε", "κ", "κό", "κόσ", "κόσμ"},
		"6.7":  {"\x00", "\xc2\x80", "\xe0\xa0\x80", "\xf0\x90\x80\x80"},
		"6.9":  {"\x7f", "\xdf\xbf", "\xef\xbf\xbf", "\xf4\x8f\xbf\xbf"},
		"6.11": {"\xed\x9f\xbf", "\xee\x80\x80", "\xef\xbf\xbd", "\xf4\x8f\xbf\xbf"},
		"6.22": nonCharacters(),
		"6.23": {"\xef\xbf\xb9", "\xef\xbf\xba", "\xef\xbf\xbb", "\xef\xbf\xbc", "\xef\xbf\xbd", "\xef\xbb\xbf"},
	},
	false: {
		"6.3":  {"κόσμε\xed\xa0\x80edited"},
		"6.6":  {"\xce", "κ\xe1", "κ\xe1\xbd", "κό\xcf", "κόσ\xce", "κόσμ\xce"},
		"6.8":  {"\xf8\x88\x80\x80\x80", "\xfc\x84\x80\x80\x80\x80"},
		"6.10": {"\xf7\xbf\xbf\xbf", "\xfb\xbf\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf\xbf"},
		"6.11": {"\xf4\x90\x80\x80"},
		"6.12": {"\x80", "\xbf", "\x80\xbf", "\x80\xbf\x80", "\x80\xbf\x80\xbf", "\x80\xbf\x80\xbf\x80", "\x80\xbf\x80\xbf\x80\xbf", byteRange(0x80, 0xbf, "")},
		"6.13": {byteRange(0xc0, 0xdf, " "), byteRange(0xe0, 0xef, " "), byteRange(0xf0, 0xf7, " "), byteRange(0xf8, 0xfb, " "), byteRange(0xfc, 0xfd, " ")},
		"6.14": {"\xc0", "\xe0\x80", "\xf0\x80\x80", "\xf8\x80\x80\x80", "\xfc\x80\x80\x80\x80", "\xdf", "\xef\xbf", "\xf7\xbf\xbf", "\xfb\xbf\xbf\xbf", "\xfd\xbf\xbf\xbf\xbf"},
		"6.15": {"\xc0\xe0\x80\xf0\x80\x80\xf8\x80\x80\x80\xfc\x80\x80\x80\x80\xdf\xef\xbf\xf7\xbf\xbf\xfb\xbf\xbf\xbf\xfd\xbf\xbf\xbf\xbf"},
		"6.16": {"\xfe", "\xff", "\xfe\xfe\xff\xff"},
		"6.17": {"\xc0\xaf", "\xe0\x80\xaf", "\xf0\x80\x80\xaf", "\xf8\x80\x80\x80\xaf", "\xfc\x80\x80\x80\x80\xaf"},
		"6.18": {"\xc1\xbf", "\xe0\x9f\xbf", "\xf0\x8f\xbf\xbf", "\xf8\x87\xbf\xbf\xbf", "\xfc\x83\xbf\xbf\xbf\xbf"},
		"6.19": {"\xc0\x80", "\xe0\x80\x80", "\xf0\x80\x80\x80", "\xf8\x80\x80\x80\x80", "\xfc\x80\x80\x80\x80\x80"},
		"6.20": {"\xed\xa0\x80", "\xed\xad\xbf", "\xed\xae\x80", "\xed\xaf\xbf", "\xed\xb0\x80", "\xed\xbe\x80", "\xed\xbf\xbf"},
		"6.21": {"\xed\xa0\x80\xed\xb0\x80", "\xed\xa0\x80\xed\xbf\xbf", "\xed\xad\xbf\xed\xb0\x80", "\xed\xad\xbf\xed\xbf\xbf",
			"\xed\xae\x80\xed\xb0\x80", "\xed\xae\x80\xed\xbf\xbf", "\xed\xaf\xbf\xed\xb0\x80", "\xed\xaf\xbf\xed\xbf\xbf"},
	},
}

// nonCharacters are the last two code points of every plane, and those of the Arabic block.
func nonCharacters() (all []string) {
	for plane := range rune(17) {
		all = append(all, string(plane<<16|0xfffe), string(plane<<16|0xffff))
	}
	return append(all, "\ufdd0", "\ufdef")
}

// byteRange is every byte of a range, with a string behind each.
func byteRange(first, last int, behind string) string {
	var b strings.Builder
	for c := first; c <= last; c++ {
		b.WriteByte(byte(c))
		b.WriteString(behind)
	}
	return b.String()
}

func rfcUTF8() (all []rfcCase) {
	for valid, rows := range rfcTexts {
		for row, texts := range rows {
			for _, s := range texts {
				payload := "4" + s + "."
				if !valid && row == "6.6" || row == "6.14" {
					payload = "4" + s // what is wrong is that it ends
				}
				c := rfcCase{row: row, name: fmt.Sprintf("%q", s), code: 1007}
				if valid {
					c.code, c.messages = 0, []string{"t" + payload}
				}
				for _, in := range []string{text(payload), inFragments(opText, payload, 1), frameBytes(opText, payload) + frameBytes(bitFin, "")} {
					c.in = in
					all = append(all, c)
				}
				for at := 1; at < len(payload) && at < 8; at++ {
					c.in = frameBytes(opText, payload[:at]) + ping("p") + frameBytes(bitFin, payload[at:])
					c.pongs = []string{"p"}
					all = append(all, c)
				}
			}
		}
	}
	fail := "4κόσμε"
	return append(all,
		rfcCase{row: "6.1.1", name: "no bytes", in: text(""), code: noStatus},
		rfcCase{row: "6.1.2", name: "no bytes in fragments", in: frameBytes(opText, "") + frameBytes(0, "") + frameBytes(bitFin, ""), code: noStatus},
		rfcCase{row: "6.1.3", name: "bytes in the middle one of three fragments", in: frameBytes(opText, "") + frameBytes(0, "4middle") + frameBytes(bitFin, ""), messages: []string{"t4middle"}},
		rfcCase{row: "6.4.1", name: "wrong in the second of three fragments", in: frameBytes(opText, fail) + frameBytes(0, "\xf4\x90\x80\x80") + frameBytes(bitFin, "edited"), code: 1007},
		rfcCase{row: "6.4.2", name: "wrong in the last byte of a fragment", in: frameBytes(opText, fail+"\xf4") + frameBytes(0, "\x90") + frameBytes(bitFin, ""), code: 1007},
		rfcCase{row: "6.4.3", name: "wrong in the middle of a frame", in: text(fail + "\xf4\x90\x80\x80edited"), chop: 5, code: 1007},
		rfcCase{row: "6.4.4", name: "wrong, byte by byte", in: text(fail + "\xf4\x90"), chop: 1, code: 1007},
		rfcCase{row: "6", name: "binary need not be text", in: bin("\xff\xfe") + inFragments(opBinary, "\xed\xa0\x80", 1), messages: []string{"b\xff\xfe", "b\xed\xa0\x80"}},
		rfcCase{row: "6", name: "wrong behind a good one", in: text("4é") + text("4\xe9"), messages: []string{"t4é"}, code: 1007},
	)
}

func rfcClose() (all []rfcCase) {
	hello, reason := []string{"t4Hello"}, strings.Repeat("*", 123)
	big := "4" + letters(256<<10-1)
	normal := closingWith(1000, "")
	all = []rfcCase{
		{row: "7.1.1", name: "behind a message", in: text("4Hello") + normal, messages: hello, code: 1000},
		{row: "7.1.2", name: "twice", in: normal + normal, code: 1000},
		{row: "7.1.2", name: "twice, with another code", in: closingWith(3000, "") + closingWith(4000, ""), code: 3000},
		{row: "7.1.3", name: "and a ping", in: normal + ping("late"), code: 1000},
		{row: "7.1.4", name: "and a text", in: normal + text("4late"), code: 1000},
		{row: "7.1.4", name: "and what breaks the protocol", in: normal + "\xff\xff\xff\xff", code: 1000},
		{row: "7.1.5", name: "inside a message", in: frameBytes(opText, "4frag") + normal + frameBytes(bitFin, "ment"), code: 1000},
		{row: "7.1.6", name: "behind 256 KiB, and a ping", in: text(big) + normal + ping("late"), messages: []string{"t" + big}, code: 1000},
		{row: "7.3.1", name: "without payload", in: closing(""), code: noStatus},
		{row: "7.3.2", name: "of one byte", in: closing("a"), code: 1002},
		{row: "7.3.3", name: "with a code", in: normal, code: 1000},
		{row: "7.3.4", name: "with a code and a reason", in: closingWith(1000, "Hello World!"), code: 1000},
		{row: "7.3.5", name: "with the longest reason", in: closingWith(1000, reason), code: 1000},
		{row: "7.3.6", name: "with a longer one", in: closingWith(1000, reason+"*"), code: 1002},
		{row: "7.5.1", name: "with a reason that is not UTF-8", in: closingWith(1000, "κόσμε\xed\xa0\x80edited"), code: 1007},
		{row: "7.5.1", name: "with a reason that ends in a character", in: closingWith(1000, "\xce"), code: 1007},
	}
	for i, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999} {
		row := fmt.Sprint("7.7.", i+1)
		all = append(all,
			rfcCase{row: row, name: fmt.Sprint("code ", code), in: closingWith(code, ""), code: int(code)},
			rfcCase{row: row, name: fmt.Sprint("code ", code, " with a reason"), in: closingWith(code, "é"), chop: 1, code: int(code)})
	}
	for i, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535} {
		row := fmt.Sprint("7.9.", i+1)
		if code >= 5000 {
			row = fmt.Sprint("7.13.", i-9)
		}
		all = append(all,
			rfcCase{row: row, name: fmt.Sprint("code ", code), in: closingWith(code, ""), code: 1002},
			rfcCase{row: row, name: fmt.Sprint("code ", code, " with a reason"), in: closingWith(code, "é"), chop: 1, code: 1002})
	}
	return all
}

func rfcSizes() (all []rfcCase) {
	for i, n := range []int{64 << 10, 256 << 10, rfcMax - 1, rfcMax} {
		t, b := "4"+letters(n-1), strings.Repeat("\xfe\x00", n/2+1)[:n]
		row := fmt.Sprintf("9.1.%d, 9.2.%d", i+1, i+1)
		all = append(all,
			rfcCase{row: row, name: fmt.Sprint("text of ", n), in: text(t), messages: []string{"t" + t}},
			rfcCase{row: row, name: fmt.Sprint("binary of ", n), in: bin(b), messages: []string{"b" + b}})
	}
	full, past := "4"+letters(rfcMax-1), "4"+letters(rfcMax)
	for i, size := range []int{1024, 4096, 16 << 10, 64 << 10, 256 << 10, rfcMax} {
		row := fmt.Sprintf("9.3.%d, 9.4.%d", i+2, i+2)
		all = append(all,
			rfcCase{row: row, name: fmt.Sprint("text in fragments of ", size), in: inFragments(opText, full, size), messages: []string{"t" + full}},
			rfcCase{row: row, name: fmt.Sprint("binary in fragments of ", size), in: inFragments(opBinary, full, size), messages: []string{"b" + full}})
		if size > 1024 { // the limit on fragments comes first there
			all = append(all, rfcCase{row: row, name: fmt.Sprint("one byte past the limit in fragments of ", size), in: inFragments(opText, past, size), code: 1009})
		}
	}
	small := "4" + letters(64*maxFragments-1)
	for i, chop := range []int{64, 128, 256, 512, 1024, 2048} {
		row := fmt.Sprintf("9.5.%d, 9.6.%d", i+1, i+1)
		all = append(all,
			rfcCase{row: row, name: fmt.Sprint("text in writes of ", chop), in: text(small), chop: chop, messages: []string{"t" + small}},
			rfcCase{row: row, name: fmt.Sprint("binary in writes of ", chop), in: bin(small), chop: chop, messages: []string{"b" + small}})
	}
	auto := "4" + letters(65535)
	return append(all,
		rfcCase{row: "9.1", name: "text past the limit", in: text(past), code: 1009},
		rfcCase{row: "9.2", name: "binary past the limit, of which only the head comes", in: bin(past)[:14], code: 1009},
		rfcCase{row: "9.3.1", name: "as many fragments as there may be", in: inFragments(opText, small, 64), messages: []string{"t" + small}},
		rfcCase{row: "9.3.1", name: "one fragment more", in: inFragments(opText, small+"x", 64), code: 1008},
		rfcCase{row: "9.4.1", name: "fragments of nothing", in: frameBytes(opBinary, "") + strings.Repeat(frameBytes(0, ""), maxFragments), code: 1008},
		rfcCase{row: "10.1.1", name: "text in fragments of 1300", in: inFragments(opText, auto, 1300), messages: []string{"t" + auto}},
		rfcCase{row: "10.1.1", name: "text in fragments of 1300, with pings", pongs: []string{"1", "2"}, messages: []string{"t" + auto},
			in: frameBytes(opText, auto[:1300]) + ping("1") + frameBytes(0, auto[1300:2600]) + ping("2") + frameBytes(bitFin, auto[2600:])},
	)
}

// carriers runs f with a server on each carrier, and finds that nothing is left of it.
// A test that calls it is not parallel: the goroutines of the whole process are counted.
func carriers(t *testing.T, o Options, f func(t *testing.T, s *server)) {
	t.Helper()
	if os.Getenv(onEpoll) != "" {
		t.Skip("the process that started this one tests both carriers")
	}
	for _, epoll := range []bool{false, true} {
		name := "portable"
		if epoll {
			name = "epoll"
		}
		before := runtime.NumGoroutine()
		o.Epoll = epoll
		t.Run(name, func(t *testing.T) { f(t, serve(t, o)) })
		for deadline := time.Now().Add(wait); runtime.NumGoroutine() > before; runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatalf("%s: %d goroutines before, %d after", name, before, runtime.NumGoroutine())
			}
		}
	}
}

func TestRFC6455(t *testing.T) {
	groups := []struct {
		name  string
		cases []rfcCase
	}{
		{"1 framing", rfcFraming()},
		{"2 pings and pongs", rfcPings()},
		{"3 reserved bits, 4 opcodes", rfcReserved()},
		{"5 fragmentation", rfcFragments()},
		{"6 UTF-8", rfcUTF8()},
		{"7 close", rfcClose()},
		{"9 sizes, 10 fragments of a sender", rfcSizes()},
	}
	carriers(t, Options{MaxPayload: rfcMax}, func(t *testing.T, s *server) {
		var open []net.Conn
		for _, g := range groups {
			t.Run(g.name, func(t *testing.T) {
				for _, c := range g.cases {
					open = append(open, c.run(t, s.with(t), "")...)
				}
			})
		}
		wantGone(t, s, open)
		t.Logf("figure: %d cases", len(open))
	})
}

// wantGone closes the handler, which waits for what it has, and finds that no connection is left.
func wantGone(t *testing.T, s *server, conns []net.Conn) {
	t.Helper()
	if n := s.h.Len(); n != 0 {
		t.Errorf("%d sessions are left", n)
	}
	s.h.Close()
	for _, c := range conns {
		c.SetDeadline(time.Now().Add(wait))
		var err error
		for err == nil { // until the reset that answers is there
			_, err = c.Write([]byte{0})
		}
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			t.Errorf("a connection is still open: %v", err)
		}
		c.Close()
	}
}

// run plays the case and compares. The client's end of the connection is left open, now and then: a
// server has to close its own.
func (c rfcCase) run(t *testing.T, s *server, extensions string) (open []net.Conn) {
	t.Helper()
	var header []string
	if extensions != "" {
		header = []string{"Sec-WebSocket-Extensions: " + extensions}
	}
	ws := s.upgrade("EIO=4&transport=websocket", "", header...)
	ws.text()
	compression := ws.head.Header.Get("Sec-WebSocket-Extensions") != ""
	e := s.session()
	fail := func(format string, args ...any) {
		t.Helper()
		t.Errorf("case %s, %s (in writes of %d): %s", c.row, c.name, c.chop, fmt.Sprintf(format, args...))
	}
	sent := make(chan struct{})
	go func() { // run waits for it: sent
		defer close(sent)
		chop := c.chop
		if chop == 0 {
			chop = len(c.in)
		}
		for part := range slices.Chunk([]byte(c.in), chop) {
			if _, err := ws.conn.Write(part); err != nil {
				return
			}
		}
	}()
	got, err := readAnswers(ws.br, compression, len(c.messages), len(c.pongs), func() {
		if c.code == 0 {
			<-sent
			ws.conn.Write([]byte(closingWith(1000, "")))
		}
	})
	if err != nil {
		fail("%v", err)
	}
	if !slices.Equal(got.messages, c.messages) {
		fail("messages %.300q, want %.300q", got.messages, c.messages)
	}
	if !slices.Equal(got.pongs, c.pongs) {
		fail("pongs %.300q, want %.300q", got.pongs, c.pongs)
	}
	if got.code != c.answer() {
		fail("close code %d, want %d", got.code, c.answer())
	}
	if r := receive(t, e.closed); r != c.reason() {
		fail("closed for %q, want %q", r, c.reason())
	}
	<-sent
	return []net.Conn{ws.conn}
}

// answer is the code of the server's close frame.
func (c rfcCase) answer() int {
	if c.code == 0 {
		return 1000
	}
	return c.code
}

// reason is what the receiver is told.
func (c rfcCase) reason() engine.Reason {
	switch {
	case strings.HasPrefix(c.row, "7.7."), c.row == "7.3.1": // any code is good there, and is the client's
		return engine.ReasonTransportClose
	case c.code == noStatus:
		return engine.ReasonParseError
	case c.code == 1002, c.code == 1007, c.code == 1008, c.code == 1009:
		return engine.ReasonTransportError
	}
	return engine.ReasonTransportClose
}

// answers is what a server sent until the end of the stream.
type answers struct {
	messages, pongs []string
	code            int
}

// readAnswers reads to the end, and checks every frame: whole, not masked, with the shortest length.
// answered is called once as many messages and pongs have come. compression says whether messages may
// be compressed; those that are begin with "z" instead of "t" or "b".
func readAnswers(br *bufio.Reader, compression bool, messages, pongs int, answered func()) (a answers, err error) {
	for done := false; ; {
		if !done && len(a.messages) >= messages && len(a.pongs) >= pongs {
			done = true
			answered()
		}
		first, payload, err := serverFrame(br)
		if err == io.EOF && a.code != 0 {
			return a, nil
		}
		if err != nil {
			return a, fmt.Errorf("after %d messages, %d pongs, close code %d: %w", len(a.messages), len(a.pongs), a.code, err)
		}
		if a.code != 0 {
			return a, fmt.Errorf("a frame %#x behind the close frame", first)
		}
		if first&^0x0f == bitFin|bitRSV1 && compression {
			z := flate.NewReader(io.MultiReader(bytes.NewReader(payload), strings.NewReader(inflateTail)))
			if payload, err = io.ReadAll(z); err != nil {
				return a, err
			}
			a.messages = append(a.messages, "z"+string(payload))
			continue
		}
		switch first {
		case bitFin | opText:
			a.messages = append(a.messages, "t"+string(payload))
		case bitFin | opBinary:
			a.messages = append(a.messages, "b"+string(payload))
		case bitFin | opPong:
			a.pongs = append(a.pongs, string(payload))
		case bitFin | opClose:
			switch a.code = noStatus; len(payload) {
			case 0:
			case 2:
				a.code = int(binary.BigEndian.Uint16(payload))
			default:
				return a, fmt.Errorf("a close frame with %q", payload)
			}
		default:
			return a, fmt.Errorf("a frame that begins with %#x", first)
		}
	}
}

func serverFrame(br *bufio.Reader) (first byte, payload []byte, err error) {
	var h [8]byte
	if _, err := io.ReadFull(br, h[:2]); err != nil {
		return 0, nil, err
	}
	first = h[0]
	n, least := int(h[1]), 0
	switch {
	case h[1]&bitMask != 0:
		return first, nil, fmt.Errorf("a frame %#x with a mask", first)
	case n == 126:
		_, err = io.ReadFull(br, h[:2])
		n, least = int(binary.BigEndian.Uint16(h[:])), 126
	case n == 127:
		_, err = io.ReadFull(br, h[:8])
		n, least = int(binary.BigEndian.Uint64(h[:])), 1<<16
	}
	if err == nil && (n < least || n > rfcMax || first&0x0f >= opClose && n > maxControl) {
		err = fmt.Errorf("a frame %#x with a length of %d", first, n)
	}
	if err != nil {
		return first, nil, err
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(br, payload)
	return first, payload, err
}
