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
	src   io.Reader
	buf   []byte
	r, w  int
	block func() error // called before a Read of src, which may block; nil: nothing
}

func newReader(src io.Reader) *reader {
	return &reader{src: src, buf: make([]byte, bufferSize)}
}

// fill reads more, after making room by dropping what has been consumed.
func (d *reader) fill() error {
	if d.r > 0 {
		copy(d.buf, d.buf[d.r:d.w])
		d.w -= d.r
		d.r = 0
	}
	if d.w == len(d.buf) {
		return errProtocol // a line that is longer than the buffer
	}
	if d.block != nil {
		if err := d.block(); err != nil {
			return err
		}
	}
	for range 100 {
		n, err := d.src.Read(d.buf[d.w:])
		d.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
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

// header reads a line that must begin with kind and go on with a number. An error reply in its place
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

func (d *reader) bulkLen() (int, error) {
	n, err := d.header('$')
	if err != nil {
		return 0, err
	}
	return checkLen(n)
}

func checkLen(n int64) (int, error) {
	if n < 0 || n > maxBulk {
		return 0, errProtocol
	}
	return int(n), nil
}

// bulk returns the next bulk string, valid until the next call.
func (d *reader) bulk() ([]byte, error) {
	n, err := d.bulkLen()
	if err != nil {
		return nil, err
	}
	return d.body(n)
}

// body returns the n bytes of a bulk string whose first line has been read, valid until the next call.
func (d *reader) body(n int) ([]byte, error) {
	if n+2 > len(d.buf) {
		return d.read(n)
	}
	for d.w-d.r < n+2 {
		if err := d.fill(); err != nil {
			return nil, err
		}
	}
	b := d.buf[d.r : d.r+n]
	if d.buf[d.r+n] != '\r' || d.buf[d.r+n+1] != '\n' {
		return nil, errProtocol
	}
	d.r += n + 2
	return b, nil
}

// bulkCopy returns the next bulk string in memory of its own.
func (d *reader) bulkCopy() ([]byte, error) {
	n, err := d.bulkLen()
	if err != nil {
		return nil, err
	}
	return d.read(n)
}

// read returns the next n bytes in memory of their own, and takes the line's end that follows.
func (d *reader) read(n int) ([]byte, error) {
	b := make([]byte, min(n, bulkStep))
	for have := 0; ; {
		m := copy(b[have:], d.buf[d.r:d.w])
		d.r += m
		have += m
		if have < len(b) {
			if d.block != nil {
				if err := d.block(); err != nil {
					return nil, err
				}
			}
			m, err := io.ReadAtLeast(d.src, b[have:], 1)
			if err != nil {
				return nil, err
			}
			have += m
		}
		if have < len(b) {
			continue
		}
		if have == n {
			return b, d.crlf()
		}
		grown := make([]byte, min(n, 2*len(b)))
		copy(grown, b)
		b = grown
	}
}

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
	case kind == '$' && n >= 0 && n <= maxBulk:
		b, err := d.read(int(n))
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

// hello reads the answer to HELLO: whether the server is a master, and in which mode it is. Both are "" if it
// refuses to say.
func (d *reader) hello() (role, mode string, refused serverError, err error) {
	n, err := d.header('*')
	if errors.As(err, &refused) {
		return "", "", refused, nil
	}
	for i := int64(0); err == nil && i+1 < n; i += 2 {
		var key []byte
		if key, err = d.bulk(); err != nil {
			break
		}
		switch string(key) {
		case "role":
			role, err = d.word("master")
		case "mode":
			mode, err = d.word("standalone")
		default:
			err = d.skip(0)
		}
	}
	return role, mode, "", err
}

// word reads a bulk string that most often is one that is known.
func (d *reader) word(usual string) (string, error) {
	b, err := d.bulk()
	if string(b) == usual {
		return usual, err
	}
	return string(b), err
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
		_, err = d.body(int(n))
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

// expectOK turns a reply other than OK into an error.
func expectOK(v any) error {
	switch v := v.(type) {
	case serverError:
		return v
	case string:
		if v == "OK" {
			return nil
		}
	}
	return fmt.Errorf("%w: got %T for OK", errProtocol, v)
}
