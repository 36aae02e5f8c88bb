package transport

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
)

// compressedCase is a message of group 12 of the Autobahn suite's fuzzing client, which comes back
// compressed if that is worth it.
func compressedCase(t testing.TB, row, name string, op byte, payload string, fragment int) rfcCase {
	small := string(squeeze(t, []byte(payload)))
	if fragment == 0 {
		fragment = len(small)
	}
	c := rfcCase{row: row, name: name, in: inFragments(op|bitRSV1, small, fragment)}
	var back bytes.Buffer
	deflateFrame(&back, op, []byte(payload))
	kind := map[byte]string{opText: "t", opBinary: "b"}[op]
	if back.Bytes()[0]&bitRSV1 != 0 {
		kind = "z"
	}
	c.messages = []string{kind + payload}
	return c
}

func noise(n int) string {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	r.Read(b)
	return string(b)
}

// rfcCompressed are the groups 12 and 13: messages of the suite's sizes in whole and in fragments, of
// JSON, of text that repeats itself, and of noise; and the examples of RFC 7692 section 7.2.3.
func rfcCompressed(t testing.TB) (all []rfcCase) {
	for i, n := range []int{16, 64, 256, 1024, 4096, 8192, 16384, 32768, 65536, 131072} {
		json := "42[" + strings.Repeat(`{"id":12345,"name":"somebody","on":true},`, n/40+1)[:max(n-3, 0)]
		all = append(all,
			compressedCase(t, fmt.Sprint("12.1.", i+1), fmt.Sprint("JSON of ", n), opText, json[:n], 0),
			compressedCase(t, fmt.Sprint("12.2.", i+1), fmt.Sprint("noise of ", n), opBinary, noise(n), 0),
			compressedCase(t, fmt.Sprint("12.3.", i+1), fmt.Sprint("numbers of ", n), opText, "4"+letters(n-1), 0),
			compressedCase(t, fmt.Sprint("12.4.", i+1), fmt.Sprint("one letter ", n, " times"), opText, strings.Repeat("4", n), 0),
			compressedCase(t, fmt.Sprint("12.5.", i+1), fmt.Sprint("zeros, ", n), opBinary, strings.Repeat("\x00", n), 0))
	}
	long := "4" + letters(131071)
	for i, fragment := range []int{128, 256, 1024, 4096, 8192, 16384, 32768} {
		row := fmt.Sprintf("12.1.%d, 12.3.%d", i+11, i+11)
		all = append(all,
			compressedCase(t, row, fmt.Sprint("text in fragments of ", fragment), opText, long, fragment),
			compressedCase(t, row, fmt.Sprint("noise in fragments of ", max(fragment, 256)), opBinary, noise(131072), max(fragment, 256)))
	}
	one := func(name, in string, back ...string) rfcCase {
		return rfcCase{row: "7692 section 7.2.3", name: name, in: in, messages: back}
	}
	wrong := func(name, in string, code int) rfcCase {
		return rfcCase{row: "7692", name: name, in: in, code: code}
	}
	z := func(payload string) string { return frameBytes(bitFin|bitRSV1|opBinary, payload) }
	bomb := string(squeeze(t, make([]byte, 4<<20)))
	const hello = "\xf2\x48\xcd\xc9\xc9\x07\x00"
	return append(all,
		one("a block", z(hello), "bHello"),
		one("a block in fragments", inFragments(bitRSV1|opBinary, hello, 3), "bHello"),
		one("a block, byte by byte", inFragments(bitRSV1|opBinary, hello, 1), "bHello"),
		one("a block that is not compressed", z("\x00\x05\x00\xfa\xffHello\x00"), "bHello"),
		one("a final block", z("\xf3\x48\xcd\xc9\xc9\x07\x00\x00"), "bHello"),
		one("two blocks", z("\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"), "bHello"),
		one("no bytes", z("\x00"), "b"),
		one("the same message twice, and others between", z(hello)+bin("Hello")+text("4a")+z(hello), "bHello", "bHello", "t4a", "bHello"),
		one("a character in two fragments", frameBytes(bitRSV1|opText, string(squeeze(t, []byte("4é")))[:2])+frameBytes(bitFin, string(squeeze(t, []byte("4é")))[2:]), "t4é"),
		rfcCase{row: "7692", name: "a ping inside a compressed message", pongs: []string{"p"}, messages: []string{"bHello"},
			in: frameBytes(bitRSV1|opBinary, hello[:3]) + ping("p") + frameBytes(bitFin, hello[3:])},
		wrong("a message that needs the window of the one before", z(hello)+z("\xf2\x00\x11\x00\x00"), 1007).with("bHello"),
		wrong("more behind a final block", z("\xf3\x48\xcd\xc9\xc9\x07\x00"+hello), 1007),
		wrong("nothing", z(""), 1007),
		wrong("half a message", z(hello[:4]), 1007),
		wrong("a block of an unknown type", z("\x07"), 1007),
		wrong("lengths that do not agree", z("\x00\x05\x00\xfa\xfeHello\x00"), 1007),
		wrong("noise", z(noise(1000)), 1007),
		wrong("text that is not UTF-8", frameBytes(bitFin|bitRSV1|opText, string(squeeze(t, []byte("4\xed\xa0\x80")))), 1007),
		wrong("RSV1 on a continuation", frameBytes(bitRSV1|opBinary, hello[:3])+frameBytes(bitFin|bitRSV1, hello[3:]), 1002),
		wrong("RSV1 on a continuation of a plain message", frameBytes(opBinary, "a")+frameBytes(bitFin|bitRSV1, "b"), 1002),
		wrong("RSV1 on a ping", frameBytes(bitFin|bitRSV1|opPing, ""), 1002),
		wrong("RSV1 on a pong", frameBytes(bitFin|bitRSV1|opPong, ""), 1002),
		wrong("RSV1 on a close", frameBytes(bitFin|bitRSV1|opClose, ""), 1002),
		wrong("RSV2 on a compressed message", frameBytes(bitFin|bitRSV1|0x20|opBinary, hello), 1002),
		wrong("RSV3 on a compressed message", frameBytes(bitFin|bitRSV1|0x10|opBinary, hello), 1002),
		compressedCase(t, "9, 12", "a message that is as large as may be", opText, "4"+letters(rfcMax-1), 0),
		wrong("a message that is one byte larger", frameBytes(bitFin|bitRSV1|opText, string(squeeze(t, []byte("4"+letters(rfcMax))))), 1009),
		wrong("a bomb", z(bomb), 1009),
		wrong("a bomb in fragments", inFragments(bitRSV1|opBinary, bomb, 1000), 1009),
	)
}

// with is c with messages that come back before what is wrong.
func (c rfcCase) with(messages ...string) rfcCase {
	c.messages = messages
	return c
}

func TestRFC7692(t *testing.T) {
	cases := rfcCompressed(t)
	carriers(t, Options{MaxPayload: rfcMax, Compress: true}, func(t *testing.T, s *server) {
		var open []net.Conn
		for _, c := range cases {
			open = append(open, c.run(t, s, "permessage-deflate; client_max_window_bits")...)
		}
		wantGone(t, s, open)
		t.Logf("figure: %d cases", len(open))
	})
}

// Groups 12 and 13 of the Autobahn suite differ in what the client offers: what is taken, as it stands
// in the answer, and what is not, section 7.1, so that a compressed message breaks the protocol.
func TestOffersOfRFC7692(t *testing.T) {
	const (
		name = "permessage-deflate"
		base = name + "; server_no_context_takeover; client_no_context_takeover"
	)
	offers := map[string]string{
		name:                                  base,
		name + "; client_no_context_takeover": base,
		name + "; server_no_context_takeover": base,
		name + "; client_no_context_takeover; server_no_context_takeover":             base,
		name + ";client_max_window_bits ; server_no_context_takeover":                 base,
		name + "; server_max_window_bits=15":                                          base + "; server_max_window_bits=15",
		name + `; server_max_window_bits="15"`:                                        base + "; server_max_window_bits=15",
		name + "; server_max_window_bits = 15; client_max_window_bits=9":              base + "; server_max_window_bits=15",
		name + "; server_max_window_bits=9, " + name + "; server_no_context_takeover": base,
		name + "; nonsense, " + name:                                                  base,
		strings.Repeat(name+"; nonsense, ", 1000) + name:                              base, // and not slowly
		strings.Repeat(",;=", 10_000):                                                 "",
		"x-webkit-deflate-frame, " + name:                                             base,
		"x-webkit-deflate-frame":                                                      "",
		name + "2":                                                                    "",
		name + ";":                                                                    "",
		name + "; ;":                                                                  "",
		name + "; nonsense":                                                           "",
		name + "; nonsense=1":                                                         "",
		name + "; client_no_context_takeover=1":                                       "",
		name + "; client_no_context_takeover=":                                        "",
		name + "; server_no_context_takeover=true":                                    "",
		name + "; client_no_context_takeover; client_no_context_takeover":             "",
		name + "; client_max_window_bits; client_max_window_bits":                     "",
		name + "; server_max_window_bits":                                             "",
		name + "; server_max_window_bits=":                                            "",
		name + "; server_max_window_bits=abc":                                         "",
		name + `; server_max_window_bits="15`:                                         "",
		name + "; Client_Max_Window_Bits":                                             "",
	}
	for bits, taken := range map[string]bool{"8": true, "9": true, "10": true, "15": true, `"12"`: true,
		"": false, "0": false, "7": false, "16": false, "08": false, "-9": false, "+9": false, "9x": false, "1e1": false, "99999999999999999999": false} {
		want := ""
		if taken {
			want = base
		}
		offers[name+"; client_max_window_bits="+bits] = want
		if bits != "15" {
			offers[name+"; server_max_window_bits="+bits] = "" // there is one window size
		}
	}
	carriers(t, Options{MaxPayload: rfcMax, Compress: true}, func(t *testing.T, s *server) {
		var open []net.Conn
		for offer, want := range offers {
			ws := s.upgrade("EIO=4&transport=websocket", "", "Sec-WebSocket-Extensions: "+offer)
			if got := ws.head.Header.Get("Sec-WebSocket-Extensions"); got != want {
				t.Errorf("%s: got %q, want %q", offer, got, want)
			}
			ws.text()
			ws.conn.Close()
			receive(t, s.session().closed)
			c := rfcCase{row: "12, 13", name: offer, in: frameBytes(bitFin|bitRSV1|opBinary, "\xf2\x48\xcd\xc9\xc9\x07\x00"), messages: []string{"bHello"}}
			if want == "" {
				c.messages, c.code = nil, 1002
			}
			open = append(open, c.run(t, s, offer)...)
		}
		wantGone(t, s, open)
		t.Logf("figure: %d offers", len(open))
	})
}
