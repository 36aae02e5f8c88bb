package transport

import (
	"bytes"
	"compress/flate"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"tether/engine"
	"tether/internal/socketio"
)

// permessage-deflate, RFC 7692, without context takeover in either direction: a connection that is
// idle keeps no window, and a packet is compressed once for all its receivers.

// compressFrom is the payload, in bytes, from which a frame is compressed.
const compressFrom = 1 << 10

var (
	deflaters = sync.Pool{New: func() any {
		w, _ := flate.NewWriter(nil, flate.BestSpeed) // the level is valid
		return w
	}}
	inflaters = sync.Pool{New: func() any { return flate.NewReader(nil) }}
)

// format is what the client of a WebSocket connection has asked for.
type format uint8

const (
	formatDeflate format = 1 << iota // larger frames may be compressed
	formatBase64                     // attachments are text: it cannot take binary frames
)

func (f format) compressed() bool { return f&formatDeflate != 0 }

// frames is p as it goes over a WebSocket connection.
func frames(p *engine.Packet, f format) []byte {
	switch {
	case f == 0:
		return p.Frames()
	case f&formatBase64 != 0 && p.Attachments() > 0:
		return textFrames(p)
	case !f.compressed() || p.Size() < compressFrom:
		return p.Frames()
	}
	return p.Compact(deflate)
}

// textFrames is p without binary frames.
func textFrames(p *engine.Packet) []byte {
	b := make([]byte, 0, p.Size()+p.Size()/2)
	if text := p.Text(); len(text) > 0 {
		b = append(engine.AppendFrameHeader(b, engine.FinText, len(text)), text...)
	}
	for i := range p.Attachments() {
		text := socketio.AppendBinary(nil, p.Attachment(i))
		b = append(engine.AppendFrameHeader(b, engine.FinText, len(text)), text...)
	}
	return b
}

// deflate is p with its larger frames compressed.
func deflate(p *engine.Packet) []byte {
	b := bytes.NewBuffer(make([]byte, 0, p.Size()/2))
	if text := p.Text(); len(text) > 0 {
		deflateFrame(b, opText, text)
	}
	for i := range p.Attachments() {
		deflateFrame(b, opBinary, p.Attachment(i))
	}
	return b.Bytes()
}

// deflateFrame appends a frame to b, compressed unless that makes it larger.
func deflateFrame(b *bytes.Buffer, op byte, payload []byte) {
	if len(payload) >= compressFrom {
		var c bytes.Buffer
		w := deflaters.Get().(*flate.Writer)
		w.Reset(&c)
		w.Write(payload) // into memory: cannot fail
		w.Flush()
		deflaters.Put(w)
		// Section 7.2.1: the empty block that Flush ends with is left out.
		if small := bytes.TrimSuffix(c.Bytes(), []byte{0, 0, 0xff, 0xff}); len(small) < len(payload) {
			op, payload = op|bitRSV1, small
		}
	}
	var h [10]byte
	b.Write(engine.AppendFrameHeader(h[:0], bitFin|op, len(payload)))
	b.Write(payload)
}

// inflateTail is what section 7.2.2 appends to a message, and an empty final block, which ends it.
const inflateTail = "\x00\x00\xff\xff\x01\x00\x00\xff\xff"

// compressed is a message as it came, and inflateTail behind it. As an [io.ByteReader] it is read no
// further than the final block.
type compressed struct {
	data []byte
	tail string
}

func (c *compressed) Read(p []byte) (n int, err error) {
	if len(c.data) > 0 {
		n = copy(p, c.data)
		c.data = c.data[n:]
		return n, nil
	}
	if len(c.tail) == 0 {
		return 0, io.EOF
	}
	n = copy(p, c.tail)
	c.tail = c.tail[n:]
	return n, nil
}

func (c *compressed) ReadByte() (byte, error) {
	var b [1]byte
	_, err := c.Read(b[:])
	return b[0], err
}

// over reports whether nothing of the message is left. A client may end it with a final block of its
// own, behind which there is an empty one, section 7.2.3.4.
func (c *compressed) over() bool {
	return len(c.data) == 0 || len(c.data) == 1 && c.data[0] == 0
}

// inflate decompresses a message of at most max bytes. Memory grows with what comes out.
func inflate(data []byte, max int) ([]byte, error) {
	r := inflaters.Get().(io.ReadCloser)
	defer inflaters.Put(r)
	c := &compressed{data, inflateTail}
	r.(flate.Resetter).Reset(c, nil)
	out, err := io.ReadAll(io.LimitReader(r, int64(max)+1))
	switch {
	case len(out) > max:
		return nil, faultTooBig
	case err != nil || !c.over():
		return nil, faultEncoding
	}
	return out, nil
}

var errNoOffer = errors.New("transport: offer not taken")

// negotiate chooses from a client's offers, section 7.1, and returns the extension as it stands in
// the answer, or nothing.
func negotiate(h http.Header) string {
	for _, value := range h["Sec-Websocket-Extensions"] {
		for offer := range strings.SplitSeq(value, ",") {
			if answer, err := takeOffer(offer); err == nil {
				return answer
			}
		}
	}
	return ""
}

func takeOffer(offer string) (string, error) {
	name, params, more := strings.Cut(offer, ";")
	if strings.TrimSpace(name) != "permessage-deflate" {
		return "", errNoOffer
	}
	answer := "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	if !more {
		return answer, nil
	}
	seen := make(map[string]bool)
	for param := range strings.SplitSeq(params, ";") {
		key, value, valued := strings.Cut(param, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if seen[key] {
			return "", errNoOffer
		}
		seen[key] = true
		switch {
		case !valued && (key == "server_no_context_takeover" || key == "client_no_context_takeover"):
		case key == "client_max_window_bits" && (!valued || windowBits(value) > 0): // leaves the choice to this side, which has none
		case key == "server_max_window_bits" && windowBits(value) == 15: // the compressor has one window size
			answer += "; server_max_window_bits=15"
		default:
			return "", errNoOffer
		}
	}
	return answer, nil
}

// windowBits reads the value of a parameter, 8 to 15, section 7.1.2. Of anything else it is 0.
func windowBits(value string) int {
	if n := len(value); n > 2 && value[0] == '"' && value[n-1] == '"' {
		value = value[1 : n-1]
	}
	n, err := strconv.Atoi(value)
	if err != nil || n < 8 || n > 15 || strconv.Itoa(n) != value {
		return 0
	}
	return n
}
