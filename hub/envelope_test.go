package hub

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
	"tether/internal/socketio"
)

func TestEnvelopesComeBackAsTheyWere(t *testing.T) {
	for _, c := range []struct {
		kind   kind
		flags  flags
		target string
		except []Target
		body   string
	}{
		{kindEvent, 0, "", nil, "body"},
		{kindEvent, flagVolatile, "tether:/,id", []Target{Room("a"), Everyone, User("ü")}, "body"},
		{kindCluster, 0, "", slices.Repeat([]Target{Everyone}, maxTargets), ""},
		{kindEvict, 0, "", []Target{Room(strings.Repeat("x", 5000))}, "\x00"},
	} {
		data := appendEnvelope(nil, c.kind, c.flags, c.target, c.except)
		if size := envelopeSize(c.target, c.except); len(data) > size {
			t.Errorf("envelope of %d bytes, announced as %d", len(data), size)
		}
		e, err := parseEnvelope(append(data, c.body...))
		if err != nil {
			t.Error(err)
			continue
		}
		var except []Target
		for text := range e.exceptions() {
			except = append(except, targetOf(string(text)))
		}
		if e.kind != c.kind || e.flags != c.flags || string(e.target) != c.target ||
			!slices.Equal(except, c.except) || string(e.body) != c.body {
			t.Errorf("got %+v, want %+v", e, c)
		}
	}
}

func TestMessagesThatCannotBeReadAreCountedAndDropped(t *testing.T) {
	h := alone(t, Options{})
	p, s := connect(t, h)
	everyone := roomSubject("tether", "/", Everyone)
	event := func(body string) []byte { return append(appendEnvelope(nil, kindEvent, 0, "", nil), body...) }
	frame := string(engine.NewPacket(engine.Terms{}, []byte(`42["x"]`)).Frames())
	long := binary.AppendUvarint([]byte{1, 1, 0, 0}, maxTargets+1)
	for name, c := range map[string]struct {
		subject   string
		data      []byte
		malformed uint64
		newer     uint64
	}{
		"empty":                {everyone, nil, 1, 0},
		"short":                {everyone, []byte{1, 1}, 1, 0},
		"another version":      {everyone, append([]byte{2}, event(frame)[1:]...), 0, 1},
		"unknown kind":         {everyone, []byte{1, 99, 0, 0, 0}, 0, 1},
		"unknown flag":         {everyone, []byte{1, 1, 128, 0, 0}, 0, 1},
		"target too long":      {everyone, []byte{1, 1, 0, 5, 'a'}, 1, 0},
		"too many exceptions":  {everyone, append(long, make([]byte, 1000)...), 1, 0},
		"exceptions missing":   {everyone, []byte{1, 1, 0, 0, 2, 0}, 1, 0},
		"overlong number":      {everyone, append([]byte{1, 1, 0}, bytes.Repeat([]byte{0xff}, 11)...), 1, 0},
		"no frame":             {everyone, event(""), 1, 0},
		"not a message":        {everyone, event("\x81\x022["), 1, 0},
		"frame too long":       {everyone, event("\x81\x0542"), 1, 0},
		"64-bit length":        {everyone, event("\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff42"), 1, 0},
		"length not the least": {everyone, event("\x81\x7e\x00\x0242"), 1, 0},
		"masked":               {everyone, event("\x81\x8242"), 1, 0},
		"two texts":            {everyone, event(frame + frame), 1, 0},
		"an end for a room":    {everyone, appendEnvelope(nil, kindEvict, 0, "", nil), 1, 0},
		"empty question":       {everyone, append(slices.Clone(clusterHead), 2), 1, 0},
		"empty answer":         {h.subject, append(slices.Clone(clusterHead), 3), 1, 0},
		"nothing at all":       {h.subject, clusterHead, 1, 0},
		"event for nobody":     {h.subject, event(frame), 0, 0},
		"event without frame": {h.subject, appendEnvelope(nil, kindEvent, 0,
			roomSubject("tether", "/", s.Target()), nil), 1, 0},
	} {
		before := h.Stats()
		h.deliver(broker.Message{Subject: c.subject, Data: c.data})
		after := h.Stats()
		if m, n := after.Malformed-before.Malformed, after.Newer-before.Newer; m != c.malformed || n != c.newer {
			t.Errorf("%s: malformed %d and newer %d, want %d and %d", name, m, n, c.malformed, c.newer)
		}
	}
	p.wantNothing()
	if _, err := parseEnvelope([]byte{7, 0, 0}); !errors.Is(err, errEnvelopeNewer) {
		t.Error(err)
	}
}

// Whatever another node sends, this one neither panics nor sends its clients what is no packet.
func FuzzDeliver(f *testing.F) {
	h, err := New(memory.NewBus().Broker(), Options{Devices: Devices{Max: 1}})
	if err != nil {
		f.Fatal(err)
	}
	k := new(lastPacket)
	c, err := h.attach(k, bareRequest())
	if err != nil {
		f.Fatal(err)
	}
	s := c.newSocket(h.Of("/"), "", false)
	room := h.interest.join(roomSubject("tether", "/", Room("room")), s)
	room.since = 1
	s.rooms = []membership{room}
	s.gate.Set(stateConnected)

	text := engine.NewPacket(engine.Terms{}, []byte(`42["x"]`)).Frames()
	binaries := engine.NewPacket(engine.Terms{}, []byte(`452-["x"]`), []byte{1}, bytes.Repeat([]byte{2}, 200)).Frames()
	target := room.room.subject[:len(room.room.subject)-4] + s.ID()
	f.Add(false, append(appendEnvelope(nil, kindEvent, 0, "", nil), text...))
	f.Add(false, append(appendEnvelope(nil, kindEvent, flagVolatile, "", []Target{Room("room"), Room(s.ID())}), binaries...))
	f.Add(false, append(appendTerms(appendEnvelope(nil, kindEvent, flagTerms, "", nil), DropOldest, "key"), text...))
	f.Add(true, append(appendTerms(appendEnvelope(nil, kindEvent, flagTerms, target, nil), 99, "key"), text...))
	f.Add(true, append(appendEnvelope(nil, kindEvent, 0, target, []Target{Room("other")}), text...))
	f.Add(false, append(slices.Clone(clusterHead), 1, 0, 0))
	f.Fuzz(func(t *testing.T, own bool, data []byte) {
		subject := room.room.subject
		if own {
			subject = h.subject
		}
		if len(data) > 1 && kind(data[1]) == kindCluster {
			return // it would be obeyed, and answers run; FuzzAnswers asks without that
		}
		open := h.devices.open(s, "other", 1)
		defer h.devices.close(open)
		k.p = nil
		h.deliver(broker.Message{Subject: subject, Data: data})
		if k.p == nil {
			return
		}
		if text := k.p.Text(); len(text) < 2 || text[0] != socketio.EngineMessage {
			t.Errorf("sent %q", text)
		}
		var attachments [][]byte
		for i := range k.p.Attachments() {
			attachments = append(attachments, k.p.Attachment(i))
		}
		if again := engine.NewPacket(engine.Terms{}, k.p.Text(), attachments...).Frames(); !bytes.Equal(again, k.p.Frames()) {
			t.Errorf("frames are %x, want %x", k.p.Frames(), again)
		}
	})
}

// lastPacket is a connection that keeps the last packet only.
type lastPacket struct {
	sink
	p *engine.Packet
}

func (k *lastPacket) Send(p *engine.Packet, _ *engine.Gate) error { k.p = p.Keep(); return nil }
