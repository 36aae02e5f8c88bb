package socketio

import (
	"bytes"
	"encoding/base64"
	"reflect"
	"strings"
	"testing"
)

func collect(body string) (packets []EnginePacket, err error) {
	for p, e := range Payload([]byte(body)) {
		if e != nil {
			return packets, e
		}
		packets = append(packets, p)
	}
	return packets, nil
}

func TestPayloadReadsWhatTheReferenceWrites(t *testing.T) {
	message := func(s string) EnginePacket { return EnginePacket{Type: EngineMessage, Data: []byte(s)} }
	binary := func(b ...byte) EnginePacket { return EnginePacket{Type: EngineMessage, Binary: true, Data: b} }
	for body, want := range map[string][]EnginePacket{
		`40`: {message(`0`)},
		`1`:  {{Type: EngineClose, Data: []byte{}}},
		`3`:  {{Type: EnginePong, Data: []byte{}}},
		"452-[\"bin\",{\"_placeholder\":true,\"num\":0},{\"a\":[{\"_placeholder\":true,\"num\":1}]}]\x1ebAQID\x1ebaGk=\x1e42[\"echo-back\",\"é€😀\",1,null]": {
			message(`52-["bin",{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1}]}]`),
			binary(1, 2, 3), binary('h', 'i'), message(`2["echo-back","é€😀",1,null]`)},
		"6\x1e1":       {{Type: EngineNoop, Data: []byte{}}, {Type: EngineClose, Data: []byte{}}},
		"b":            {{Type: EngineMessage, Binary: true}},
		"bAQ\r\nID\n":  {binary(1, 2, 3)},
		"2probe":       {{Type: EnginePing, Data: []byte("probe")}},
		"4\x1e4\x1e4a": {message(""), message(""), message("a")},
	} {
		got, err := collect(body)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q\ngot  %+v, %v\nwant %+v", body, got, err, want)
		}
	}
}

func TestPayloadStopsAtTheFirstError(t *testing.T) {
	for _, c := range []struct {
		body   string
		before int
		want   error
	}{
		{"", 0, ErrEmpty},
		{"\x1e", 0, ErrEmpty},
		{"4a\x1e", 1, ErrEmpty},
		{"4a\x1e\x1e4b", 1, ErrEmpty},
		{"4a\x1e7\x1e4b", 1, ErrType},
		{"abc", 0, ErrType},
		{"/", 0, ErrType},
		{"4a\x1eb!!!\x1e4b", 1, ErrBase64},
		{"bAQI", 0, ErrBase64},
		{"bA", 0, ErrBase64},
		{"b-_-_", 0, ErrBase64},
	} {
		if got, err := collect(c.body); len(got) != c.before || err != c.want {
			t.Errorf("%q: got %d packets and %v, want %d and %v", c.body, len(got), err, c.before, c.want)
		}
	}
}

func TestPayloadIsJoined(t *testing.T) {
	body := AppendText(nil, []byte(`451-["a",{"_placeholder":true,"num":0}]`))
	body = AppendBinary(body, []byte{1, 2})
	body = AppendText(body, []byte("1"))
	if got, want := string(body), "451-[\"a\",{\"_placeholder\":true,\"num\":0}]\x1ebAQI=\x1e1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got, want := string(AppendBinary(nil, []byte{1, 2, 3})), "bAQID"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func FuzzPayload(f *testing.F) {
	for _, s := range []string{"40", "42[\"a\"]\x1ebAQID\x1e3", "", "\x1e", "b", "bAQ\nID", "b====", "6\x1e1", "4\x1e\x1e4", "9", "bAQIDBA"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		before := bytes.Clone(body)
		var again []byte
		var packets []EnginePacket
		for p, err := range Payload(body) {
			if err != nil {
				return
			}
			if len(p.Data) > len(body) {
				t.Fatalf("%q: a packet of %d bytes", body, len(p.Data))
			}
			packets = append(packets, p)
			if p.Binary {
				again = AppendBinary(again, p.Data)
			} else {
				again = AppendText(again, append([]byte{p.Type}, p.Data...))
			}
		}
		if !bytes.Equal(before, body) {
			t.Fatalf("%q was changed to %q", before, body)
		}
		i := 0
		for p, err := range Payload(again) {
			if err != nil || i >= len(packets) || p.Type != packets[i].Type || p.Binary != packets[i].Binary || !bytes.Equal(p.Data, packets[i].Data) {
				t.Fatalf("%q became %q, and packet %d is %+v, %v", body, again, i, p, err)
			}
			i++
		}
		if i != len(packets) {
			t.Fatalf("%q became %q with %d packets, want %d", body, again, i, len(packets))
		}
	})
}

func BenchmarkPayload(b *testing.B) {
	body := []byte(strings.Repeat("42[\"a\",1]\x1e", 100) + "b" + base64.StdEncoding.EncodeToString(make([]byte, 1000)))
	b.SetBytes(int64(len(body)))
	b.ReportAllocs()
	for b.Loop() {
		for _, err := range Payload(body) {
			if err != nil {
				b.Fatal(err)
			}
		}
	}
}
