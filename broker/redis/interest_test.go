package redis

import (
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"tether/broker"
)

// peer is what Redis does with the commands of one connection.
type peer struct {
	t       *testing.T
	in      *interest
	on      map[string]bool
	waiting []string // confirmations on their way: "+name", "-name", "!" for a refused command
	refuse  map[string]bool
}

// take makes the server read all commands that the writer would send now.
func (s *peer) take() {
	var wire []byte
	for more := true; more; {
		wire, more = s.in.appendCommands(wire)
	}
	d := &reader{src: &sliceReader{wire}, buf: make([]byte, 1024)}
	for {
		v, err := d.reply()
		if err != nil {
			return
		}
		words := v.([]any)
		names := words[1:]
		if words[0] == "SUBSCRIBE" && slices.ContainsFunc(names, func(n any) bool { return s.refuse[n.(string)] }) {
			s.waiting = append(s.waiting, "!")
			continue
		}
		for _, n := range names {
			name := n.(string)
			s.on[name] = words[0] == "SUBSCRIBE"
			if s.on[name] {
				s.waiting = append(s.waiting, "+"+name)
			} else {
				s.waiting = append(s.waiting, "-"+name)
			}
		}
	}
}

// answer makes the next confirmation arrive.
func (s *peer) answer() {
	if len(s.waiting) == 0 {
		return
	}
	c := s.waiting[0]
	s.waiting = s.waiting[1:]
	if c == "!" {
		if err := s.in.refuse("NOPERM no"); err != nil {
			s.t.Fatal(err)
		}
		return
	}
	_, ended, err := s.in.confirm(c[0] == '+', []byte(c[1:]))
	if err != nil {
		s.t.Fatal(err)
	}
	s.in.t.pass(ended)
}

func (s *peer) settle() {
	s.take()
	for len(s.waiting) > 0 {
		s.answer()
		s.take()
	}
}

// sliceReader reads a slice to its end.
type sliceReader struct{ b []byte }

func (r *sliceReader) Read(p []byte) (int, error) {
	n := copy(p, r.b)
	r.b = r.b[n:]
	if n == 0 {
		return 0, errProtocol
	}
	return n, nil
}

// single returns the interest of the only server.
func single() *interest {
	t := newTable(newWire(""))
	in := newInterest(t)
	t.owner[0] = in
	return in
}

func done(w *waiter) bool {
	select {
	case <-w.done:
		return true
	default:
		return false
	}
}

// TestInterestEndsInWhatWasAskedFor drives random calls, failures of calls, confirmations and lost
// connections, from a seed, and checks after every step that no call has returned too early.
func TestInterestEndsInWhatWasAskedFor(t *testing.T) {
	for seed := range uint64(2000) {
		r := rand.New(rand.NewPCG(seed, 1))
		in := single()
		s := &peer{t: t, in: in, on: make(map[string]bool)}
		in.begin()

		type call struct {
			w    *waiter
			list []*subject
			name string
			on   bool
		}
		var calls []call
		want := make(map[string]bool) // what the last call about a subject asked for
		last := make(map[string]*waiter)
		for range 60 {
			name := strconv.Itoa(r.IntN(3))
			switch r.IntN(8) {
			case 0, 1:
				w, list := in.t.subscribe([]string{name})
				calls = append(calls, call{w, list, name, true})
				want[name], last[name] = true, w
			case 2:
				w := in.t.unsubscribe([]string{name})
				calls = append(calls, call{w, nil, name, false})
				want[name], last[name] = false, w
			case 3, 4:
				s.take()
			case 5, 6:
				s.answer()
			case 7:
				if r.IntN(5) == 0 { // the connection is lost
					in.end(nil)
					s.on, s.waiting = make(map[string]bool), nil
					in.begin()
				}
			}
			calls = slices.DeleteFunc(calls, func(c call) bool {
				if !done(c.w) {
					return false
				}
				if c.on {
					in.t.finish(c.list, nil)
				}
				return true
			})
		}
		// The last call about a subject has its way.
		s.settle()
		for _, c := range calls {
			if !done(c.w) {
				t.Fatalf("seed %d: a call about %s never returns", seed, c.name)
			}
			if c.on {
				in.t.finish(c.list, nil)
			}
		}
		for name, on := range want {
			if s.on[name] != on {
				t.Fatalf("seed %d: %s: the server has %t, wanted was %t", seed, name, s.on[name], on)
			}
			if _, known := in.t.subjects[name]; known != on {
				t.Fatalf("seed %d: %s: known %t, wanted %t", seed, name, known, on)
			}
		}
	}
}

func TestASubscribeReturnsOnlyWhenTheServerIsSubscribedForGood(t *testing.T) {
	in := single()
	s := &peer{t: t, in: in, on: make(map[string]bool)}
	in.begin()
	first, _ := in.t.subscribe([]string{"a"})
	s.take()
	gone := in.t.unsubscribe([]string{"a"})
	s.take()
	second, _ := in.t.subscribe([]string{"a"})
	s.take()
	if !done(first) || !done(gone) {
		t.Error("a call that was overtaken still waits")
	}
	for _, want := range []bool{false, false, true} {
		if s.answer(); done(second) != want {
			t.Errorf("with %d confirmations to come: returned %t, want %t", len(s.waiting), done(second), want)
		}
	}
}

func TestAFailedSubscribeIsTakenBackUnlessSomebodyElseWantsIt(t *testing.T) {
	in := single()
	s := &peer{t: t, in: in, on: make(map[string]bool)}
	in.begin()
	_, mine := in.t.subscribe([]string{"alone", "shared"})
	s.take()
	_, theirs := in.t.subscribe([]string{"shared"})
	in.t.finish(mine, broker.ErrUnavailable)
	s.settle()
	in.t.finish(theirs, nil)
	s.settle()
	if s.on["alone"] || !s.on["shared"] {
		t.Errorf("the server has %v", s.on)
	}
}

func TestARefusedSubjectFailsItsOwnCallAndNoOther(t *testing.T) {
	in := single()
	s := &peer{t: t, in: in, on: make(map[string]bool), refuse: map[string]bool{"bad": true}}
	in.begin()
	good, list := in.t.subscribe([]string{"a", "b", "c"})
	bad, badList := in.t.subscribe([]string{"bad"})
	s.settle()
	if !done(good) || good.err != nil {
		t.Errorf("the good call: done %t, %v", done(good), good.err)
	}
	if !done(bad) || bad.err == nil {
		t.Errorf("the refused call: done %t, %v", done(bad), bad.err)
	}
	in.t.finish(list, good.err)
	in.t.finish(badList, bad.err)
	s.settle()
	if !s.on["a"] || !s.on["b"] || !s.on["c"] || s.on["bad"] {
		t.Errorf("the server has %v", s.on)
	}
}

func TestAChangeOfMindDoesNotKeepASessionFromComingUp(t *testing.T) {
	in := single()
	s := &peer{t: t, in: in, on: make(map[string]bool)}
	in.begin()
	_, list := in.t.subscribe([]string{"a"})
	s.settle()
	in.t.finish(list, nil)
	in.end(nil)
	s.on = make(map[string]bool)
	up := in.begin()
	s.take()
	in.t.unsubscribe([]string{"a"})
	s.answer()
	in.t.subscribe([]string{"a"})
	s.settle()
	select {
	case <-up:
	default:
		t.Error("the session is not up")
	}
}
