package relay

import (
	"encoding/binary"
	"net/http"
	"strings"
)

// request is a request on its way.
//
//	text     method
//	text     query
//	uvarint  number of headers, and each one's name and value as texts
//	uvarint  length of the body
//	uvarint  number by which the body is asked for; 0: it follows
//	rest     body
type request struct {
	method, query string
	header        http.Header
	length        int
	number        uint64
	body          []byte
}

// The largest that are read.
const (
	maxText    = 16 << 10 // bytes of a name or a value
	maxHeaders = 64
	maxLength  = 1 << 30 // of a body: as transport.Options.MaxPayload
)

func (q *request) append(dst []byte) []byte {
	dst = appendText(appendText(dst, q.method), q.query)
	dst = appendHeader(dst, q.header)
	dst = binary.AppendUvarint(dst, uint64(q.length))
	return append(binary.AppendUvarint(dst, q.number), q.body...)
}

func parseRequest(b []byte) (q request, ok bool) {
	c := cutter{rest: b}
	q.method, q.query = c.text(), c.text()
	q.header = c.header()
	q.length = int(c.uvarint(maxLength))
	q.number = c.uvarint(1 << 62)
	q.body = c.rest
	return q, !c.bad && (q.number != 0 || len(q.body) == q.length)
}

// appendHead appends what an answer begins with.
//
//	uvarint  status
//	uvarint  number of headers, and each one's name and value as texts
//	rest     the first part of the body
func appendHead(dst []byte, status int, h http.Header) []byte {
	return appendHeader(binary.AppendUvarint(dst, uint64(status)), h)
}

func parseHead(b []byte) (status int, h http.Header, rest []byte, err error) {
	c := cutter{rest: b}
	status, h = int(c.uvarint(999)), c.header()
	if c.bad || status < 200 {
		return 0, nil, nil, errMalformed
	}
	return status, h, c.rest, nil
}

func appendNumber(dst []byte, n uint64) []byte { return binary.AppendUvarint(dst, n) }

func parseNumber(b []byte) (n uint64, ok bool) {
	c := cutter{rest: b}
	n = c.uvarint(1 << 62)
	return n, !c.bad && len(c.rest) == 0
}

func appendText(dst []byte, s string) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

func appendHeader(dst []byte, h http.Header) []byte {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	for name, values := range h {
		for _, v := range values {
			dst = appendText(appendText(dst, name), v)
		}
	}
	return dst
}

// cutter takes a message apart. It gives zero values once something did not fit.
type cutter struct {
	rest []byte
	bad  bool
}

func (c *cutter) uvarint(limit uint64) uint64 {
	v, n := binary.Uvarint(c.rest)
	if n <= 0 || v > limit {
		c.bad, c.rest = true, nil
		return 0
	}
	c.rest = c.rest[n:]
	return v
}

func (c *cutter) text() string {
	n := c.uvarint(maxText)
	if n > uint64(len(c.rest)) {
		c.bad, c.rest = true, nil
		return ""
	}
	s := string(c.rest[:n])
	c.rest = c.rest[n:]
	return s
}

// header reads headers; one with a line break in it would be two.
func (c *cutter) header() http.Header {
	h := http.Header{}
	for range c.uvarint(maxHeaders) {
		name, value := c.text(), c.text()
		c.bad = c.bad || strings.ContainsAny(name+value, "\r\n\x00")
		h.Add(name, value)
	}
	return h
}
