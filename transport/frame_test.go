package transport

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"

	"tether/engine"
)

func frameBytes(first byte, payload string) string {
	return string(clientFrame(first, []byte(payload)))
}

// TestFramesThatBreakTheProtocolCloseWithItsCode follows the groups of the Autobahn suite: 2 pings, 3
// reserved bits, 4 opcodes, 5 fragmentation, 6 UTF-8, 7 close, 9 limits.
func TestFramesThatBreakTheProtocolCloseWithItsCode(t *testing.T) {
	max := 1000
	fit := strings.Repeat("x", max-1)
	for _, tt := range []struct {
		name string
		in   string
		code int
	}{
		{"a ping of 126 bytes", frameBytes(bitFin|opPing, strings.Repeat("p", 126)), 1002},
		{"a ping in fragments", frameBytes(opPing, "p"), 1002},
		{"RSV1 without compression", frameBytes(bitFin|bitRSV1|opText, "4x"), 1002},
		{"RSV2", frameBytes(bitFin|0x20|opText, "4x"), 1002},
		{"RSV3", frameBytes(bitFin|0x10|opText, "4x"), 1002},
		{"RSV1 on a ping", frameBytes(bitFin|bitRSV1|opPing, ""), 1002},
		{"opcode 3", frameBytes(bitFin|3, ""), 1002},
		{"opcode 7", frameBytes(bitFin|7, "4x"), 1002},
		{"opcode 11", frameBytes(bitFin|11, ""), 1002},
		{"opcode 15", frameBytes(bitFin|15, ""), 1002},
		{"no mask", "\x81\x024x", 1002},
		{"no mask, and half a header", "\x81\x7f", 1002},
		{"a continuation of nothing", frameBytes(bitFin, "4x"), 1002},
		{"a text inside a message", frameBytes(opText, "4") + frameBytes(bitFin|opText, "x"), 1002},
		{"a binary inside a message", frameBytes(opText, "4") + frameBytes(opBinary, "x"), 1002},
		{"a length with the top bit set", "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x04mask", 1002},
		{"the largest length", "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xffmask", 1002},
		{"a length of 2^62", "\x82\xff\x40\x00\x00\x00\x00\x00\x00\x00", 1009},
		{"a message past the limit", frameBytes(bitFin|opText, "4"+fit+"y"), 1009},
		{"a message past the limit that does not come", "\x81\xfe\x03\xe9mask", 1009},
		{"fragments past the limit", frameBytes(opText, "4") + frameBytes(0, fit) + frameBytes(bitFin, "y"), 1009},
		{"too many fragments", frameBytes(opText, "4") + strings.Repeat(frameBytes(0, ""), maxFragments), 1008},
		{"text that is not UTF-8", frameBytes(bitFin|opText, "4\xff"), 1007},
		{"text that is not UTF-8, in fragments", frameBytes(opText, "4\xce") + frameBytes(bitFin, "\x28"), 1007},
		{"a surrogate", frameBytes(bitFin|opText, "4\xed\xa0\x80"), 1007},
		{"a pong that is not UTF-8", frameBytes(bitFin|opText, "3\xff"), 1007},
		{"a close of one byte", frameBytes(bitFin|opClose, "x"), 1002},
		{"a close frame of 126 bytes", frameBytes(bitFin|opClose, "\x03\xe8"+strings.Repeat("x", 124)), 1002},
		{"a close with code 999", frameBytes(bitFin|opClose, "\x03\xe7"), 1002},
		{"a close with code 1005", frameBytes(bitFin|opClose, "\x03\xed"), 1002},
		{"a close with code 1016", frameBytes(bitFin|opClose, "\x03\xf8"), 1002},
		{"a close with code 5000", frameBytes(bitFin|opClose, "\x13\x88"), 1002},
		{"a close whose reason is not UTF-8", frameBytes(bitFin|opClose, "\x03\xe8\xff"), 1007},
		{"a close", frameBytes(bitFin|opClose, ""), 0},
		{"a close with code 1000", frameBytes(bitFin|opClose, "\x03\xe8bye"), 1000},
		{"a close with code 4999", frameBytes(bitFin|opClose, "\x13\x87"), 4999},
		{"an empty text", frameBytes(bitFin|opText, ""), 0},
		{"an unknown packet", frameBytes(bitFin|opText, "9"), 0},
		{"an unknown packet, longer", frameBytes(bitFin|opText, "abc"), 0},
		{"a ping of Engine.IO", frameBytes(bitFin|opText, "2"), 0},
		{"a close of Engine.IO", frameBytes(bitFin|opText, "1"), 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Options{MaxPayload: max})
			c := s.websocket()
			c.write([]byte(tt.in))
			c.wantClose(tt.code)
			c.conn.Close()
			receive(t, s.session().closed)
		})
	}
}

func TestFramesThatTheProtocolAllowsAreServed(t *testing.T) {
	max := 100_000
	long := "4" + strings.Repeat("é", (max-1)/2)
	for _, tt := range []struct {
		name, in, want string
	}{
		{"a text", frameBytes(bitFin|opText, "4x"), "4x"},
		{"a message at the limit", frameBytes(bitFin|opText, long), long},
		{"fragments", frameBytes(opText, "4a") + frameBytes(0, "") + frameBytes(0, "b") + frameBytes(bitFin, "c"), "4abc"},
		{"a character in two fragments", frameBytes(opText, "4\xc3") + frameBytes(bitFin, "\xa9"), "4é"},
		{"as many fragments as are allowed", frameBytes(opText, "4") + strings.Repeat(frameBytes(0, "y"), maxFragments-2) +
			frameBytes(bitFin, ""), "4" + strings.Repeat("y", maxFragments-2)},
		{"a pong that nobody asked for", frameBytes(bitFin|opPong, "zzz") + frameBytes(bitFin|opText, "4x"), "4x"},
		{"an Engine.IO pong that nobody asked for", frameBytes(bitFin|opText, "3") + frameBytes(bitFin|opText, "4x"), "4x"},
		{"a noop, and an upgrade that is none", frameBytes(bitFin|opText, "6") + frameBytes(bitFin|opText, "5") + frameBytes(bitFin|opText, "4x"), "4x"},
		{"a length in a longer form than needed", "\x81\xfe\x00\x02\x00\x00\x00\x004x", "4x"},
		{"an empty message", frameBytes(bitFin|opText, "4"), "4"},
		{"many in one piece", strings.Repeat(frameBytes(bitFin|opText, "6"), 3000) + frameBytes(bitFin|opText, "4x"), "4x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := serve(t, Options{MaxPayload: max, ControlRate: -1})
			c := s.websocket()
			c.write([]byte(tt.in))
			c.wantText(tt.want)

			c = s.websocket() // the same, a byte at a time
			if len(tt.in) > 3000 {
				return
			}
			for i := range len(tt.in) {
				c.write([]byte(tt.in[i : i+1]))
			}
			c.wantText(tt.want)
		})
	}
}

func TestAPingIsAnsweredWithItsPayload(t *testing.T) {
	s := serve(t, Options{})
	c := s.websocket()
	for _, payload := range []string{"", "hello", strings.Repeat("p", 125)} {
		c.write(clientFrame(bitFin|opPing, []byte(payload)))
		if first, got, err := c.frame(); first != bitFin|opPong || string(got) != payload || err != nil {
			t.Fatalf("got %#x %q, %v; want a pong %q", first, got, err, payload)
		}
	}
	c.write(clientFrame(opText, []byte("4a")))
	c.write(clientFrame(bitFin|opPing, []byte("inside")))
	if first, got, err := c.frame(); first != bitFin|opPong || string(got) != "inside" || err != nil {
		t.Fatalf("got %#x %q, %v; want a pong inside a message", first, got, err)
	}
	c.write(clientFrame(bitFin, []byte("b")))
	c.wantText("4ab")
}

func TestPongsThatWaitAreLimited(t *testing.T) {
	inBubble(t, Options{ControlRate: -1}, func(t *testing.T, h *Handler, last func() *echo) {
		c := pipe(t, h, "EIO=4&transport=websocket")
		ping := func(i int) []byte { return clientFrame(bitFin|opPing, fmt.Appendf(nil, "%-125d", i)) }
		for pings, answered := range map[int]int{16: 16, 17: 1, 20_000: 16} { // at the limit, past it, far past it
			inFlight(t, last(), 3*drainChunk)
			for i := range pings {
				c.write(ping(i))
			}
			synctest.Wait()
			if got := c.text(); len(got) < 2*drainChunk {
				t.Fatalf("got %.20q", got)
			}
			for i := pings - answered; i < pings; i++ {
				if first, got, err := c.frame(); first != bitFin|opPong || string(got) != fmt.Sprintf("%-125d", i) || err != nil {
					t.Fatalf("of %d pings: got %#x %q, %v; want a pong %d", pings, first, got, err, i)
				}
			}
			c.send("4more")
			c.wantText("4more")
		}
	})
}

func TestAFloodOfPingsHoldsNothingUp(t *testing.T) {
	s := serve(t, Options{ControlRate: -1})
	c := s.websocket()
	c.write(bytes.Repeat(clientFrame(bitFin|opPing, []byte("p")), 20_000))
	c.send("4done")
	for {
		first, got, err := c.frame()
		if err != nil {
			t.Fatal(err)
		}
		if first == bitFin|opText {
			if string(got) != "4done" {
				t.Fatalf("got %q", got)
			}
			return
		}
	}
}

func TestBytesBehindTheUpgradeRequestAreNotLost(t *testing.T) {
	s := serve(t, Options{})
	for _, extra := range []string{
		string(textFrame("4early")),
		string(textFrame("4early")[:3]),
		string(textFrame("4" + strings.Repeat("e", 10_000))),
	} {
		c := s.upgrade("EIO=4&transport=websocket", extra)
		c.text()
		switch {
		case len(extra) == 3:
			c.write(textFrame("4early")[3:])
			c.wantText("4early")
		case len(extra) > 1000:
			c.wantText("4" + strings.Repeat("e", 10_000))
		default:
			c.wantText("4early")
		}
	}
}

func TestAClientThatGoesWithoutAWordIsNoticed(t *testing.T) {
	s := serve(t, Options{})
	c := s.websocket()
	c.conn.Close()
	if got := receive(t, s.session().closed); got != engine.ReasonTransportClose {
		t.Fatalf("closed for %q", got)
	}
}

// FuzzFrames has any bytes come over a connection. The checker and what reads behind it must agree,
// and neither may reserve what a header announces.
func FuzzFrames(f *testing.F) {
	for _, seed := range []string{
		frameBytes(bitFin|opText, "4hello"),
		frameBytes(opText, "4") + frameBytes(0, "a") + frameBytes(bitFin, "b"),
		frameBytes(bitFin|opPing, "p") + frameBytes(bitFin|opClose, "\x03\xe8"),
		"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x04mask",
		"\x82\xff\x00\x00\x00\x00\x00\x0f\x00\x00mask",
		"\x81\xfe\xff\xffmaskx",
		frameBytes(bitFin|bitRSV1|opText, "\xca\x48\xcd"),
		frameBytes(bitFin|opText, "3") + frameBytes(bitFin|opBinary, "\x00"),
	} {
		f.Add([]byte(seed), uint8(1))
		f.Add([]byte(seed), uint8(7))
	}
	f.Fuzz(func(t *testing.T, in []byte, step uint8) {
		if len(in) > 16<<10 {
			return
		}
		feed(t, in, int(step)+1)
	})
}
