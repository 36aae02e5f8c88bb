package relay

import (
	"encoding/binary"
	"net/http"
	"strings"

	"tether/internal/wire"
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
	dst = wire.AppendText(wire.AppendText(dst, q.method), q.query)
	dst = appendHeader(dst, q.header)
	dst = binary.AppendUvarint(dst, uint64(q.length))
	return append(binary.AppendUvarint(dst, q.number), q.body...)
}

func parseRequest(b []byte) (q request, ok bool) {
	r := read(b)
	q.method, q.query = r.text(), r.text()
	q.header = r.header()
	q.length = int(r.uvarint(maxLength))
	q.number = r.uvarint(1 << 62)
	q.body = r.Data
	return q, !r.Bad && (q.number != 0 || len(q.body) == q.length)
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
	r := read(b)
	status, h = int(r.uvarint(999)), r.header()
	if r.Bad || status < 200 {
		return 0, nil, nil, errMalformed
	}
	return status, h, r.Data, nil
}

func appendNumber(dst []byte, n uint64) []byte { return binary.AppendUvarint(dst, n) }

func parseNumber(b []byte) (n uint64, ok bool) {
	r := read(b)
	n = r.uvarint(1 << 62)
	return n, r.Done()
}

func appendHeader(dst []byte, h http.Header) []byte {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	dst = binary.AppendUvarint(dst, uint64(n))
	for name, values := range h {
		for _, v := range values {
			dst = wire.AppendText(wire.AppendText(dst, name), v)
		}
	}
	return dst
}

// reader takes a message of this package apart.
type reader struct{ wire.Reader }

func read(message []byte) reader { return reader{wire.Reader{Data: message}} }

func (r *reader) uvarint(limit uint64) uint64 {
	v := r.Uvarint()
	if v > limit {
		r.Fail()
		return 0
	}
	return v
}

func (r *reader) text() string { return r.Text(maxText) }

// header reads headers; one with a line break in it would be two.
func (r *reader) header() http.Header {
	h := http.Header{}
	for range r.uvarint(maxHeaders) {
		name, value := r.text(), r.text()
		r.Bad = r.Bad || strings.ContainsAny(name+value, "\r\n\x00")
		h.Add(name, value)
	}
	return h
}
