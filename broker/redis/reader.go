package redis

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Limits of what is read, so that no length on the wire decides what is allocated.
const (
	bufferSize = 64 << 10  // also the longest line
	maxBulk    = 512 << 20 // Redis's own default limit
	maxArray   = 1 << 20   // elements of a reply
	maxDepth   = 4         // of arrays in arrays
	bulkStep   = 1 << 20   // a bulk grows by no more than this, or doubles, as its bytes arrive
)

// serverError is an error reply of Redis.
type serverError string

func (e serverError) Error() string { return "redis: " + string(e) }

// code is its first word, by which errors are told apart. A text without such a word is an ERR.
func (e serverError) code() string {
	word, _, _ := strings.Cut(string(e), " ")
	if word != strings.ToUpper(word) {
		return "ERR"
	}
	return word
}

var errProtocol = errors.New("redis: malformed reply")

// reader reads RESP2, the serialisation protocol of Redis.
type reader struct {
	src  io.Reader
	buf  []byte
	r, w int
}

func newReader(src io.Reader) *reader {
	return &reader{src: src, buf: make([]byte, bufferSize)}
}

// fill reads more, after making room by dropping what has been consumed.
func (d *reader) fill() error {
	d.w = copy(d.buf, d.buf[d.r:d.w])
	d.r = 0
	if d.w == len(d.buf) {
		return errProtocol // a line that is longer than the buffer
	}
	n, err := io.ReadAtLeast(d.src, d.buf[d.w:], 1)
	d.w += n
	return err
}

// Read reads what comes next, past the buffer if that is empty.
func (d *reader) Read(p []byte) (int, error) {
	if d.r == d.w {
		return d.src.Read(p)
	}
	n := copy(p, d.buf[d.r:d.w])
	d.r += n
	return n, nil
}

// line returns the next line without its end. It is valid until the next call.
func (d *reader) line() ([]byte, error) {
	seen := 0
	for {
		if i := bytes.IndexByte(d.buf[d.r+seen:d.w], '\n'); i >= 0 {
			line := d.buf[d.r : d.r+seen+i]
			d.r += seen + i + 1
			if len(line) < 2 || line[len(line)-1] != '\r' {
				return nil, errProtocol
			}
			return line[:len(line)-1], nil
		}
		seen = d.w - d.r
		if err := d.fill(); err != nil {
			return nil, err
		}
	}
}

// number parses what follows the type byte of a line: an optional sign and digits.
func number(b []byte) (int64, error) {
	neg := len(b) > 1 && b[0] == '-'
	if neg {
		b = b[1:]
	}
	if len(b) == 0 || len(b) > 18 {
		return 0, errProtocol
	}
	var n int64
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, errProtocol
		}
		n = n*10 + int64(c-'0')
	}
	if neg {
		n = -n
	}
	return n, nil
}

// header reads a line that must begin with kind and go on with a number. An error reply instead
// is returned as a serverError, after which reading can go on.
func (d *reader) header(kind byte) (int64, error) {
	line, err := d.line()
	if err != nil {
		return 0, err
	}
	switch line[0] {
	case kind:
		return number(line[1:])
	case '-':
		return 0, serverError(line[1:])
	}
	return 0, foreign(line)
}

// foreign is the error for a line that is no reply at all.
func foreign(line []byte) error {
	return fmt.Errorf("%w, beginning with %q", errProtocol, line[:min(len(line), 5)])
}

// bulk returns the next bulk string, valid until the next call.
func (d *reader) bulk() ([]byte, error) {
	n, err := d.header('$')
	if err != nil {
		return nil, err
	}
	return d.body(n)
}

// bulkCopy returns the next bulk string in memory of its own.
func (d *reader) bulkCopy() ([]byte, error) {
	n, err := d.header('$')
	if err != nil {
		return nil, err
	}
	return d.read(n)
}

// body returns the n bytes of a bulk string whose first line has been read, valid until the next call.
func (d *reader) body(n int64) ([]byte, error) {
	if n < 0 || n > int64(len(d.buf))-2 {
		return d.read(n)
	}
	for d.w-d.r < int(n)+2 {
		if err := d.fill(); err != nil {
			return nil, err
		}
	}
	b := d.buf[d.r : d.r+int(n)]
	d.r += int(n)
	return b, d.crlf()
}

// read returns the next n bytes in memory of their own, and takes the line's end that follows.
func (d *reader) read(n int64) ([]byte, error) {
	if n < 0 || n > maxBulk {
		return nil, errProtocol
	}
	b := make([]byte, min(n, bulkStep))
	for have := 0; ; {
		if _, err := io.ReadFull(d, b[have:]); err != nil {
			return nil, err
		}
		if have = len(b); have == int(n) {
			return b, d.crlf()
		}
		b = append(b, make([]byte, min(int(n)-have, have))...)
	}
}

// crlf takes the end of a line.
func (d *reader) crlf() error {
	for d.w-d.r < 2 {
		if err := d.fill(); err != nil {
			return err
		}
	}
	if d.buf[d.r] != '\r' || d.buf[d.r+1] != '\n' {
		return errProtocol
	}
	d.r += 2
	return nil
}

// integer reads an integer reply.
func (d *reader) integer() (int64, error) { return d.header(':') }

// reply reads any reply: a string, an int64, a serverError, nil, or a []any of those.
func (d *reader) reply() (any, error) { return d.replyAt(0) }

func (d *reader) replyAt(depth int) (any, error) {
	line, err := d.line()
	if err != nil {
		return nil, err
	}
	switch line[0] {
	case '+':
		return string(line[1:]), nil
	case '-':
		return serverError(line[1:]), nil
	}
	n, err := number(line[1:])
	if err != nil {
		return nil, foreign(line)
	}
	switch kind := line[0]; {
	case kind == ':':
		return n, nil
	case n == -1 && (kind == '$' || kind == '*'):
		return nil, nil
	case kind == '$':
		b, err := d.read(n)
		return string(b), err
	case kind == '*' && n >= 0 && n <= maxArray && depth < maxDepth:
		list := make([]any, 0, min(n, 1024))
		for range n {
			v, err := d.replyAt(depth + 1)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	return nil, errProtocol
}

// role reads the answer to HELLO: what the server is. It is "" if the server refuses to say.
func (d *reader) role() (role string, err error) {
	n, err := d.header('*')
	if _, refused := errors.AsType[serverError](err); refused {
		return "", nil
	}
	for i := int64(0); err == nil && i+1 < n; i += 2 {
		var b []byte
		if b, err = d.bulk(); err != nil {
			break
		}
		if string(b) != "role" {
			err = d.skip(0)
		} else if b, err = d.bulk(); string(b) == "master" {
			role = "master"
		} else {
			role = string(b)
		}
	}
	return role, err
}

// skip reads any reply and forgets it.
func (d *reader) skip(depth int) error {
	line, err := d.line()
	if err != nil {
		return err
	}
	kind := line[0]
	if kind == '+' || kind == '-' || kind == ':' {
		return nil
	}
	n, err := number(line[1:])
	switch {
	case err != nil || n > maxArray || depth >= maxDepth:
		return errProtocol
	case kind == '$' && n >= 0:
		_, err = d.body(n)
		return err
	case kind == '*':
		for range max(n, 0) {
			if err := d.skip(depth + 1); err != nil {
				return err
			}
		}
	}
	return nil
}

// appendCommand appends a command to dst.
func appendCommand(dst []byte, args ...string) []byte {
	dst = appendHeader(dst, '*', len(args))
	for _, a := range args {
		dst = appendBulk(dst, a)
	}
	return dst
}

func appendBulk(dst []byte, s string) []byte {
	dst = appendHeader(dst, '$', len(s))
	dst = append(dst, s...)
	return append(dst, '\r', '\n')
}

func appendHeader(dst []byte, kind byte, n int) []byte {
	dst = append(dst, kind)
	dst = strconv.AppendInt(dst, int64(n), 10)
	return append(dst, '\r', '\n')
}
