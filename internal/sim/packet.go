package sim

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strconv"
)

// namespaceOf is the namespace of a packet of the hub's, "40/b,{}" say.
func namespaceOf(text []byte) string {
	rest := bytes.TrimLeft(text, "0123456789-")
	if len(rest) == 0 || rest[0] != '/' {
		return "/"
	}
	name, _, _ := bytes.Cut(rest, []byte(","))
	return string(name)
}

// packet is what a client understands of a packet, by a parser that has nothing in common with the
// hub's.
type packet struct {
	kind      byte // Socket.IO's digit
	namespace string
	id        string // digits, "" if there is none
	data      []byte // JSON
	binary    [][]byte
}

// parse reads a packet, and finds out whether its frames and its parts say the same.
func parse(s sent) (packet, error) {
	p := s.p
	if crc32.ChecksumIEEE(p.Frames()) != s.sum {
		return packet{}, fmt.Errorf("a packet was changed after it was sent: %q", p.Frames())
	}
	payloads, err := payloadsOf(p.Frames())
	if err != nil {
		return packet{}, err
	}
	if len(payloads) == 0 || !bytes.Equal(payloads[0], p.Text()) {
		return packet{}, fmt.Errorf("frames and text differ: %q and %q", payloads, p.Text())
	}
	k := packet{binary: payloads[1:]}
	for i, b := range k.binary {
		if p.Attachments() != len(k.binary) || !bytes.Equal(p.Attachment(i), b) {
			return k, fmt.Errorf("frames and attachments differ: %q", p.Frames())
		}
	}
	return k, k.read(p.Text())
}

// payloadsOf are the payloads of frames: a text, and behind it only binaries.
func payloadsOf(frames []byte) ([][]byte, error) {
	var payloads [][]byte
	for len(frames) > 0 {
		if len(frames) < 2 || frames[0] != 0x81 && frames[0] != 0x82 || frames[0] == 0x81 && len(payloads) > 0 {
			return nil, fmt.Errorf("not a frame: %q", frames)
		}
		n, head := int(frames[1]), 2
		switch n {
		case 126:
			n, head = int(binary.BigEndian.Uint16(frames[2:])), 4
		case 127:
			n, head = int(binary.BigEndian.Uint64(frames[2:])), 10
		}
		if head+n > len(frames) {
			return nil, fmt.Errorf("frame is longer than the packet: %q", frames)
		}
		payloads = append(payloads, frames[head:head+n])
		frames = frames[head+n:]
	}
	return payloads, nil
}

// read reads the text of a packet whose attachments are known.
func (k *packet) read(text []byte) error {
	whole := text
	if len(text) < 2 || text[0] != '4' {
		return fmt.Errorf("not a message: %q", whole)
	}
	k.kind, text = text[1], text[2:]
	if k.kind == '5' || k.kind == '6' {
		count, rest, _ := bytes.Cut(text, []byte("-"))
		if n, err := strconv.Atoi(string(count)); err != nil || n != len(k.binary) {
			return fmt.Errorf("%d attachments are not %q", len(k.binary), count)
		}
		text = rest
	} else if len(k.binary) > 0 {
		return fmt.Errorf("attachments of %q", whole)
	}
	k.namespace = "/"
	if len(text) > 0 && text[0] == '/' {
		name, rest, ok := bytes.Cut(text, []byte(","))
		if !ok {
			name, rest = text, nil
		}
		k.namespace, text = string(name), rest
	}
	end := 0
	for end < len(text) && '0' <= text[end] && text[end] <= '9' {
		end++
	}
	k.id, k.data = string(text[:end]), text[end:]
	if len(k.data) > 0 && !json.Valid(k.data) {
		return fmt.Errorf("not JSON: %q", whole)
	}
	return nil
}
