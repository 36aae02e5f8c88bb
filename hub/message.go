package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"

	"tether/engine"
	"tether/internal/socketio"
)

// Message is an event that a client has sent, or its answer to one. Its methods may be called
// concurrently; it stays valid for as long as it is kept.
type Message struct {
	socket *Socket
	event  string
	ackID  uint64
	asks   bool
	acked  atomic.Bool

	args        [][]byte // JSON text, checked; without the event's name
	attachments [][]byte
}

// newMessage takes over data, the payload of p, and the attachments.
func newMessage(s *Socket, p socketio.Packet, data []byte, attachments [][]byte) *Message {
	m := &Message{socket: s, event: string(p.Event), ackID: p.ID, asks: p.HasID, attachments: attachments}
	if p.Args > 0 {
		m.args = socketio.SplitArray(make([][]byte, 0, p.Args), data)
		if p.Type == socketio.Event || p.Type == socketio.BinaryEvent {
			m.args = m.args[1:]
		}
	}
	return m
}

// Event is the event's name; empty for an answer. A number is its text.
func (m *Message) Event() string { return m.event }

// Len is the number of arguments.
func (m *Message) Len() int { return len(m.args) }

// Raw is the JSON text of argument i as the client sent it, or nil if there is none. Binary
// attachments are placeholder objects in it. The caller must not modify it.
func (m *Message) Raw(i int) json.RawMessage {
	if i < 0 || i >= len(m.args) {
		return nil
	}
	return m.args[i]
}

// Decode decodes argument i into what v points to, as encoding/json does. Binary attachments go into
// a Binary or []byte, at any depth. The error wraps ErrArgs.
func (m *Message) Decode(i int, v any) error {
	raw, err := m.argument(i)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%w: argument %d: %w", ErrArgs, i, err)
	}
	return nil
}

// argument is the JSON text of argument i, with its attachments in it.
func (m *Message) argument(i int) ([]byte, error) {
	raw := m.Raw(i)
	if raw == nil {
		return nil, fmt.Errorf("%w: argument %d is missing", ErrArgs, i)
	}
	if len(m.attachments) > 0 {
		return socketio.AppendReplaced(make([]byte, 0, len(raw)), raw, m.attachments), nil
	}
	return raw, nil
}

// Bind decodes the first arguments into what vs point to, and skips those that are nil. It is an
// error if there are fewer; more are ignored.
func (m *Message) Bind(vs ...any) error {
	for i, v := range vs {
		if v == nil {
			continue
		}
		if err := m.Decode(i, v); err != nil {
			return err
		}
	}
	return nil
}

// Args are the arguments as values to emit or to acknowledge with: text, numbers and the order of
// keys stay as they came, and binary stays binary.
func (m *Message) Args() []any {
	args := make([]any, len(m.args))
	for i, raw := range m.args {
		args[i] = m.pass(raw)
	}
	return args
}

// passed is an argument with placeholders in it, on its way from a message into another.
type passed struct {
	raw         []byte
	attachments [][]byte // of the whole message
}

// MarshalJSON is for values inside others, and for printing: binary becomes base64 text.
func (p passed) MarshalJSON() ([]byte, error) {
	return socketio.AppendReplaced(nil, p.raw, p.attachments), nil
}

func (m *Message) pass(raw []byte) any {
	if len(m.attachments) == 0 {
		return json.RawMessage(raw)
	}
	count, last := 0, 0
	socketio.AppendRemapped(nil, raw, func(num int) int {
		count, last = count+1, num
		return num
	})
	switch {
	case count == 0:
		return json.RawMessage(raw)
	case count == 1 && socketio.AppendReplaced(nil, raw, m.attachments)[0] == '"':
		return Binary(m.attachments[last])
	}
	return passed{raw, m.attachments}
}

// WantsAck reports whether the client waits for an acknowledgement.
func (m *Message) WantsAck() bool { return m.asks && m.event != "" }

// noHandler is the message of a refusal that says so.
const noHandler = "no handler for this event"

// unhandled reports whether an answer says that there is no handler.
func (m *Message) unhandled() bool {
	var r struct{ Message string }
	return len(m.args) == 2 && string(m.args[0]) == "null" && len(m.args[1]) <= maxRefusal && json.Unmarshal(m.args[1], &r) == nil && r.Message == noHandler
}

// maxRefusal is how long an answer may be, in bytes, that is looked at for that.
const maxRefusal = 256

// fail tells a client that waits for an answer what the application refuses, or what its mistake was. Of
// other errors it is told nothing, so that it may try again. err may be nil.
func (m *Message) fail(err error) {
	if err == nil || !m.WantsAck() || m.acked.Load() {
		return
	}
	var refusal *Refusal
	switch {
	case errors.As(err, &refusal):
	case errors.Is(err, ErrArgs):
		refusal = &Refusal{Message: unfit(err)}
	default:
		return
	}
	if err := m.Ack(nil, refusalText(refusal)); err != nil && !errors.Is(err, errAcked) && !errors.Is(err, ErrDisconnected) {
		m.socket.client.hub.log.Error("a refusal cannot be sent", "event", loggable(m.event, maxLoggedName), "error", err)
	}
}

// unfit says in the client's words why its arguments do not fit.
func unfit(err error) string {
	text := "arguments do not fit"
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) && wrong.Field != "" {
		text += fmt.Sprintf(": %q cannot be a %s", wrong.Field, wrong.Value)
	}
	return text
}

// Ack answers the event. It does nothing if the client does not want an answer, and returns an error
// if it has had one. It may be called after the handler has returned.
func (m *Message) Ack(args ...any) error {
	if !m.WantsAck() {
		return nil
	}
	e := newEncoder()
	defer e.free()
	if err := e.ack(args); err != nil {
		return err
	}
	if m.acked.Swap(true) {
		return errAcked
	}
	p, err := e.packet(socketio.Packet{
		Type: socketio.Ack, Namespace: m.socket.ns.name, ID: m.ackID, HasID: true,
	}, engine.Terms{Control: true})
	if err != nil {
		return err
	}
	return m.socket.push(p)
}
