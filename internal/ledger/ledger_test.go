package ledger_test

import (
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"tether/broker"
	"tether/hub"
	"tether/internal/ledger"
)

// Each case is a story, and what the book has to make of it.
func TestTheBookSeesWhatWentWrong(t *testing.T) {
	one := hub.Receipt{Receipt: broker.Receipt{Nodes: 1}}
	send := func(l *ledger.Ledger, to ...string) ledger.Mark {
		m := l.Send("p", to, nil)
		l.Sent(m, one, nil)
		return m.Mark
	}
	member := func(l *ledger.Ledger, room string) *ledger.Receiver {
		r := l.Receiver("c", "n")
		r.Ask(room).Sure()
		return r
	}
	later := func() { time.Sleep(10 * time.Second) } // of fake time
	for name, c := range map[string]struct {
		story func(l *ledger.Ledger)
		want  ledger.Counts
	}{
		"all is well": {func(l *ledger.Ledger) {
			r := member(l, "a")
			r.Got(send(l, "a"))
			r.Got(send(l, "a"))
		}, ledger.Counts{Sent: 2, Received: 2, Expected: 2}},
		"a message does not arrive": {func(l *ledger.Ledger) {
			member(l, "a")
			send(l, "a")
		}, ledger.Counts{Sent: 1, Expected: 1, Lost: 1}},
		"a message is lost in a gap": {func(l *ledger.Ledger) {
			member(l, "a")
			began := time.Now()
			send(l, "a")
			l.Gap("n", broker.Gap{From: began, To: time.Now()})
		}, ledger.Counts{Sent: 1, Expected: 1, InGap: 1}},
		"a gap of another time excuses nothing": {func(l *ledger.Ledger) {
			member(l, "a")
			began := time.Now()
			later()
			send(l, "a")
			l.Gap("n", broker.Gap{From: began, To: began.Add(time.Second)})
		}, ledger.Counts{Sent: 1, Expected: 1, Lost: 1}},
		"a gap of another node excuses nothing": {func(l *ledger.Ledger) {
			member(l, "a")
			send(l, "a")
			l.Gap("other", broker.Gap{To: time.Now()})
		}, ledger.Counts{Sent: 1, Expected: 1, Lost: 1}},
		"the publisher was told that it failed": {func(l *ledger.Ledger) {
			member(l, "a")
			l.Sent(l.Send("p", []string{"a"}, nil), hub.Receipt{}, errors.New("down"))
		}, ledger.Counts{Sent: 1, Refused: 1}},
		"a message arrives twice": {func(l *ledger.Ledger) {
			r := member(l, "a")
			m := send(l, "a")
			r.Got(m)
			r.Got(m)
		}, ledger.Counts{Sent: 1, Received: 1, Expected: 1, Doubled: 1}},
		"messages change places": {func(l *ledger.Ledger) {
			r := member(l, "a")
			m, n := send(l, "a"), send(l, "a")
			r.Got(n)
			r.Got(m)
		}, ledger.Counts{Sent: 2, Received: 2, Expected: 2, Inverted: 1}},
		"a message reaches another": {func(l *ledger.Ledger) {
			member(l, "a").Got(send(l, "a"))
			member(l, "b").Got(send(l, "a"))
		}, ledger.Counts{Sent: 2, Received: 2, Expected: 2, Lost: 1, Foreign: 1}},
		"a message that nobody sent": {func(l *ledger.Ledger) {
			member(l, "a").Got(ledger.Mark{Number: 7})
		}, ledger.Counts{Foreign: 1}},
		"a message that was changed": {func(l *ledger.Ledger) {
			m := send(l, "b")
			m.Seq++
			member(l, "a").Got(m)
		}, ledger.Counts{Sent: 1, Foreign: 1, Receipts: 1}},
		"who has left for certain gets nothing": {func(l *ledger.Ledger) {
			r := l.Receiver("c", "n")
			s := r.Ask("a")
			s.Sure()
			s.Gone()
			r.Got(send(l, "a"))
		}, ledger.Counts{Sent: 1, Received: 1, Foreign: 1}},
		"who is leaving may miss it, and may get it": {func(l *ledger.Ledger) {
			r := l.Receiver("c", "n")
			s := r.Ask("a")
			s.Sure()
			s.Leave()
			send(l, "a")
			r.Got(send(l, "a"))
		}, ledger.Counts{Sent: 2, Received: 1}},
		"who leaves long afterwards must have got it": {func(l *ledger.Ledger) {
			r := l.Receiver("c", "n")
			s := r.Ask("a")
			s.Sure()
			send(l, "a")
			later()
			s.Gone()
		}, ledger.Counts{Sent: 1, Expected: 1, Lost: 1}},
		"who is excepted must not get it": {func(l *ledger.Ledger) {
			r := member(l, "a")
			r.Ask("x").Sure()
			m := l.Send("p", []string{"a"}, []string{"x"})
			l.Sent(m, one, nil)
			r.Got(m.Mark)
		}, ledger.Counts{Sent: 1, Received: 1, Foreign: 1}},
		"a union arrives twice": {func(l *ledger.Ledger) {
			r := member(l, "a")
			r.Ask("b").Sure()
			m := send(l, "a", "b")
			r.Got(m)
			r.Got(m)
		}, ledger.Counts{Sent: 1, Received: 1, Expected: 1, Doubled: 1}},
		"a receipt denies a member": {func(l *ledger.Ledger) {
			r := member(l, "a")
			m := l.Send("p", []string{"a"}, nil)
			l.Sent(m, hub.Receipt{}, nil)
			r.Got(m.Mark)
		}, ledger.Counts{Sent: 1, Received: 1, Expected: 1, Receipts: 1}},
		"a node that drains takes a message and closes instead": {func(l *ledger.Ledger) {
			r := member(l, "a")
			l.Drain("n")
			send(l, "a")
			r.SentAway()
			r.End()
		}, ledger.Counts{Sent: 1, Unheard: 1}},
		"a node that drains delivers what it takes, and takes no more": {func(l *ledger.Ledger) {
			r := member(l, "a")
			l.Drain("n")
			r.Got(send(l, "a"))
			l.Sent(l.Send("p", []string{"a"}, nil), hub.Receipt{}, nil)
			r.SentAway()
			r.End()
		}, ledger.Counts{Sent: 2, Received: 1}},
		"a member has left by itself before the drain closed it": {func(l *ledger.Ledger) {
			r := member(l, "a")
			l.Drain("n")
			send(l, "a")
			r.Leave("*", l.Now())
			r.SentAway()
			r.End()
		}, ledger.Counts{Sent: 1}},
		"a node that drains is counted beside one that delivers": {func(l *ledger.Ledger) {
			r := member(l, "a")
			other := l.Receiver("d", "other")
			other.Ask("a").Sure()
			l.Drain("n")
			m := l.Send("p", []string{"a"}, nil)
			l.Sent(m, hub.Receipt{Receipt: broker.Receipt{Nodes: 2}}, nil)
			other.Got(m.Mark)
			r.SentAway()
			r.End()
		}, ledger.Counts{Sent: 1, Received: 1, Expected: 1, Unheard: 1}},
		"a receipt counts a ghost": {func(l *ledger.Ledger) {
			member(l, "a").End()
			later()
			send(l, "a")
		}, ledger.Counts{Sent: 1, Receipts: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := ledger.New(time.Second)
				c.story(l)
				later()
				l.Forget(5 * time.Second) // changes nothing about what comes out
				if got := l.Settle(); got != c.want {
					t.Errorf("got %+v\nwant %+v\n%q", got, c.want, l.Faults())
				}
				if c := l.Counts(); (c.Faults() > 0) != (len(l.Faults()) > 0) {
					t.Errorf("%d faults, %d in words", c.Faults(), len(l.Faults()))
				}
			})
		})
	}
}

// A book that forgets stays small, and still knows what is missing.
func TestForgettingKeepsWhatIsMissing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := ledger.New(time.Second)
		send := func() ledger.Mark {
			m := l.Send("p", []string{"a"}, nil)
			l.Sent(m, hub.Receipt{Receipt: broker.Receipt{Nodes: 1}}, nil)
			return m.Mark
		}
		r := l.Receiver("c", "n")
		r.Ask("a").Sure()
		old, missing := send(), send()
		r.Got(old)
		time.Sleep(time.Minute)
		l.Forget(10 * time.Second)
		began := time.Now()
		fresh := send()
		r.Got(fresh)
		r.Got(old)   // settled: nobody waits for it
		r.Got(fresh) // not settled
		want := ledger.Counts{Sent: 3, Received: 2, Expected: 1, Doubled: 2}
		if got := l.Counts(); got != want {
			t.Errorf("got %+v, want %+v\n%q", got, want, l.Faults())
		}
		l.Gap("n", broker.Gap{From: began.Add(-2 * time.Minute), To: began}) // it is reported late
		want.Expected, want.InGap = 3, 1
		if got := l.Settle(); got != want {
			t.Errorf("got %+v, want %+v; %v is missing\n%q", got, want, missing, l.Faults())
		}
	})
}
