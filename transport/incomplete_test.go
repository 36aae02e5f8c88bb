package transport

import (
	"bytes"
	"encoding/binary"
	"io"
	"runtime"
	"strings"
	"testing"
	"time"

	"tether/engine"
)

// halves are clients that send half of a message, in each of the ways there are; what is there of it is
// 60,000 bytes.
var halves = map[string]func(s *server) *echo{
	"a frame": func(s *server) *echo {
		c := s.websocket()
		head := binary.BigEndian.AppendUint64([]byte{bitFin | opText, bitMask | 127}, 120_000)
		c.write(append(append(head, 0, 0, 0, 0), bytes.Repeat([]byte("4"), 60_000)...))
		return s.session()
	},
	"fragments": func(s *server) *echo {
		c := s.websocket()
		c.write(clientFrame(opText, bytes.Repeat([]byte("4"), 20_000)))
		c.write(bytes.Repeat(clientFrame(opContinuation, bytes.Repeat([]byte("4"), 20_000)), 2))
		return s.session()
	},
	"fragments and a part of the last": func(s *server) *echo {
		c := s.websocket()
		c.write(clientFrame(opText, bytes.Repeat([]byte("4"), 20_000)))
		c.write(bytes.Repeat(clientFrame(opContinuation, bytes.Repeat([]byte("4"), 20_000)), 2))
		c.write(clientFrame(bitFin|opContinuation, make([]byte, 10))[:7])
		return s.session()
	},
	"a POST": func(s *server) *echo {
		c := s.polling()
		conn := s.dial()
		io.WriteString(conn, "POST /socket.io/?EIO=4&transport=polling&sid="+c.sid+
			" HTTP/1.1\r\nHost: test\r\nContent-Length: 120000\r\n\r\n"+strings.Repeat("4", 60_000))
		return s.session()
	},
}

func TestTheBudgetOfHalfMessages(t *testing.T) {
	t.Parallel()
	const budget = 500_000
	for name, half := range halves {
		t.Run(name, func(t *testing.T) {
			s := serve(t, Options{UnfinishedBytes: budget, MessageTimeout: time.Hour})
			var all []*echo
			held := func() int { return s.h.Stats().Unfinished }
			for len(all) < 30 {
				all = append(all, half(s))
				// The next one begins when this one has been counted, which says which of them began first. The
				// first few are within the budget, so that what is counted grows.
				for deadline := time.Now().Add(wait); !allCounted(s, all) || len(all) <= 4 && held() < 60_000*len(all); runtime.Gosched() {
					if time.Now().After(deadline) {
						t.Fatalf("%d bytes are counted for %d clients", held(), len(all))
					}
				}
				if got := held(); got > budget {
					t.Fatalf("%d bytes are counted", got)
				}
			}
			for i := range 20 { // those that began first
				if got := receive(t, all[i].closed); got != engine.ReasonTransportError && got != engine.ReasonTransportClose {
					t.Errorf("closed for %q", got)
				}
			}
			c := s.websocket() // a client that completes a message is served
			e := s.session()
			text := "4" + strings.Repeat("x", 100_000)
			c.send(text)
			c.wantText(text)
			for _, e := range all[20:] {
				e.c.(*session).fail(engine.ReasonTransportError)
			}
			e.c.Close(engine.ReasonShutdown)
			s.h.Close()
			// A POST ends with its session, in a goroutine of the HTTP server.
			for deadline := time.Now().Add(wait); name == "a POST" && held() != 0 && time.Now().Before(deadline); {
				runtime.Gosched()
			}
			if got := held(); got != 0 {
				t.Errorf("%d bytes are counted for nobody", got)
			}
		})
	}
}

// allCounted reports whether each of the clients is counted, or has ended.
func allCounted(s *server, all []*echo) bool {
	_, shares := s.h.incomplete.Held()
	for _, e := range all {
		shares += len(e.closed)
	}
	return shares == len(all)
}
