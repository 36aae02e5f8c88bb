package redis

import (
	"errors"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"

	"tether/broker"
	"tether/broker/internal/beat"
)

// peer is what Redis does with the commands of one connection.
type peer struct {
	t       *testing.T
	in      *subscriber
	on      map[string]bool
	waiting []string // answers on their way: "+name", "-name", "!why" for a refused command, "beat"
	refuse  map[string]bool
	why     serverError // of a refused command; "": NOPERM
	sick    bool        // it refuses beats
}

func newPeer(t *testing.T, in *subscriber) *peer {
	in.begin(beat.NewPulse())
	return &peer{t: t, in: in, on: make(map[string]bool), refuse: make(map[string]bool), why: "NOPERM no"}
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
		switch {
		case words[0] == "PING" && s.sick:
			s.waiting = append(s.waiting, "!MISCONF no")
			continue
		case words[0] == "PING":
			s.waiting = append(s.waiting, "beat")
			continue
		case words[0] == "SUBSCRIBE" && slices.ContainsFunc(names, func(n any) bool { return s.refuse[n.(string)] }):
			s.waiting = append(s.waiting, "!"+string(s.why))
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

// answer makes the next answer arrive.
func (s *peer) answer() {
	if len(s.waiting) == 0 {
		return
	}
	c := s.waiting[0]
	s.waiting = s.waiting[1:]
	var (
		isBeat bool
		ended  bool
		sub    *subscription
		err    error
	)
	switch c[0] {
	case '!':
		isBeat, err = s.in.refuse(serverError(c[1:]))
	case 'b':
		isBeat = true
	default:
		if sub, ended, err = s.in.confirm(c[0] == '+', []byte(c[1:])); ended {
			s.in.t.pass(sub)
		}
	}
	if isBeat {
		_, err = s.in.back()
	}
	if err != nil {
		s.t.Fatalf("%s: %v", c, err)
	}
}

func (s *peer) settle() {
	s.take()
	for len(s.waiting) > 0 {
		s.answer()
		s.take()
	}
}

// lose ends the connection, and makes another.
func (s *peer) lose() {
	s.in.end(&outage{cause: broker.ErrUnavailable})
	s.on, s.waiting = make(map[string]bool), nil
	s.in.begin(beat.NewPulse())
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

// alone returns the subscriber of the only server.
func alone() *subscriber {
	t := newSubscriptions(newChannels(""), func() {})
	in := newSubscriber(t)
	t.own([]*subscriber{in})
	return in
}

func done(c *call) bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// TestSubscriptionsEndInWhatWasAskedFor drives random calls, one at a time, that succeed or give up, answers and
// lost connections, from a seed: in the end the server has what the calls have come to, and nothing else.
func TestSubscriptionsEndInWhatWasAskedFor(t *testing.T) {
	for seed := range uint64(3000) {
		r := rand.New(rand.NewPCG(seed, 1))
		in := alone()
		s := newPeer(t, in)
		s.sick = seed%3 == 0
		want := make(map[string]bool) // what calls have come to
		var current *call
		finish := func(why error) {
			errs := in.t.finish(current, why)
			for i, sub := range current.list {
				if sub == nil {
					continue
				}
				switch failed := errs != nil && errs[i] != nil; {
				case !current.on:
					want[sub.name] = false
				case !failed:
					want[sub.name] = true
				}
			}
			current = nil
		}
		for range 80 {
			switch r.IntN(8) {
			case 0, 1, 2:
				if current == nil {
					names := []string{strconv.Itoa(r.IntN(3)), strconv.Itoa(r.IntN(3))}
					current = in.t.begin(r.IntN(3) > 0, names)
				} else if r.IntN(4) == 0 { // it gives up
					finish(broker.ErrUnavailable)
				}
			case 3, 4:
				s.take()
			case 5, 6:
				s.answer()
			case 7:
				if r.IntN(5) == 0 {
					s.lose()
				}
			}
			if current != nil && done(current) {
				finish(nil)
			}
		}
		s.settle()
		if current != nil {
			if !done(current) {
				t.Fatalf("seed %d: a call never returns", seed)
			}
			finish(nil)
			s.settle()
		}
		for name, on := range want {
			if s.on[name] != on {
				t.Fatalf("seed %d: %s: the server has %t, wanted was %t", seed, name, s.on[name], on)
			}
		}
		for name, on := range s.on {
			if on && !want[name] {
				t.Fatalf("seed %d: %s is subscribed, and nobody asked for it", seed, name)
			}
			if _, known := in.t.all[name]; known != want[name] {
				t.Fatalf("seed %d: %s: known %t, wanted %t", seed, name, known, want[name])
			}
		}
		if in.t.missing != 0 {
			t.Fatalf("seed %d: %d subjects are missing for ever", seed, in.t.missing)
		}
	}
}

func TestASubscribeReturnsOnlyWhenTheServerIsSubscribedForGood(t *testing.T) {
	in := alone()
	s := newPeer(t, in)
	first := in.t.begin(true, []string{"a"})
	s.take()
	in.t.finish(first, broker.ErrUnavailable) // it has given up
	s.take()
	second := in.t.begin(true, []string{"a"})
	s.take()
	for i := 0; !done(second); i++ {
		if s.answer(); done(second) && len(slices.DeleteFunc(s.waiting, func(w string) bool { return w == "beat" })) > 0 {
			t.Errorf("returned with %q to come", s.waiting)
		}
		if i > 10 {
			t.Fatal("it never returns")
		}
	}
	if !s.on["a"] {
		t.Error("the server is not subscribed")
	}
}

func TestACallThatGivesUpTakesBackWhatIsNewAndNoMore(t *testing.T) {
	in := alone()
	s := newPeer(t, in)
	old := in.t.begin(true, []string{"old"})
	s.settle()
	in.t.finish(old, nil)
	c := in.t.begin(true, []string{"new", "old", "new"})
	s.take()
	errs := in.t.finish(c, broker.ErrUnavailable)
	if len(errs) != 3 || errs[0] == nil || errs[1] != nil || errs[2] == nil {
		t.Errorf("got %v", errs)
	}
	s.settle()
	if s.on["new"] || !s.on["old"] {
		t.Errorf("the server has %v", s.on)
	}
}

func TestARefusedSubjectFailsAloneWithWhatItIs(t *testing.T) {
	for why, want := range map[serverError]error{
		"NOPERM no": broker.ErrRefused, "OOM no": broker.ErrRefused, "ERR no": broker.ErrRefused,
		"CLUSTERDOWN no": broker.ErrUnavailable, "BUSY no": broker.ErrUnavailable, "LOADING no": broker.ErrUnavailable,
	} {
		in := alone()
		s := newPeer(t, in)
		s.refuse["bad"], s.why = true, why
		names := []string{"a", "bad", "c"}
		if why.code() != "NOPERM" {
			names = []string{"bad"}
		}
		c := in.t.begin(true, names)
		s.settle()
		if !done(c) {
			t.Fatalf("%s: the call never returns", why)
		}
		errs := in.t.finish(c, nil)
		for i, name := range names {
			if name == "bad" && !errors.Is(errs[i], want) || name != "bad" && (errs[i] != nil || !s.on[name]) {
				t.Errorf("%s: %s: got %v, the server has %v", why, name, errs[i], s.on)
			}
		}
		if s.settle(); s.on["bad"] || in.t.all["bad"] != nil {
			t.Errorf("%s: the server has %v", why, s.on)
		}
	}
}

func TestWhatIsRefusedAfterAReconnectIsLostAndTheRestIsBack(t *testing.T) {
	in := alone()
	s := newPeer(t, in)
	c := in.t.begin(true, []string{"a", "bad", "c"})
	s.settle()
	in.t.finish(c, nil)
	s.refuse["bad"] = true
	s.lose()
	s.settle()
	back, lost := in.t.take(false)
	if len(back) != 1 || len(lost) != 1 {
		t.Fatalf("back %v, lost %v", back, lost)
	}
	for out, names := range lost {
		if !slices.Equal(names, []string{"bad"}) || !errors.Is(out.cause, broker.ErrRefused) {
			t.Errorf("lost %v, %v", names, out.cause)
		}
	}
	for _, names := range back {
		if slices.Sort(names); !slices.Equal(names, []string{"a", "c"}) {
			t.Errorf("back %v", names)
		}
	}
	select {
	case <-in.up:
	default:
		t.Error("the session does not come up")
	}
	if in.t.all["bad"] != nil {
		t.Error("the lost subject is still there")
	}
	s.refuse["bad"] = false
	c = in.t.begin(true, []string{"bad"})
	if s.settle(); in.t.finish(c, nil) != nil || !s.on["bad"] {
		t.Error("it cannot be subscribed again")
	}
}

func TestWhileTheServerIsAwayCallsFailAtOnce(t *testing.T) {
	in := alone()
	s := newPeer(t, in)
	waits := in.t.begin(true, []string{"waits"})
	in.end(&outage{cause: broker.ErrUnavailable})
	if !done(waits) {
		t.Error("a call in progress goes on waiting")
	}
	if errs := in.t.finish(waits, nil); errs == nil || !errors.Is(errs[0], broker.ErrUnavailable) {
		t.Errorf("got %v", errs)
	}
	c := in.t.begin(true, []string{"new"})
	if errs := in.t.finish(c, nil); !done(c) || errs == nil || !errors.Is(errs[0], broker.ErrUnavailable) {
		t.Errorf("got %v", errs)
	}
	in.begin(beat.NewPulse())
	c = in.t.begin(true, []string{"new"})
	if s.settle(); in.t.finish(c, nil) != nil || !s.on["new"] || s.on["waits"] {
		t.Errorf("the server has %v", s.on)
	}
}

func TestAnUnsubscribeThatABusyServerRefusesIsTriedAgain(t *testing.T) {
	in := alone()
	s := newPeer(t, in)
	c := in.t.begin(true, []string{"a"})
	s.settle()
	in.t.finish(c, nil)
	c = in.t.begin(false, []string{"a"})
	in.appendCommands(nil)
	if _, err := in.refuse("BUSY no"); err != nil {
		t.Fatal(err)
	}
	if done(c) {
		t.Error("it returned")
	}
	in.appendBeat(nil)
	in.back()
	if s.settle(); !done(c) || s.on["a"] {
		t.Errorf("done %t, the server has %v", done(c), s.on)
	}
}

func TestAChangeOfMindDoesNotKeepASessionFromComingUp(t *testing.T) {
	in := alone()
	s := newPeer(t, in)
	c := in.t.begin(true, []string{"a"})
	s.settle()
	in.t.finish(c, nil)
	s.lose()
	up := in.up
	s.take()
	c = in.t.begin(false, []string{"a"})
	s.answer()
	in.t.finish(c, broker.ErrUnavailable)
	in.t.begin(true, []string{"a"})
	s.settle()
	select {
	case <-up:
	default:
		t.Error("the session is not up")
	}
}
