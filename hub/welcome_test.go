package hub

import (
	"context"
	"slices"
	"testing"

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
