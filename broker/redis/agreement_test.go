package redis

import (
	"testing"
	"time"
)

func TestAnOwnerInsistsAndTheLatestSlotMapWaits(t *testing.T) {
	x, y := &server{addr: "x:1"}, &server{addr: "y:1"}
	at := map[string]*server{x.addr: x, y.addr: y}
	says := func(owner *server, ok bool) *slotMap {
		c := &slotMap{ok: ok}
		if owner != nil {
			c.owner[7] = owner.addr
		}
		return c
	}
	for _, c := range []struct {
		name    string
		latest  *server
		x, y    *slotMap // what they say; nil: no answer
		was     *server
		patient bool
		want    *server
		agreed  bool
	}{
		{"all agree", x, says(x, true), says(x, true), x, true, x, true},
		{"the owner is not content", x, says(x, false), says(x, true), x, true, x, false},
		{"the owner does not answer", x, nil, says(x, true), x, true, x, false},
		{"the old owner insists", y, says(x, true), says(y, true), x, true, x, false},
		{"it insists for too long", y, says(x, true), says(y, true), x, false, y, false},
		{"it has given up", y, says(y, true), says(y, true), x, true, y, true},
		{"it is silent", y, nil, says(y, true), x, true, y, true},
		{"nobody knows better yet, and both insist", y, says(x, true), says(y, true), nil, true, nil, false},
		{"the slot map is older than what its owner says", x, says(y, true), says(y, true), x, true, y, true},
		{"the owner names a successor that has not been asked", x, says(y, true), nil, nil, true, y, false},
		{"nobody has it", nil, says(nil, true), says(nil, true), x, true, nil, false},
	} {
		m := says(c.latest, true)
		said := make(map[*server]*slotMap)
		for s, m := range map[*server]*slotMap{x: c.x, y: c.y} {
			if m != nil {
				said[s] = m
			}
		}
		o := opinionOf(7, m, said, func(addr string) *server { return at[addr] })
		got := o.decide(c.was, c.patient)
		if got != c.want || got != nil && o.agreed(got) != c.agreed {
			t.Errorf("%s: got %v, agreed %t", c.name, got, o.agreed(got))
		}
	}
}

func TestCountsAreTrustedWhileAllAgreeAndNothingHasChanged(t *testing.T) {
	var now time.Duration
	tr := &agreement{clock: func() time.Duration { return now }}
	at := func(d time.Duration, want bool, what string) {
		t.Helper()
		if now = d; tr.certain(7) != want {
			t.Errorf("%s: certain is %t", what, !want)
		}
	}
	at(time.Second, false, "before any answer")
	tr.agree(7, time.Second)
	at(time.Second+yieldTime-1, true, "all have agreed")
	at(time.Second+yieldTime, false, "the agreement is old")
	tr.agree(7, now)
	at(now, true, "they agree again")
	if got := tr.left(7); got != now {
		t.Errorf("it was left since %v", got)
	}
	began := now
	tr.change(7)
	for ; now < began+settleTime; now += time.Second {
		tr.agree(7, now)
		at(now, false, "the owner has just changed")
		if got := tr.left(7); got != began {
			t.Errorf("the old owner was left since %v", got)
		}
	}
	at(began+settleTime, true, "all have had the time to follow")
}
