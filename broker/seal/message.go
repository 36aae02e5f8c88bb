package seal

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
	"encoding/binary"
	"sync"

	"tether/broker"
)

// A message that is not plain is
//
//	byte      version
//	byte      mode
//	4 bytes   ID of the key
//	16 bytes  publisher, random
//	6 bytes   number of the message, big endian; each publisher counts its own
//	6 bytes   milliseconds since 1970, big endian
//	rest      body, and 16 bytes of tag
//
// AES-256-GCM has a key of its own for each publisher, made of the shared one and the publisher's name, so that
// the last two numbers are a nonce that no two messages share. A sealed body is encrypted; the head and the
// subject are the additional data. An authenticated body and the head are the additional data, and the subject
// is what is encrypted: only its tag travels, and the receiver makes it again. So the body is not copied to be
// checked.
const (
	version = 0x81 // no envelope of the hub begins with it

	authenticated = 1
	sealed        = 2

	nameStart  = 2
	nonceStart = nameStart + len(name{})
	headSize   = nonceStart + nonceSize
	nonceSize  = 12
	tagSize    = 16

	// Overhead is by how many bytes a message grows.
	Overhead = headSize + tagSize
)

type keyID [4]byte

// name is what a publisher is known by: the ID of its key, and a random text.
type name [4 + 16]byte

func (n *name) key() keyID { return keyID(n[:4]) }

// cipherOf is the cipher of one publisher.
func cipherOf(k Key, n name) cipher.AEAD {
	block, err := aes.NewCipher(derive(k, n[4:], publisherInfo, 32))
	if err != nil {
		panic("seal: " + err.Error()) // the length is right
	}
	c, err := cipher.NewGCM(block)
	if err != nil {
		panic("seal: " + err.Error())
	}
	return c
}

// head is what a message says of itself, before any of it is checked.
type head struct {
	mode   byte
	name   name
	number uint64
	at     int64 // milliseconds
}

func isPlain(data []byte) bool { return len(data) == 0 || data[0] != version }

func parseHead(data []byte) (h head, ok bool) {
	if len(data) < Overhead || data[0] != version || data[1] != authenticated && data[1] != sealed {
		return h, false
	}
	h.mode = data[1]
	h.name = name(data[nameStart:nonceStart])
	h.number = uint48(data[nonceStart:])
	h.at = int64(uint48(data[nonceStart+6:]))
	return h, true
}

func appendHead(dst []byte, h *head) []byte {
	dst = append(dst, version, h.mode)
	dst = append(dst, h.name[:]...)
	dst = appendUint48(dst, h.number)
	return appendUint48(dst, uint64(h.at))
}

func uint48(b []byte) uint64 {
	return uint64(binary.BigEndian.Uint16(b))<<32 | uint64(binary.BigEndian.Uint32(b[2:]))
}

func appendUint48(dst []byte, v uint64) []byte {
	return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint16(dst, uint16(v>>32)), uint32(v))
}

// scratch is memory for one call.
type scratch struct {
	msgs []broker.Message // what is published
	lent []byte           // data of those that may be lent
	text []byte           // additional data, or a tag that is made again
	body []byte           // what has been opened
}

var scratches = sync.Pool{New: func() any { return new(scratch) }}

const maxScratch = 64 << 10 // bytes that are kept of each kind

func (s *scratch) free() {
	clear(s.msgs)
	if cap(s.lent)+cap(s.text)+cap(s.body) > maxScratch || cap(s.msgs) > maxScratch>>6 {
		return
	}
	scratches.Put(s)
}

// appendMessage appends what is sent in place of data.
func (s *scratch) appendMessage(dst []byte, c cipher.AEAD, h *head, subject string, data []byte) []byte {
	start := len(dst)
	dst = appendHead(dst, h)
	nonce := dst[start+nonceStart : start+headSize]
	if h.mode == sealed {
		return c.Seal(dst, nonce, data, s.additional(dst[start:], subject))
	}
	dst = append(dst, data...)
	return append(dst, s.tag(c, nonce, subject, dst[start:])...)
}

// additional is the additional data of a sealed message. It is good until the next call.
func (s *scratch) additional(head []byte, subject string) []byte {
	s.text = append(s.text[:0], head...)
	s.text = append(s.text, subject...)
	return s.text
}

// tag is the tag of an authenticated message, without it. It is good until the next call.
func (s *scratch) tag(c cipher.AEAD, nonce []byte, subject string, message []byte) []byte {
	s.text = append(s.text[:0], subject...)
	s.text = c.Seal(s.text[:0], nonce, s.text, message)
	return s.text[len(s.text)-tagSize:]
}

// open returns the body of a message: of a sealed one it lies in s, of an authenticated one in data.
func (s *scratch) open(c cipher.AEAD, h *head, subject string, data []byte) (body []byte, ok bool) {
	nonce, end := data[nonceStart:headSize], len(data)-tagSize
	if h.mode == sealed {
		body, err := c.Open(s.body[:0], nonce, data[headSize:], s.additional(data[:headSize], subject))
		if err != nil {
			return nil, false
		}
		s.body = body
		return body, true
	}
	if subtle.ConstantTimeCompare(s.tag(c, nonce, subject, data[:end]), data[end:]) != 1 {
		return nil, false
	}
	return data[headSize:end:end], true
}
