package hub

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	"tether/engine"
)

// stalled holds up every packet that begins with something, as if the goroutine had lost its processor
// just before the packet takes its place.
type stalled struct {
	prefix  string
	waiting chan struct{} // receives a value when a packet is held up
	release chan struct{}
}

func stall(w *wire, prefix string) *stalled {
	s := &stalled{prefix: prefix, waiting: make(chan struct{}, 8), release: make(chan struct{})}
	w.before = func(p *engine.Packet) {
		if strings.HasPrefix(string(p.Text()), s.prefix) {
			s.waiting <- struct{}{}
			<-s.release
		}
	}
	return s
}

// unheld waits until nothing is held any more.
func unheld(t *testing.T, s *Socket) *Socket {
	t.Helper()
	if err := s.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}

func TestNothingFollowsADisconnect(t *testing.T) {
	h := alone(t, Options{})
	w := newWire()
	p := dialWith(t, h, w)
	late := stall(w, `42["late"`)
	p.say("0")
	s := unheld(t, p.joined("/"))

	failed := make(chan error, 1)
	go func() { failed <- s.Emit("late") }()
	<-late.waiting
	s.Disconnect(false)
	p.want("41")
	close(late.release)
	if err := <-failed; !errors.Is(err, ErrDisconnected) {
		t.Errorf("Emit returned %v, want ErrDisconnected", err)
	}
	p.wantNothing()
	p.end(ReasonTransportClose)
}

func TestNothingOfALastVisitIsSentToTheNext(t *testing.T) {
	h := alone(t, Options{})
	w := newWire()
	p := dialWith(t, h, w)
	late := stall(w, `42["late"`)
	p.say("0")
	s := unheld(t, p.joined("/"))

	failed := make(chan error, 1)
	go func() { failed <- s.Emit("late") }()
	<-late.waiting
	p.say("1", "0") // the client leaves, and comes back
	p.joined("/")
	close(late.release)
	if err := <-failed; !errors.Is(err, ErrDisconnected) {
		t.Errorf("Emit returned %v, want ErrDisconnected", err)
	}
	p.wantNothing()
	p.end(ReasonTransportClose)
}

func TestDisconnectIsSentBeforeTheClientHasJoinedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := alone(t, Options{})
		w := newWire()
		p := dialWith(t, h, w)
		disconnect := stall(w, "41")
		p.say("0")
		s := unheld(t, p.joined("/"))

		kicked := make(chan struct{})
		go func() {
			defer close(kicked)
			s.Disconnect(false)
		}()
		<-disconnect.waiting
		p.say("1", "0") // it crosses the server's DISCONNECT
		synctest.Wait()
		p.wantNothing()
		close(disconnect.release)
		p.want("41")
		p.joined("/")
		<-kicked
		p.end(ReasonTransportClose)
	})
}

func TestAConnectionIsClosedWhenAllDisconnectsAreSent(t *testing.T) {
	h := alone(t, Options{})
	h.Of("/b")
	w := newWire()
	p := dialWith(t, h, w)
	disconnect := stall(w, "41")
	p.say("0")
	a := unheld(t, p.joined("/"))
	p.say("0/b,")
	b := unheld(t, p.joined("/b"))

	kicked := make(chan struct{})
	go func() {
		defer close(kicked)
		a.Disconnect(false)
	}()
	<-disconnect.waiting
	go b.Disconnect(true)
	<-disconnect.waiting
	if reason := w.closedFor(); reason != "" {
		t.Errorf("closed for %q before DISCONNECT", reason)
	}
	close(disconnect.release)
	<-kicked
	<-p.ended
	if texts := []string{p.next(), p.next()}; texts[0] == texts[1] {
		t.Errorf("client got %q, want DISCONNECT for each", texts)
	}
}

func TestWhatWasHeldComesBeforeDisconnect(t *testing.T) {
	for _, at := range []string{"40", `42["first"`} {
		h := alone(t, Options{Greeting: Greeting{Off: true}})
		w := newWire()
		p := dialWith(t, h, w)
		held := stall(w, at)
		sockets := make(chan *Socket, 1)
		h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
			sockets <- s
			return s.Emit("first")
		})
		p.say("0")
		s := <-sockets
		<-held.waiting
		if err := s.Emit("second"); err != nil {
			t.Error(err)
		}
		s.Disconnect(false)
		if err := s.Emit("third"); !errors.Is(err, ErrDisconnected) {
			t.Errorf("after the disconnect Emit returned %v", err)
		}
		close(held.release)
		if text := p.next(); !strings.HasPrefix(text, "40") {
			t.Errorf("the answer is %s", text)
		}
		p.want(`42["first"]`, `42["second"]`, "41")
		p.end(ReasonTransportClose)
	}
}

// Between the moment in which a socket is gone and the one in which its client forgets it, a packet may come.
func TestAPacketThatMeetsADisconnectIsNoMistake(t *testing.T) {
	h := alone(t, Options{})
	p := dial(t, h)
	p.say("0")
	s := p.joined("/")
	was := s.gate.State()
	s.gate.Set(stateGone)
	p.say(`2["x"]`, "1")
	s.gate.Set(was)
	p.say("1")
	if err := p.refusedText(`2["x"]`); err != errNotJoined {
		t.Errorf("after the client's own disconnect: got %v, want %v", err, errNotJoined)
	}
}
