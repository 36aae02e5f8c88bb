package interop

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"net/http/httptest"
	"reflect"
	"strconv"
	"testing"

	"tether/engine"
	"tether/hub"
	"tether/internal/socketio"
)

// wire is a connection without a client: it keeps what the hub sends.
type wire struct{ packets chan *engine.Packet }

func (w *wire) ID() string          { return "secret" }
func (w *wire) Transport() string   { return "websocket" }
func (w *wire) Close(engine.Reason) {}

func (w *wire) Behind() (<-chan struct{}, error) { return nil, nil }

func (w *wire) SendLogged(e *engine.Entry, from *engine.Gate, log *engine.Log) error {
	if !log.Add(e, from) {
		return engine.ErrDisconnected
	}
	return w.Send(&e.Packet, from)
}
func (w *wire) Send(p *engine.Packet, _ *engine.Gate) error {
	w.packets <- p.Keep()
	return nil
}

// received is v as it is received: bytes as base64, everything else as it is after JSON.
func received(t testing.TB, v any) any {
	var walk func(v any) any
	walk = func(v any) any {
		switch v := v.(type) {
		case []any:
			out := make([]any, len(v))
			for i := range v {
				out[i] = walk(v[i])
			}
			return out
		case map[string]any:
			out := map[string]any{}
			for k := range v {
				out[k] = walk(v[k])
			}
			return out
		case bytesOf:
			return base64.StdEncoding.EncodeToString(v)
		}
		return v
	}
	return walk(v)
}

// emitted is v as an application emits it, and the number of its attachments.
func emitted(v any) (any, int) {
	switch v := v.(type) {
	case []any:
		out, n := make([]any, len(v)), 0
		for i := range v {
			e, m := emitted(v[i])
			out[i], n = e, n+m
		}
		return out, n
	case map[string]any:
		out, n := map[string]any{}, 0
		for k := range v {
			e, m := emitted(v[k])
			out[k], n = e, n+m
		}
		return out, n
	case bytesOf:
		return hub.Binary(v), 1
	}
	return v, 0
}

// arguments makes arguments with at most ten attachments, as they are emitted and as they are received.
func (g generator) arguments(t testing.TB) (args, want []any) {
	for {
		things := []any{}
		for range g.IntN(4) {
			things = append(things, g.thing(3, true))
		}
		if out, n := emitted(things); n <= 10 {
			return out.([]any), received(t, things).([]any)
		}
	}
}

// TestTheReferenceReadsWhatIsEmitted has a hub emit, answer and refuse, and asks the reference what it
// understands.
func TestTheReferenceReadsWhatIsEmitted(t *testing.T) {
	t.Parallel()
	ref := startReference(t)
	g := newGenerator(2)
	var ask []question
	var want []reply
	expect := func(p *engine.Packet, r reply) {
		q := question{Ask: "packet", Text: p.Text()[1:], Attachments: [][]byte{}}
		for i := range p.Attachments() {
			q.Attachments = append(q.Attachments, p.Attachment(i))
		}
		r.Attachments = p.Attachments()
		ask, want = append(ask, q), append(want, r)
	}

	var args []any // of the next answer
	var refusal any
	n := serve(t, setup{install: func(h *hub.Hub) {
		for _, name := range []string{"/", "/é"} {
			h.Of(name).On("question", func(_ context.Context, _ *hub.Socket, m *hub.Message) error { return m.Ack(args...) })
		}
		h.Of("/refuses").Use(func(context.Context, *hub.Socket) error { return hub.Refuse("no: \"é\"", refusal) })
	}})
	w := &wire{make(chan *engine.Packet, 16)}
	c, err := n.hub.Attach(w, httptest.NewRequest("GET", "/socket.io/?EIO=4&transport=websocket", nil))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Closed(engine.ReasonTransportClose)
	say := func(text string) {
		t.Helper()
		if err := c.Text([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	sockets := map[string]*hub.Socket{}
	for _, name := range []string{"/", "/é"} {
		say("0" + name + ",")
		answer := <-w.packets
		for s := range n.hub.Of(name).Sockets() {
			sockets[name] = s
			expect(answer, reply{Type: socketio.Connect, Namespace: name, Data: map[string]any{"sid": s.ID()}})
		}
		if name == "/" {
			<-w.packets // the welcome of internal/conformance
		}
	}
	for i := range 2000 {
		name := oneOf(g, []string{"/", "/é"})
		s := sockets[name]
		var expected []any
		args, expected = g.arguments(t)
		event := oneOf(g, []string{"a", "", "é\n\"", "/users/ping", "message"})
		all := reply{Type: socketio.Event, Namespace: name, Event: event, Data: append([]any{event}, expected...)}
		switch g.IntN(4) {
		case 0:
			err = s.Emit(event, args...)
		case 1:
			_, err = n.hub.Of(name).Emitter().Emit(t.Context(), hub.Everyone, event, args...)
		case 2:
			id := strconv.Itoa(i)
			say("2" + name + "," + id + `["question"]`)
			all = reply{Type: socketio.Ack, Namespace: name, ID: id, Data: expected}
		case 3:
			refusal = received(t, expected)
			say("0/refuses,")
			all = reply{Type: socketio.ConnectError, Namespace: "/refuses", Data: map[string]any{"message": "no: \"é\"", "data": refusal}}
		}
		if err != nil {
			t.Fatalf("%q %v: %v", event, args, err)
		}
		expect(<-w.packets, all)
	}
	for name, s := range sockets {
		s.Disconnect(false)
		expect(<-w.packets, reply{Type: socketio.Disconnect, Namespace: name, None: true})
	}
	attachments := 0
	for i, got := range ref.ask(t, ask...) {
		if !reflect.DeepEqual(got, want[i]) {
			t.Errorf("%q: got %+v, want %+v", ask[i].Text, got, want[i])
		}
		attachments += got.Attachments
	}
	t.Logf("figure: %d packets with %d attachments", len(ask), attachments)

	// The same in bodies, as a polling client gets them.
	var bodies []question
	var inBodies [][]enginePacket
	for len(ask) > 0 {
		var body []byte
		var packets []enginePacket
		for range min(1+g.IntN(16), len(ask)) {
			body = socketio.AppendText(body, append([]byte{socketio.EngineMessage}, ask[0].Text...))
			packets = append(packets, enginePacket{"message", false, string(ask[0].Text)})
			for _, a := range ask[0].Attachments {
				body = socketio.AppendBinary(body, a)
				packets = append(packets, enginePacket{"message", true, base64.StdEncoding.EncodeToString(a)})
			}
			ask = ask[1:]
		}
		bodies, inBodies = append(bodies, question{Ask: "payload", Text: body}), append(inBodies, packets)
	}
	for i, got := range ref.ask(t, bodies...) {
		if !reflect.DeepEqual(got.Packets, inBodies[i]) {
			t.Errorf("%q: got %+v", bodies[i].Text, got.Packets)
		}
	}
}

// TestWhatTheReferenceWritesIsUnderstood has the reference write packets and bodies.
func TestWhatTheReferenceWritesIsUnderstood(t *testing.T) {
	t.Parallel()
	ref := startReference(t)
	g := newGenerator(3)
	g.names = []string{"a", "b", "é", "num", "0", "<&>"} // the reference's encoder loses a member "__proto__"
	var ask, join []question
	var want []reply
	for i := range 2000 {
		r := reply{Type: socketio.Type(g.IntN(5)), Namespace: oneOf(g, []string{"/", "/admin", "/é"})}
		packet := map[string]any{"type": r.Type, "nsp": r.Namespace}
		event := oneOf(g, []any{"a", "é\n\"", "", 1.0, -1.5})
		data := any([]any{event, g.thing(3, true), g.thing(3, true)})
		switch r.Type {
		case socketio.Connect:
			data = map[string]any{"token": g.thing(2, false)}
		case socketio.Disconnect:
			data, r.None = nil, true
		case socketio.Event:
			r.Event = jsText(t, event)
		case socketio.ConnectError:
			data = map[string]any{"message": "no", "data": g.thing(2, false)}
		}
		if acks := r.Type == socketio.Ack; acks || r.Type == socketio.Event && g.IntN(2) == 0 {
			r.ID = strconv.Itoa(i)
			packet["id"] = i
		}
		if !r.None {
			packet["data"] = data
			r.Data = received(t, data)
		}
		if _, n := emitted(data); n > 10 {
			continue
		} else if r.Attachments = n; r.Type == socketio.Disconnect {
			r.Attachments = 0
		}
		ask, want = append(ask, question{Ask: "encode", Packet: packet}), append(want, r)
		things := []any{map[string]any{"type": "message", "data": "x"}}
		for range g.IntN(3) {
			things = append(things, map[string]any{"type": "message", "data": oneOf(g, []any{"", "2[\"é\"]", bytesOf{}, bytesOf("abc"), bytesOf{0, 255}})})
		}
		join = append(join, question{Ask: "join", Packets: things})
	}
	for i, written := range ref.ask(t, ask...) {
		p, err := socketio.Parse(written.Text, socketio.Limits{})
		if err != nil {
			t.Errorf("%q: %v", written.Text, err)
			continue
		}
		got, err := readWith(p, written.Buffers)
		if err != nil || !reflect.DeepEqual(got, want[i]) || len(written.Buffers) != p.Attachments {
			t.Errorf("%q: got %+v, %v; want %+v", written.Text, got, err, want[i])
		}
	}
	for i, joined := range ref.ask(t, join...) {
		at := 0
		for p, err := range socketio.Payload(joined.Text) {
			wanted := join[i].Packets[at].(map[string]any)["data"]
			if raw, ok := wanted.(bytesOf); err != nil || ok != p.Binary || ok && string(p.Data) != string(raw) || !ok && string(p.Data) != wanted {
				t.Errorf("%q: packet %d is %+v, %v", joined.Text, at, p, err)
				break
			}
			at++
		}
	}
	t.Logf("figure: %d packets, %d bodies", len(ask), len(join))
}

// jsText is what JavaScript makes of the name of an event.
func jsText(t testing.TB, v any) string {
	if s, ok := v.(string); ok {
		return s
	}
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
