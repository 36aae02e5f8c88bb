package hub

import (
	"context"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
)

func TestAnAnswerThatIsFollowedByWhatWasHeldSaysSo(t *testing.T) {
	for _, held := range []int{0, 1, 2} {
		h := alone(t, Options{Greeting: Greeting{Off: true}})
		h.Of("/").OnConnect(func(_ context.Context, s *Socket) error {
			for range held {
				if err := s.Emit("held"); err != nil {
					return err
				}
			}
			return nil
		})
		more := make(chan bool, 8)
		w := newWire()
		p := dialWith(t, h, w)
		w.before = func(p *engine.Packet) { more <- p.More() }
		p.say("0")
		want := append([]bool{held > 0}, make([]bool, held)...)
		var got []bool
		for range want {
			p.next()
			got = append(got, <-more)
		}
		if !slices.Equal(got, want) {
			t.Errorf("with %d held: got %v, want %v", held, got, want)
		}
		p.end(ReasonTransportClose)
	}
}

// The reference server answers CONNECTs that come at once in the order in which they came.
func TestConnectsAreAnsweredInOrder(t *testing.T) {
	h := alone(t, Options{Limits: Limits{Namespaces: 4, Auth: 20}})
	for _, name := range []string{"/a", "/b", "/refused"} {
		h.Of(name)
	}
	h.Of("/refused").OnConnect(func(context.Context, *Socket) error { return Refuse("no", nil) })
	h.Of("/b").OnConnect(func(ctx context.Context, s *Socket) error { return s.Join(ctx, Room("of its own")) })
	for range 100 {
		p := dial(t, h)
		p.say("0", "0/a,", "0/nowhere,", "0/refused,", "0/b,", `0/b2,{"too":"much, and more"}`)
		for _, want := range []string{"40{", "40/a,", "44/nowhere,", "44/refused,", "40/b,", "44/b2,"} {
			if got := p.next(); !strings.HasPrefix(got, want) {
				t.Fatalf("client got %s, want %s", got, want)
			}
		}
		p.say("0/refused,") // it may come again
		p.want(`44/refused,{"message":"no"}`)
		p.end(ReasonTransportClose)
	}
}

// A hook that takes its time does not keep other namespaces waiting for long.
func TestASlowHookHoldsUpOtherNamespacesForASecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := alone(t, Options{})
		h.Of("/slow").OnConnect(func(context.Context, *Socket) error { time.Sleep(5 * time.Second); return nil })
		p := dial(t, h)
		began := time.Now()
		p.say("0/slow,", "0")
		p.joined("/")
		if took := time.Since(began); took != turnLimit {
			t.Errorf("waited %v, want %v", took, turnLimit)
		}
		p.joined("/slow")
		if took := time.Since(began); took != 5*time.Second {
			t.Errorf("waited %v, want 5s", took)
		}
	})
}

// A namespace that disconnects everything as soon as it is joined: those that were joined before, or at the
// same time, are told.
func TestSiblingsOfADisconnectHearIt(t *testing.T) {
	h := alone(t, Options{})
	for _, name := range []string{"/a", "/all"} {
		h.Of(name)
	}
	h.Of("/all").OnConnect(func(_ context.Context, s *Socket) error { s.Disconnect(true); return nil })
	for range 200 {
		p := dial(t, h)
		p.say("0", "0/a,", "0/all,")
		<-p.ended
		heard := map[string]string{} // the last of each namespace
		for len(p.packets) > 0 {
			kind, rest, _ := strings.Cut(strings.TrimPrefix(p.next(), "4"), "{")
			if name := strings.TrimSuffix(kind[1:], ","); name == "" {
				heard["/"] = kind[:1]
			} else {
				heard[name] = kind[:1]
			}
			_ = rest
		}
		for _, name := range []string{"/", "/a", "/all"} {
			if k := heard[name]; k != "1" && k != "4" {
				t.Fatalf("%s has heard %q last, of %v", name, k, heard)
			}
		}
	}
}
