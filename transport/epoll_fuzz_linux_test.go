package transport

import (
	"encoding/binary"
	"io"
	"slices"
	"strconv"
	"testing"

	"tether/engine"
)

// wholeFrames cuts in behind the last frame that is whole, up to the first that breaks a rule, which
// stays. It reports whether there was such a one.
func wholeFrames(in []byte, max int, compression bool) (frames []byte, broken bool) {
	var check frameCheck
	for at := 0; ; {
		f, ok, err := check.next(in[at:], max, compression)
		switch {
		case err != nil:
			return in, true
		case !ok || len(in)-at < f.size():
			return in[:at], false
		case f.op == opClose:
			return in[:at+f.size()], true
		}
		at += f.size()
	}
}

// outcome is what a client and a receiver saw of a connection.
type outcome struct {
	messages []string // that came back
	code     int      // of the close frame, 0 for none
	reason   engine.Reason
}

// converse sends in, in pieces of step bytes, and reads until the end.
func converse(t *testing.T, s *server, in []byte, step int, compression bool) (o outcome) {
	s = s.with(t)
	var header []string
	if compression {
		header = []string{"Sec-WebSocket-Extensions: permessage-deflate"}
	}
	c := s.upgrade("EIO=4&transport=websocket", "", header...)
	c.text()
	e := s.session()
	go func() {
		for part := range slices.Chunk(in, step) {
			if _, err := c.conn.Write(part); err != nil {
				return
			}
		}
	}()
	for {
		first, payload, err := c.frame()
		if err != nil {
			if err != io.EOF {
				t.Errorf("the connection ended with %v", err)
			}
			break
		}
		if compression {
			first &^= bitRSV1
		}
		switch first {
		case bitFin | opText, bitFin | opBinary:
			o.messages = append(o.messages, strconv.Itoa(int(first))+string(payload))
		case bitFin | opPong: // how many of several pings are answered is a matter of time
		case bitFin | opClose:
			if len(payload) >= 2 {
				o.code = int(binary.BigEndian.Uint16(payload))
			}
		default:
			t.Errorf("the server sent a frame that begins with %#x", first)
		}
	}
	c.conn.Close()
	o.reason = receive(t, e.closed)
	return o
}

// FuzzCarriersAgree sends the same bytes to a server on each carrier: messages, close code and reason
// must be the same.
func FuzzCarriersAgree(f *testing.F) {
	for _, seed := range []string{
		frameBytes(bitFin|opText, "4hello"),
		frameBytes(opText, "4") + frameBytes(0, "a") + frameBytes(bitFin|opPing, "p") + frameBytes(bitFin, "b"),
		frameBytes(bitFin|opPing, "p") + frameBytes(bitFin|opClose, "\x03\xe8"),
		frameBytes(bitFin|opText, "4\xff"),
		frameBytes(bitFin|opText, "4a") + "\x81\xff\x80\x00\x00\x00\x00\x00\x00\x04mask",
		"\x82\xff\x00\x00\x00\x00\x00\x0f\x00\x00mask",
		frameBytes(bitFin|bitRSV1|opText, "\xca\x48\xcd"),
		frameBytes(bitFin|opText, "3") + frameBytes(bitFin|opBinary, "\x00") + frameBytes(opBinary, ""),
		frameBytes(bitFin|opText, "1") + frameBytes(bitFin|opText, "4late"),
		frameBytes(bitFin|opText, "2"),
		frameBytes(bitFin|opText, "4"+string(make([]byte, 4000))) + frameBytes(bitFin|opText, "4x"),
	} {
		f.Add([]byte(seed), uint16(0), false)
		f.Add([]byte(seed), uint16(6), true)
		f.Add([]byte(seed), uint16(5000), false)
	}
	for _, seed := range []string{"\xf2\x48\xcd\xc9\xc9\x07\x00", "\xf3\x48\xcd\xc9\xc9\x07\x00\x00", "\x00", "", "\xff\xff", string(squeeze(f, make([]byte, 5000)))} {
		f.Add([]byte(frameBytes(bitFin|bitRSV1|opBinary, seed)), uint16(2), true)
		f.Add([]byte(inFragments(bitRSV1|opText, seed, 2)+text("4x")), uint16(0), true)
	}
	portable := serve(f, Options{MaxPayload: 4096, Compress: true})
	ours := serve(f, Options{MaxPayload: 4096, Compress: true, Epoll: true})
	portable.h.o.Epoll = false // whatever the environment says
	f.Fuzz(func(t *testing.T, in []byte, step uint16, compression bool) {
		if len(in) > 16<<10 || len(in)/(int(step)+1) > 500 {
			return
		}
		in, broken := wholeFrames(in, 4096, compression)
		if !broken {
			in = append(slices.Clone(in), clientFrame(bitFin|opClose, []byte{0x03, 0xe8})...)
		}
		want := converse(t, portable, in, int(step)+1, compression)
		got := converse(t, ours, in, int(step)+1, compression)
		if !slices.Equal(got.messages, want.messages) || got.code != want.code || got.reason != want.reason {
			t.Errorf("epoll: %.200q; portable: %.200q", []any{got.messages, got.code, got.reason}, []any{want.messages, want.code, want.reason})
		}
	})
}

// FuzzFramesOverEpoll has any bytes come over a connection, which then ends.
func FuzzFramesOverEpoll(f *testing.F) {
	for _, seed := range []string{
		frameBytes(bitFin|opText, "4hello"),
		frameBytes(opText, "4") + frameBytes(0, "a"),
		"\x81\xff\x80\x00\x00\x00\x00\x00\x00\x04mask",
		"\x82\xff\x00\x00\x00\x00\x00\x00\x0f\x00mask",
		"\x81\xfe\xff\xffmaskx",
	} {
		f.Add([]byte(seed), uint16(0), true)
		f.Add([]byte(seed), uint16(100), false)
	}
	s := serve(f, Options{MaxPayload: 4096, Epoll: true})
	f.Fuzz(func(t *testing.T, in []byte, step uint16, half bool) {
		if len(in) > 16<<10 || len(in)/(int(step)+1) > 500 {
			return
		}
		s := s.with(t)
		c := s.upgrade("EIO=4&transport=websocket", "")
		e := s.session()
		for part := range slices.Chunk(in, int(step)+1) {
			if _, err := c.conn.Write(part); err != nil {
				break
			}
		}
		if cw, ok := c.conn.(interface{ CloseWrite() error }); half && ok {
			cw.CloseWrite()
			io.Copy(io.Discard, c.br)
		}
		c.conn.Close()
		receive(t, e.closed)
		if len(e.closed) != 0 {
			t.Error("the receiver was told of the end twice")
		}
	})
}
