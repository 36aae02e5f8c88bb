package transport

import (
	"bytes"
	"compress/flate"
	"io"
	"net/http"
	"strings"
	"testing"

	"tether/engine"
)

func TestOffersOfCompressionAreAnswered(t *testing.T) {
	const base = "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
	for offer, want := range map[string]string{
		"":                   "",
		"permessage-deflate": base,
		"permessage-deflate; client_max_window_bits":                                 base,
		"permessage-deflate; server_no_context_takeover; client_max_window_bits=10":  base,
		"permessage-deflate; server_max_window_bits=10, permessage-deflate":          base,
		"permessage-deflate; server_max_window_bits=15":                              base + "; server_max_window_bits=15",
		"permessage-deflate; server_max_window_bits=9":                               "",
		"permessage-deflate; unknown":                                                "",
		"permessage-deflate; client_no_context_takeover; client_no_context_takeover": "",
		"permessage-deflate; server_no_context_takeover=1":                           "",
		"x-webkit-deflate-frame":                                                     "",
	} {
		if got := negotiate(http.Header{"Sec-Websocket-Extensions": {offer}}); got != want {
			t.Errorf("%q: got %q, want %q", offer, got, want)
		}
	}
}

// squeeze compresses as a client does.
func squeeze(t testing.TB, data []byte) []byte {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	w.Write(data)
	w.Flush()
	return bytes.TrimSuffix(b.Bytes(), []byte{0, 0, 0xff, 0xff})
}

func compressing(t *testing.T, o Options) (*server, *wsClient) {
	o.Compress = true
	s := serve(t, o)
	c := s.upgrade("EIO=4&transport=websocket", "", "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits")
	if got := c.head.Header.Get("Sec-WebSocket-Extensions"); !strings.HasPrefix(got, "permessage-deflate") {
		t.Fatalf("extensions %q", got)
	}
	c.text()
	return s, c
}

func TestCompressedMessagesAreServed(t *testing.T) {
	s, c := compressing(t, Options{MaxPayload: 10_000})
	e := s.session()
	for _, text := range []string{"4hello", "4" + strings.Repeat("abc", 3333)} {
		c.write(clientFrame(bitFin|bitRSV1|opText, squeeze(t, []byte(text))))
		first, p, err := c.frame()
		if err != nil {
			t.Fatal(err)
		}
		if first&bitRSV1 != 0 {
			if len(p) >= len(text) {
				t.Errorf("%d bytes were compressed to %d", len(text), len(p))
			}
			if p, err = io.ReadAll(flate.NewReader(io.MultiReader(bytes.NewReader(p), strings.NewReader(inflateTail)))); err != nil {
				t.Fatal(err)
			}
		} else if len(text) > compressFrom {
			t.Error("a long message is not compressed")
		}
		if string(p) != text {
			t.Fatalf("got %.20q", p)
		}
	}
	whole := squeeze(t, []byte("4in fragments"))
	c.write(clientFrame(bitRSV1|opText, whole[:3]))
	c.write(clientFrame(bitFin, whole[3:]))
	c.wantText("4in fragments")
	c.write(clientFrame(bitFin|bitRSV1|opText, squeeze(t, []byte("3"))))
	c.send("4plain")
	c.wantText("4plain")

	// A packet is compressed once for all, and what does not compress goes as it is.
	p := engine.NewPacket(engine.Terms{}, []byte("4"+strings.Repeat("x", 2000)), []byte{1, 2, 3})
	e.c.Send(p, nil)
	c.frame()
	if first, got, err := c.frame(); first != bitFin|opBinary || string(got) != "\x01\x02\x03" || err != nil {
		t.Fatalf("got %#x %q %v", first, got, err)
	}
	if once, again := frames(p, formatDeflate), frames(p, formatDeflate); &once[0] != &again[0] {
		t.Error("compressed twice")
	}
}

func TestCompressedMessagesThatAreWrongCloseWithTheirCode(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   []byte
		code int
	}{
		{"a bomb", clientFrame(bitFin|bitRSV1|opText, squeeze(t, make([]byte, 5<<20))), 1009},
		{"a byte past the limit", clientFrame(bitFin|bitRSV1|opText, squeeze(t, bytes.Repeat([]byte("4"), 10_001))), 1009},
		{"not deflate", clientFrame(bitFin|bitRSV1|opText, []byte("\xff\xff\xff\xff")), 1007},
		{"not UTF-8", clientFrame(bitFin|bitRSV1|opText, squeeze(t, []byte("4\xff"))), 1007},
		{"RSV1 on a continuation", append(clientFrame(opText, []byte("4")), clientFrame(bitFin|bitRSV1, nil)...), 1002},
		{"RSV1 on a close", clientFrame(bitFin|bitRSV1|opClose, nil), 1002},
		{"RSV2", clientFrame(bitFin|0x20|opText, []byte("4")), 1002},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, c := compressing(t, Options{MaxPayload: 10_000})
			c.write(tt.in)
			c.wantClose(tt.code)
		})
	}
}

// TestAClientMayAskForBase64 sends binary as text, and asks for it in return, or not.
func TestAClientMayAskForBase64(t *testing.T) {
	carriers(t, Options{Compress: true}, func(t *testing.T, s *server) {
		c := s.upgrade("EIO=4&transport=websocket&b64=1", "", "Sec-WebSocket-Extensions: permessage-deflate")
		c.text()
		for _, text := range []string{"bAQID", "b", "4text"} {
			c.send(text)
			c.wantText(text)
		}
		c.send("bAQ!D")
		c.wantClose(0)

		c = s.websocket()
		c.send("bAQID")
		if first, p, err := c.frame(); first != bitFin|opBinary || string(p) != "\x01\x02\x03" || err != nil {
			t.Errorf("got %#x %q %v", first, p, err)
		}

		p := s.polling()
		c = s.upgrade("EIO=4&transport=websocket&b64=1&sid="+p.sid, "")
		c.send("2probe")
		c.wantText("3probe")
		c.send("5")
		c.send("bAQID")
		c.wantText("bAQID")
	})
}

func TestCompressionIsOffUnlessAskedFor(t *testing.T) {
	s := serve(t, Options{})
	c := s.upgrade("EIO=4&transport=websocket", "", "Sec-WebSocket-Extensions: permessage-deflate")
	if got := c.head.Header.Get("Sec-WebSocket-Extensions"); got != "" {
		t.Fatalf("extensions %q", got)
	}
}

func FuzzInflate(f *testing.F) {
	f.Add(squeeze(f, []byte("hello")))
	f.Add(squeeze(f, make([]byte, 10_000)))
	f.Add([]byte("\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if out, err := inflate(in, 1000); err == nil && len(out) > 1000 {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
