package transport

import (
	"strings"
	"testing"
	"time"

	"tether/engine"
)

// TestTheTimeFromEmitToWriteIsTold on all ways that a packet takes to its client.
func TestTheTimeFromEmitToWriteIsTold(t *testing.T) {
	for _, epoll := range []bool{false, true} {
		told := make(chan time.Duration, 100)
		s := serve(t, Options{Epoll: epoll, QueueBytes: 64 << 20, OnWritten: func(_ engine.Conn, took time.Duration) { told <- took }})
		emitted := func(text string, ago time.Duration) *engine.Packet {
			p := engine.NewPacket(engine.Terms{}, []byte(text))
			p.SetEmitted(time.Now().Add(-ago))
			return p
		}
		want := func(name string, ago time.Duration) {
			t.Helper()
			if got := receive(t, told); got < ago || got > ago+time.Minute {
				t.Errorf("epoll %v, %s: got %v, want a little more than %v", epoll, name, got, ago)
			}
		}

		ws := s.websocket()
		e := s.session()
		conn := e.c
		conn.Send(emitted("4alone", time.Hour), nil)
		ws.wantText("4alone")
		want("written at once", time.Hour)

		waitFor(t, e, func(s *session) bool { return s.carrier != nil && !s.writing })
		more := engine.NewPacket(engine.Terms{More: true}, []byte("4more"))
		more.SetEmitted(time.Now().Add(-3 * time.Hour))
		conn.Send(more, nil)
		conn.Send(emitted("4last", 2*time.Hour), nil)
		ws.wantText("4more")
		ws.wantText("4last")
		want("the oldest of two in one write", 3*time.Hour)

		large := "4" + strings.Repeat("x", 16<<20) // more than the kernel takes at once
		conn.Send(emitted(large, 4*time.Hour), nil)
		if got := ws.text(); got != large {
			t.Errorf("got %d bytes", len(got))
		}
		want("written in parts", 4*time.Hour)

		conn.Send(engine.NewPacket(engine.Terms{}, []byte("4plain")), nil)
		ws.wantText("4plain")
		conn.Send(emitted("4ahead", -time.Hour), nil)
		ws.wantText("4ahead")
		if got := receive(t, told); got > -time.Minute {
			t.Errorf("epoll %v, a clock that is ahead: got %v, want about -1h; or a packet without a time was told", epoll, got)
		}

		c := s.polling()
		s.session().c.Send(emitted("4poll", 5*time.Hour), nil)
		c.want("4poll")
		want("an answer to polling", 5*time.Hour)
	}
}
