package hub

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"unicode/utf8"

	"tether/broker"
	"tether/engine"
	"tether/internal/socketio"
)

// encoder makes the payload of an event or an acknowledgement: a JSON array, with placeholders for
// its attachments.
type encoder struct {
	buf         bytes.Buffer
	json        *json.Encoder // writes to buf
	attachments [][]byte
	messages    []broker.Message // memory for those of a batch
	lent        []byte           // memory for their data, if they are lent
}

// What is kept for the next.
const (
	maxPooledEncoder  = 64 << 10 // bytes of a buffer
	maxPooledMessages = 64
)

var encoders = sync.Pool{New: func() any {
	e := new(encoder)
	e.json = json.NewEncoder(&e.buf)
	e.json.SetEscapeHTML(false)
	return e
}}

func newEncoder() *encoder { return encoders.Get().(*encoder) }

// free gives e back. What payload has returned must not be used afterwards.
func (e *encoder) free() {
	if e.buf.Cap() > maxPooledEncoder {
		return
	}
	e.buf.Reset()
	e.attachments = nil
	clear(e.messages)
	if e.messages = e.messages[:0]; cap(e.messages) > maxPooledMessages {
		e.messages = nil
	}
	if e.lent = e.lent[:0]; cap(e.lent) > maxPooledEncoder {
		e.lent = nil
	}
	encoders.Put(e)
}

// lend returns memory for size bytes, until free.
func (e *encoder) lend(size int) []byte {
	n := len(e.lent)
	if n+size > cap(e.lent) { // the messages so far keep what they have
		n, e.lent = 0, make([]byte, 0, max(size, 2*cap(e.lent)))
	}
	e.lent = e.lent[:n+size]
	return e.lent[n : n : n+size]
}

var (
	errNotUTF8 = errors.New("hub: encode: JSON is not valid UTF-8")
	errForged  = errors.New("hub: encode: an argument looks like the placeholder of an attachment")
)

// event encodes the payload of an event.
func (e *encoder) event(name string, args []any) error {
	e.buf.WriteByte('[')
	if err := e.text(name); err != nil {
		return err
	}
	for i, arg := range args {
		e.buf.WriteByte(',')
		if err := e.value(arg); err != nil {
			return fmt.Errorf("hub: encode argument %d of event %q: %w", i, name, err)
		}
	}
	return e.finish()
}

// ack encodes the payload of an acknowledgement.
func (e *encoder) ack(args []any) error {
	e.buf.WriteByte('[')
	for i, arg := range args {
		if i > 0 {
			e.buf.WriteByte(',')
		}
		if err := e.value(arg); err != nil {
			return fmt.Errorf("hub: encode argument %d of an acknowledgement: %w", i, err)
		}
	}
	return e.finish()
}

func (e *encoder) finish() error {
	e.buf.WriteByte(']')
	if len(e.attachments) > engine.MaxAttachments {
		return errTooManyAttachments
	}
	if !utf8.Valid(e.buf.Bytes()) { // a client would close the connection
		return errNotUTF8
	}
	if n := len(e.attachments); n > 0 && socketio.Placeholders(e.buf.Bytes(), n) != nil {
		return errForged // a client may have sent it as text; another would close the connection
	}
	return nil
}

// frames appends the whole packet, as WebSocket frames, to dst. head says what comes before the
// payload; its type is Event or Ack.
func (e *encoder) frames(dst []byte, head socketio.Packet) []byte {
	if n := len(e.attachments); n > 0 {
		head.Attachments = n
		switch head.Type {
		case socketio.Event:
			head.Type = socketio.BinaryEvent
		case socketio.Ack:
			head.Type = socketio.BinaryAck
		}
	}
	var scratch [64]byte
	header := socketio.AppendHeader(scratch[:0], head)
	payload := e.buf.Bytes()
	dst = engine.AppendFrameHeader(dst, engine.FinText, len(header)+len(payload))
	dst = append(dst, header...)
	dst = append(dst, payload...)
	for _, a := range e.attachments {
		dst = engine.AppendFrameHeader(dst, engine.FinBinary, len(a))
		dst = append(dst, a...)
	}
	return dst
}

// size is what frames appends, and a few bytes more.
func (e *encoder) size(head socketio.Packet) int {
	n := 2 + e.buf.Len()
	if head.Namespace != socketio.Root {
		n += len(head.Namespace) + 1
	}
	if head.HasID {
		n += 20
	}
	if len(e.attachments) > 0 {
		n += 4
	}
	n += engine.FrameHeader(n)
	for _, a := range e.attachments {
		n += engine.FrameHeader(len(a)) + len(a)
	}
	return n
}

// packet is the whole packet.
func (e *encoder) packet(head socketio.Packet, t engine.Terms) (*engine.Packet, error) {
	return engine.ParsePacket(t, e.frames(make([]byte, 0, e.size(head)), head))
}

func (e *encoder) value(v any) error {
	switch v := v.(type) {
	case nil:
		e.buf.WriteString("null")
	case string:
		return e.text(v)
	case int:
		e.buf.Write(strconv.AppendInt(e.buf.AvailableBuffer(), int64(v), 10))
	case Binary:
		e.attach(v)
	case []byte:
		e.attach(v)
	case json.RawMessage:
		if len(v) == 0 {
			v = json.RawMessage("null")
		}
		if !socketio.ValidJSON(v) {
			return errors.New("raw message is not valid JSON")
		}
		e.buf.Write(v)
	case passed:
		e.buf.Write(socketio.AppendRemapped(e.buf.AvailableBuffer(), v.raw, func(num int) int {
			e.attachments = append(e.attachments, v.attachments[num])
			return len(e.attachments) - 1
		}))
	default:
		return e.reflected(v)
	}
	return nil
}

func (e *encoder) text(v string) error {
	start := e.buf.Len()
	e.buf.WriteByte('"')
	e.buf.WriteString(v)
	if !plain(e.buf.Bytes()[start+1:]) {
		e.buf.Truncate(start)
		return e.reflected(v)
	}
	e.buf.WriteByte('"')
	return nil
}

// plain reports whether text stands in a JSON string as it is: ASCII without control characters,
// quotes and backslashes. It looks at eight bytes at a time: in each term the highest bit of a byte is
// set if it is another one. A borrow can only set it wrongly above such a byte.
func plain(text []byte) bool {
	const ones, highs = 0x0101010101010101, 0x8080808080808080
	for ; len(text) >= 8; text = text[8:] {
		w := binary.LittleEndian.Uint64(text)
		if ((w^ones*'"')-ones|(w^ones*'\\')-ones|(w-ones*' ')|w)&highs != 0 {
			return false
		}
	}
	for _, c := range text {
		if c < ' ' || c >= utf8.RuneSelf || c == '"' || c == '\\' {
			return false
		}
	}
	return true
}

func (e *encoder) attach(b []byte) {
	if b == nil {
		e.buf.WriteString("null")
		return
	}
	e.buf.Write(socketio.AppendPlaceholder(e.buf.AvailableBuffer(), len(e.attachments)))
	e.attachments = append(e.attachments, b)
}

func (e *encoder) reflected(v any) error {
	start := e.buf.Len()
	if err := e.json.Encode(v); err != nil {
		return err
	}
	e.buf.Truncate(e.buf.Len() - 1) // the line feed
	text := e.buf.Bytes()[start:]
	if !bytes.Contains(text, marker) {
		return nil
	}
	text = bytes.Clone(text)
	e.buf.Truncate(start)
	for {
		before, value, after, ok := cutMarked(text)
		e.buf.Write(before)
		if !ok {
			return nil
		}
		e.attach(value)
		text = after
	}
}
