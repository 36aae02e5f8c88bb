// Package wire takes the messages apart that nodes send each other. Numbers are varints; a text is its length in bytes,
// a uvarint, and the bytes.
package wire

import "encoding/binary"

// AppendText appends a text to dst.
func AppendText[T string | []byte](dst []byte, s T) []byte {
	return append(binary.AppendUvarint(dst, uint64(len(s))), s...)
}

// Reader takes a message apart. It gives zero values once something did not fit.
type Reader struct {
	Data []byte // the rest
	Bad  bool   // something did not fit
}

// Fail notes that something does not fit. Nothing more is read.
func (r *Reader) Fail() { r.Bad, r.Data = true, nil }

// More reports whether there is something left to read.
func (r *Reader) More() bool { return len(r.Data) > 0 && !r.Bad }

// Done reports whether the message was as it has to be, to its end.
func (r *Reader) Done() bool { return !r.Bad && len(r.Data) == 0 }

func (r *Reader) Byte() byte {
	if len(r.Data) == 0 {
		r.Fail()
		return 0
	}
	b := r.Data[0]
	r.Data = r.Data[1:]
	return b
}

func (r *Reader) Uvarint() uint64 {
	v, n := binary.Uvarint(r.Data)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.Data = r.Data[n:]
	return v
}

func (r *Reader) Varint() int64 {
	v, n := binary.Varint(r.Data)
	if n <= 0 {
		r.Fail()
		return 0
	}
	r.Data = r.Data[n:]
	return v
}

// Fixed is a number of eight bytes, big endian.
func (r *Reader) Fixed() uint64 {
	if len(r.Data) < 8 {
		r.Fail()
		return 0
	}
	v := binary.BigEndian.Uint64(r.Data)
	r.Data = r.Data[8:]
	return v
}

// Count is a number of things that take a byte each at least.
func (r *Reader) Count() int {
	n := r.Uvarint()
	if n > uint64(len(r.Data)) {
		r.Fail()
		return 0
	}
	return int(n)
}

// Bytes is a text of at most limit bytes. It shares memory with the message.
func (r *Reader) Bytes(limit int) []byte {
	n := r.Uvarint()
	if n > uint64(limit) || n > uint64(len(r.Data)) {
		r.Fail()
		return nil
	}
	b := r.Data[:n:n]
	r.Data = r.Data[n:]
	return b
}

// Text is Bytes in memory of its own.
func (r *Reader) Text(limit int) string { return string(r.Bytes(limit)) }
