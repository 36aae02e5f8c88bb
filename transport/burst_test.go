package transport

import (
	"runtime"
	"testing"

	"tether/engine"
)

// twoClients are connected to a handler whose flushers do not come, in the middle of a burst of Sends.
func twoClients(t *testing.T) (h *Handler, a, b *echo, ca, cb *wsClient) {
	if !canTry {
		t.Skip("here every write waits")
	}
	s := serve(t, Options{})
	h = s.h
	f := &h.flushers
	f.mu.Lock()
	most := f.max
	f.max = 0
	f.mu.Unlock()
	t.Cleanup(func() { // before the server's, which needs them
		f.mu.Lock()
		defer f.mu.Unlock()
		f.max = most
		if f.head != nil {
			f.running++
			f.done.Add(1)
			go f.run() // stop waits for it
		}
	})
	ca, cb = s.websocket(), s.websocket()
	a, b = s.session(), s.session()
	for _, c := range []*wsClient{ca, cb} { // the sessions have started
		c.send("4hello")
		c.wantText("4hello")
	}
	for _, e := range []*echo{a, b} { // and the Sends are over
		for s := e.c.(*session); ; runtime.Gosched() {
			s.mu.Lock()
			writing := s.writing
			s.mu.Unlock()
			if !writing {
				break
			}
		}
	}
	h.burst.now = func() int64 { return 0 } // there are no pauses any more
	h.burst.last.Store(0)
	h.burst.writes.Store(0)
	h.burst.queues.Store(false)
	h.burst.to.Store(nil)
	return h, a, b, ca, cb
}

func say(t *testing.T, e *echo, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if err := e.c.Send(engine.NewPacket(engine.Terms{}, []byte(text)), nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABurstIsWrittenByTheSendThatTurnsToAnotherClient(t *testing.T) {
	h, a, b, ca, cb := twoClients(t)
	h.burst.to.Store(a.c.(*session))
	say(t, a, "4a1", "4a2", "4a3")
	say(t, b, "4b1")
	for _, want := range []string{"4a1", "4a2", "4a3"} {
		ca.wantText(want)
	}
	say(t, b, "4b2")
	say(t, a, "4a4")
	cb.wantText("4b1")
	cb.wantText("4b2")
	say(t, b, "4b3")
	ca.wantText("4a4")
}

func TestSendsThatAlternateWriteThemselves(t *testing.T) {
	_, a, b, ca, cb := twoClients(t)
	for range burstWrites / 2 {
		say(t, a, "4a")
		ca.wantText("4a")
		say(t, b, "4b")
		cb.wantText("4b")
	}
}

func TestALongRunIsLeftToTheFlushers(t *testing.T) {
	h, a, b, _, _ := twoClients(t)
	h.burst.writes.Store(burstWrites)
	say(t, a, "4a")
	say(t, b, "4b")
	if h.flushers.alone.Load() != nil {
		t.Error("a Send took what another had left")
	}
	h.flushers.mu.Lock()
	defer h.flushers.mu.Unlock()
	if h.flushers.head != a.c.(*session) || h.flushers.tail != b.c.(*session) {
		t.Error("the flushers do not have both")
	}
}
