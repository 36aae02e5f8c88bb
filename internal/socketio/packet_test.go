package socketio

import (
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"tether/internal/deptest"
)

func TestPackageNeedsOnlyTheStandardLibrary(t *testing.T) {
	deptest.Only(t, "tether/internal/socketio")
}

// captured are texts seen between the reference implementations, with the "4" of Engine.IO.
var captured = []struct {
	text string
	want Packet
}{
	{`40{"token":"T"}`, Packet{Type: Connect, Namespace: "/", Data: []byte(`{"token":"T"}`)}},
	{`40/admin,{"token":"ok"}`, Packet{Type: Connect, Namespace: "/admin", Data: []byte(`{"token":"ok"}`)}},
	{`40`, Packet{Type: Connect, Namespace: "/"}},
	{`40/custom,`, Packet{Type: Connect, Namespace: "/custom"}},
	{`40{"sid":"RIqwLmhDIXdxNOrIAAAG"}`, Packet{Type: Connect, Namespace: "/", Data: []byte(`{"sid":"RIqwLmhDIXdxNOrIAAAG"}`)}},
	{`40/admin,{"sid":"MhusAj16-otjqqfRAAAI"}`, Packet{Type: Connect, Namespace: "/admin", Data: []byte(`{"sid":"MhusAj16-otjqqfRAAAI"}`)}},
	{`44/admin,{"message":"not authorized","data":{"code":42}}`, Packet{Type: ConnectError, Namespace: "/admin", Data: []byte(`{"message":"not authorized","data":{"code":42}}`)}},
	{`44/nope,{"message":"Invalid namespace"}`, Packet{Type: ConnectError, Namespace: "/nope", Data: []byte(`{"message":"Invalid namespace"}`)}},
	{`42["echo-back","a",{"b":1}]`, Packet{Type: Event, Namespace: "/", Data: []byte(`["echo-back","a",{"b":1}]`), Args: 3, Event: []byte("echo-back")}},
	{`427["ack","x"]`, Packet{Type: Event, Namespace: "/", ID: 7, HasID: true, Data: []byte(`["ack","x"]`), Args: 2, Event: []byte("ack")}},
	{`437["x"]`, Packet{Type: Ack, Namespace: "/", ID: 7, HasID: true, Data: []byte(`["x"]`), Args: 1}},
	{`430[]`, Packet{Type: Ack, Namespace: "/", HasID: true, Data: []byte(`[]`)}},
	{`451-0["hi",1,{"_placeholder":true,"num":0}]`, Packet{Type: BinaryEvent, Namespace: "/", HasID: true, Attachments: 1, Data: []byte(`["hi",1,{"_placeholder":true,"num":0}]`), Args: 3, Event: []byte("hi")}},
	{`461-0["ok",1,{"_placeholder":true,"num":0}]`, Packet{Type: BinaryAck, Namespace: "/", HasID: true, Attachments: 1, Data: []byte(`["ok",1,{"_placeholder":true,"num":0}]`), Args: 3}},
	{`452-/admin,13["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`, Packet{Type: BinaryEvent, Namespace: "/admin", ID: 13, HasID: true, Attachments: 2, Data: []byte(`["x",{"_placeholder":true,"num":0},{"_placeholder":true,"num":1}]`), Args: 3, Event: []byte("x")}},
	{`452-["bin",{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1}]}]`, Packet{Type: BinaryEvent, Namespace: "/", Attachments: 2, Data: []byte(`["bin",{"_placeholder":true,"num":0},{"a":[{"_placeholder":true,"num":1}]}]`), Args: 3, Event: []byte("bin")}},
	{`42["echo-back","é€😀",1,null]`, Packet{Type: Event, Namespace: "/", Data: []byte(`["echo-back","é€😀",1,null]`), Args: 4, Event: []byte("echo-back")}},
	{`41`, Packet{Type: Disconnect, Namespace: "/"}},
	{`41/admin,`, Packet{Type: Disconnect, Namespace: "/admin"}},
}

func TestParseReadsWhatTheReferenceWrites(t *testing.T) {
	for _, c := range captured {
		got, err := Parse([]byte(c.text[1:]), Limits{})
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("Parse(%s)\ngot  %+v, %v\nwant %+v", c.text[1:], got, err, c.want)
		}
	}
}

func TestAppendHeaderWritesWhatTheReferenceWrites(t *testing.T) {
	for _, c := range captured {
		if got := string(append(AppendHeader(nil, c.want), c.want.Data...)); got != c.text {
			t.Errorf("got %s, want %s", got, c.text)
		}
	}
}

func TestParseAllowsWhatClientsDependOn(t *testing.T) {
	for text, want := range map[string]Packet{
		`0/custom`:                     {Type: Connect, Namespace: "/custom"},
		`0/,{}`:                        {Type: Connect, Namespace: "/", Data: []byte(`{}`)},
		`2`:                            {Type: Event, Namespace: "/"},
		`2/admin,5`:                    {Type: Event, Namespace: "/admin", ID: 5, HasID: true},
		`2[1]`:                         {Type: Event, Namespace: "/", Data: []byte(`[1]`), Args: 1, Event: []byte("1")},
		`31`:                           {Type: Ack, Namespace: "/", ID: 1, HasID: true},
		`50-["a",1]`:                   {Type: BinaryEvent, Namespace: "/", Data: []byte(`["a",1]`), Args: 2, Event: []byte("a")},
		`51-["a"]`:                     {Type: BinaryEvent, Namespace: "/", Attachments: 1, Data: []byte(`["a"]`), Args: 1, Event: []byte("a")},
		"2 [ \"a\" ,\n1 ] \r\t":        {Type: Event, Namespace: "/", Data: []byte("[ \"a\" ,\n1 ]"), Args: 2, Event: []byte("a")},
		`218446744073709551615["a"]`:   {Type: Event, Namespace: "/", ID: 1<<64 - 1, HasID: true, Data: []byte(`["a"]`), Args: 1, Event: []byte("a")},
		`218446744073709551616["a"]`:   {Type: Event, Namespace: "/", ID: 1<<64 - 1, HasID: true, Data: []byte(`["a"]`), Args: 1, Event: []byte("a")},
		`31000000000000000000000["a"]`: {Type: Ack, Namespace: "/", ID: 1<<64 - 1, HasID: true, Data: []byte(`["a"]`), Args: 1},
		`2["\u0061\ud83d\ude00"]`:      {Type: Event, Namespace: "/", Data: []byte(`["\u0061\ud83d\ude00"]`), Args: 1, Event: []byte("a😀")},
		`2["a",{"_placeholder":true}]`: {Type: Event, Namespace: "/", Data: []byte(`["a",{"_placeholder":true}]`), Args: 2, Event: []byte("a")},
		`2[""]`:                        {Type: Event, Namespace: "/", Data: []byte(`[""]`), Args: 1, Event: []byte("")},
	} {
		got, err := Parse([]byte(text), Limits{})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("Parse(%q)\ngot  %+v, %v\nwant %+v", text, got, err, want)
		}
	}
}

func TestParseRefusesWhatClosesTheConnection(t *testing.T) {
	deep := strings.Repeat("[", 5000) + strings.Repeat("]", 5000)
	for _, c := range []struct {
		text string
		want error
	}{
		{``, ErrEmpty},
		{`7`, ErrType},
		{`/`, ErrType},
		{`abc`, ErrType},
		{"2[\"a\",\"\xff\"]", ErrUTF8},
		{`2{}`, ErrPayload},
		{`2"a"`, ErrPayload},
		{`2[]`, ErrEventName},
		{`2[null]`, ErrEventName},
		{`2[{"a":1}]`, ErrEventName},
		{`2[["a"]]`, ErrEventName},
		{`2[true,"a"]`, ErrEventName},
		{`2["connect"]`, ErrReserved},
		{`2["connect_error"]`, ErrReserved},
		{`2["disconnect"]`, ErrReserved},
		{`2["disconnecting"]`, ErrReserved},
		{`2["newListener"]`, ErrReserved},
		{`2["removeListener"]`, ErrReserved},
		{`2["\u0063onnect"]`, ErrReserved},
		{`50-["connect"]`, ErrReserved},
		{`0[]`, ErrPayload},
		{`0null`, ErrPayload},
		{`0"a"`, ErrPayload},
		{`05{}`, ErrID},
		{`4[]`, ErrPayload},
		{`4`, ErrPayload},
		{`1{}`, ErrPayload},
		{`1/admin,[]`, ErrPayload},
		{`11`, ErrID},
		{`2["a"`, ErrJSON},
		{`2["a"]x`, ErrJSON},
		{`2["a"]["b"]`, ErrJSON},
		{`2["a",]`, ErrJSON},
		{`2["a" 1]`, ErrJSON},
		{`2["a",01]`, ErrJSON},
		{`2["a",{"b"}]`, ErrJSON},
		{`2["a",{b:1}]`, ErrJSON},
		{`2["a",{"b":1,}]`, ErrJSON},
		{`2["a",[1}]`, ErrJSON},
		{`2["a",{"b":1]]`, ErrJSON},
		{`2["a",NaN]`, ErrJSON},
		{`2["a",tru]`, ErrJSON},
		{`2["a",1.]`, ErrJSON},
		{`2["a",1e]`, ErrJSON},
		{`2["a",-]`, ErrJSON},
		{`2["\x"]`, ErrJSON},
		{`2["\u12g4"]`, ErrJSON},
		{"2[\"a\nb\"]", ErrJSON},
		{"2[\"a\x1eb\"]", ErrJSON},
		{`2 `, ErrJSON},
		{`2abc["a"]`, ErrJSON},
		{`21a["a"]`, ErrJSON},
		{`218446744073709551616x["a"]`, ErrJSON},
		{`2-1["a"]`, ErrJSON},
		{`3["x"]`, ErrID},
		{`31{}`, ErrPayload},
		{`60-[]`, ErrID},
		{`5["a"]`, ErrAttachments},
		{`5-["a"]`, ErrAttachments},
		{`5a-["a"]`, ErrAttachments},
		{`5-1-["a"]`, ErrAttachments},
		{`51["a"]`, ErrAttachments},
		{`51`, ErrAttachments},
		{`51.0-["a"]`, ErrAttachments},
		{`599999999999999999999-["a"]`, ErrAttachments},
		{`511-["a"]`, ErrTooManyAttachments},
		{`51-`, ErrPayload},
		{`61-0`, ErrPayload},
		{`51-["a",{"_placeholder":true,"num":1}]`, ErrPlaceholder},
		{`50-["a",{"_placeholder":true,"num":0}]`, ErrPlaceholder},
		{`51-["a",{"_placeholder":true,"num":"0"}]`, ErrPlaceholder},
		{`51-["a",{"_placeholder":true,"num":"splice"}]`, ErrPlaceholder},
		{`51-[{"_placeholder":true,"num":0}]`, ErrEventName},
		{"2/a\x1eb,[\"a\"]", ErrNamespace},
		{`0/` + strings.Repeat("a", 256), ErrNamespace},
		{`2["a",` + deep + `]`, ErrDepth},
		{`2[1` + strings.Repeat(",1", 1024) + `]`, ErrArgs},
		{`2["` + strings.Repeat("a", 1024) + `"]`, ErrEventName},
	} {
		if _, err := Parse([]byte(c.text), Limits{}); err != c.want {
			t.Errorf("Parse(%.60q): got error %v, want %v", c.text, err, c.want)
		}
	}
}

func TestLimitsAllowWhatTheySayAndNoMore(t *testing.T) {
	nested := func(n int) string { return `2["a",` + strings.Repeat("[", n-1) + strings.Repeat("]", n-1) + `]` }
	for _, c := range []struct {
		limits Limits
		text   string
		want   error
	}{
		{Limits{}, nested(512), nil},
		{Limits{}, nested(513), ErrDepth},
		{Limits{Depth: 1 << 30}, nested(513), ErrDepth},
		{Limits{Depth: 3}, nested(3), nil},
		{Limits{Depth: 3}, nested(4), ErrDepth},
		{Limits{Depth: 2}, `2["a",{"b":{}}]`, ErrDepth},
		{Limits{}, `510-["a"]`, nil},
		{Limits{Attachments: 2}, `52-["a"]`, nil},
		{Limits{Attachments: 2}, `53-["a"]`, ErrTooManyAttachments},
		{Limits{Attachments: 100}, `5100-["a",{"_placeholder":true,"num":99}]`, nil},
		{Limits{Args: 2}, `2["a",[1,2,3]]`, nil},
		{Limits{Args: 2}, `2["a",1,2]`, ErrArgs},
		{Limits{EventName: 4}, `2["ab"]`, nil},
		{Limits{EventName: 4}, `2["abc"]`, ErrEventName},
		{Limits{Namespace: 3}, `0/ab`, nil},
		{Limits{Namespace: 3}, `0/abc`, ErrNamespace},
		{Limits{Depth: -1, Attachments: -1, Args: -1, EventName: -1, Namespace: -1}, `2/a,["a",[]]`, nil},
	} {
		if _, err := Parse([]byte(c.text), c.limits); err != c.want {
			t.Errorf("Parse(%.40q, %+v): got error %v, want %v", c.text, c.limits, err, c.want)
		}
	}
}

func TestNumericEventNamesAreWhatJavaScriptMakesOfThem(t *testing.T) {
	for number, want := range map[string]string{
		"0": "0", "-0": "0", "1": "1", "-7": "-7", "1.0": "1", "1.50": "1.5", "1e3": "1000", "123456789012345": "123456789012345",
		"12345678901234567890": "12345678901234567000", "1e21": "1e+21", "1e-6": "0.000001", "1e-7": "1e-7", "-1.5e-10": "-1.5e-10",
		"0e5": "0", "1e999": "Infinity", "-1e999": "-Infinity", "1e-999": "0",
	} {
		p, err := Parse([]byte(`2[`+number+`]`), Limits{})
		if err != nil || string(p.Event) != want {
			t.Errorf("%s: got %q, %v, want %q", number, p.Event, err, want)
		}
	}
}

func TestErrorsAreFixedTexts(t *testing.T) {
	_, err := Parse([]byte(`2["a",secret]`), Limits{})
	if want := "socketio: payload is not valid JSON"; err == nil || err.Error() != want || !errors.Is(err, ErrJSON) {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestTypesHaveTheNamesOfTheSpecification(t *testing.T) {
	got := fmt.Sprint([]Type{Connect, Disconnect, Event, Ack, ConnectError, BinaryEvent, BinaryAck, 7})
	if want := "[CONNECT DISCONNECT EVENT ACK CONNECT_ERROR BINARY_EVENT BINARY_ACK unknown]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestTypicalPacketsAllocateNothing(t *testing.T) {
	in, dst := []byte(`213["/users/ping",{"hello":"world"}]`), make([]byte, 0, 64)
	n := testing.AllocsPerRun(100, func() {
		p, err := Parse(in, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		dst = AppendHeader(dst[:0], p)
		for range Elements(p.Data) {
			dst = append(dst, ' ')
		}
	})
	if n != 0 {
		t.Errorf("got %v allocations, want 0", n)
	}
}

func FuzzParse(f *testing.F) {
	for _, c := range captured {
		f.Add([]byte(c.text[1:]))
	}
	for _, s := range []string{``, `2`, `42["a"]`, `2["\u0063onnect"]`, `2[1e3]`, `2/,["a"]`, `0/custom`, `50-["a"]`, `510-["a"]`,
		`2["a",[[[[]]]],{"b":{"c":[true,false,null,-1.5e+3]}}]`, "2[\"a\x1e\"]", `218446744073709551616[]`, `2["é","\ud800"]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := Parse(text, Limits{})
		if err != nil {
			if !reflect.DeepEqual(p, Packet{}) {
				t.Fatalf("an error came with a packet: %+v", p)
			}
			return
		}
		again := append(AppendHeader(nil, p), p.Data...)
		q, err := Parse(again[1:], Limits{})
		if err != nil || !reflect.DeepEqual(p, q) {
			t.Fatalf("%q\nbecame %+v,\nthen %q,\nthen %+v, %v", text, p, again, q, err)
		}
		if p.Event != nil && Reserved(string(p.Event)) {
			t.Fatalf("%q has a reserved name", text)
		}
		if n := len(SplitArray(nil, p.Data)); n != p.Args {
			t.Fatalf("%q: Args is %d, and there are %d elements", text, p.Args, n)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for _, c := range []struct{ name, text string }{
		{"event", `2["/users/ping",{"hello":"world","at":1732278000}]`},
		{"ack", `37["ok"]`},
		{"binary", `51-["blob",{"_placeholder":true,"num":0}]`},
		{"100KB", `2["big","` + strings.Repeat("x", 100<<10) + `"]`},
		{"100KB objects", `2["list",[` + strings.Repeat(`{"id":12345,"name":"someone","on":true},`, 2500) + `0]]`},
	} {
		b.Run(c.name, func(b *testing.B) {
			text := []byte(c.text)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(text, Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendHeader(b *testing.B) {
	p := Packet{Type: BinaryEvent, Namespace: "/admin", ID: 13, HasID: true, Attachments: 2}
	dst := make([]byte, 0, 64)
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendHeader(dst[:0], p)
	}
}
