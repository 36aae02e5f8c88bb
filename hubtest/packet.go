package hubtest

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"regexp"

	"tether/engine"
	"tether/hub"
	"tether/internal/socketio"
)

// packet is what a client understands of a packet.
type packet struct {
	socketio.Packet

	args []json.RawMessage // of an event, without its name, or of an answer; binary is base64 text in them
}

func parse(p *engine.Packet) (packet, error) {
	text := bytes.Clone(p.Text())
	if len(text) == 0 || text[0] != socketio.EngineMessage {
		return packet{}, fmt.Errorf("it is no message")
	}
	head, err := socketio.Parse(text[1:], socketio.Limits{})
	if err != nil {
		return packet{}, err
	}
	in := packet{Packet: head}
	if head.Args == 0 {
		return in, nil
	}
	attachments := make([][]byte, p.Attachments())
	for i := range attachments {
		attachments[i] = bytes.Clone(p.Attachment(i))
	}
	for _, raw := range socketio.SplitArray(nil, head.Data) {
		if len(attachments) > 0 {
			raw = socketio.AppendReplaced(nil, raw, attachments)
		}
		in.args = append(in.args, raw)
	}
	if head.Type == socketio.Event || head.Type == socketio.BinaryEvent {
		in.args = in.args[1:]
	}
	return in, nil
}

// encode makes a packet of arguments: its text, and its attachments.
func encode(head socketio.Packet, name string, args []any) (text string, attachments [][]byte, err error) {
	if head.Type == socketio.Event {
		args = append([]any{name}, args...)
	}
	payload := []byte("[")
	for i, arg := range args {
		if i > 0 {
			payload = append(payload, ',')
		}
		if b, ok := arg.([]byte); ok {
			arg = hub.Binary(b)
		}
		text, err := json.Marshal(arg)
		if err != nil {
			return "", nil, fmt.Errorf("argument %d: %w", i, err)
		}
		payload = append(payload, binaries.ReplaceAllFunc(text, func(mark []byte) []byte {
			b, _ := base64.StdEncoding.AppendDecode([]byte{}, mark[len(binaryMark):len(mark)-1])
			attachments = append(attachments, b)
			return socketio.AppendPlaceholder(nil, len(attachments)-1)
		})...)
	}
	payload = append(payload, ']')
	if head.Attachments = len(attachments); head.Attachments > 0 {
		head.Type += socketio.BinaryEvent - socketio.Event
	}
	return string(socketio.AppendHeader(nil, head)) + string(payload), attachments, nil
}

// binaryMark begins the JSON string that a hub.Binary becomes for its encoder; see there.
var binaryMark = func() []byte {
	text, err := json.Marshal(hub.Binary{})
	if err != nil {
		panic(err)
	}
	return text[:len(text)-1]
}()

var binaries = regexp.MustCompile(regexp.QuoteMeta(string(binaryMark)) + `[A-Za-z0-9+/=]*"`)

// readable is JSON text as it is shown and compared: a hub.Binary is base64 text.
func readable(text []byte) []byte { return bytes.ReplaceAll(text, binaryMark, []byte{'"'}) }
