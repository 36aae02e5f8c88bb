package check

import (
	"math/rand/v2"
	"testing"

	"tether/bench/internal/mark"
)

const run, user = 9, 5

func TestEachFaultIsCountedAsWhatItIs(t *testing.T) {
	tests := []struct {
		name string
		seqs []uint64
		sent uint64
		want Counts
	}{
		{"all in order", []uint64{1, 2, 3}, 3, Counts{Received: 3, Expected: 3}},
		{"one in the middle lost", []uint64{1, 3}, 3, Counts{Received: 2, Expected: 3, Lost: 1}},
		{"the last ones lost", []uint64{1}, 4, Counts{Received: 1, Expected: 4, Lost: 3}},
		{"all lost", nil, 2, Counts{Expected: 2, Lost: 2}},
		{"one doubled at once", []uint64{1, 1, 2}, 2, Counts{Received: 2, Expected: 2, Doubled: 1}},
		{"one doubled much later", []uint64{1, 2, 3, 4, 5, 1}, 5, Counts{Received: 5, Expected: 5, Doubled: 1}},
		{"two swapped", []uint64{2, 1, 3}, 3, Counts{Received: 3, Expected: 3, Inverted: 1}},
		{"late, then doubled", []uint64{3, 1, 2, 2}, 3, Counts{Received: 3, Expected: 3, Inverted: 2, Doubled: 1}},
		{"middle of a hole", []uint64{6, 3, 3, 1, 5, 4, 2}, 6, Counts{Received: 6, Expected: 6, Inverted: 5, Doubled: 1}},
		{"numbers that nobody sent", []uint64{1, 2, 3}, 2, Counts{Received: 3, Expected: 2, Foreign: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReceiver(run, user)
			var got Counts
			for _, s := range tt.seqs {
				r.Take(mark.Mark{Run: run, Publisher: 1, User: user, Seq: s}, &got)
			}
			r.Settle([]Sent{{Publisher: 1, First: 4, Users: []uint64{99, tt.sent}}}, true, &got)
			if got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestForeignMessagesAreNotReceived(t *testing.T) {
	tests := map[string]mark.Mark{
		"another run":  {Run: run + 1, User: user, Seq: 1},
		"another user": {Run: run, User: user + 1, Seq: 1},
		"no number":    {Run: run, User: user},
	}
	for name, m := range tests {
		r := NewReceiver(run, user)
		var got Counts
		if v := r.Take(m, &got); v != Foreign || got != (Counts{Foreign: 1}) {
			t.Errorf("%s: %v, %+v; want foreign", name, v, got)
		}
	}
	r := NewReceiver(run, user)
	var got Counts
	r.Take(mark.Mark{Run: run, User: user, Publisher: 3, Seq: 1}, &got)
	r.Settle([]Sent{{Publisher: 1}}, true, &got)
	if want := (Counts{Received: 1, Foreign: 1}); got != want {
		t.Errorf("unknown publisher: %+v, want %+v", got, want)
	}
}

func TestPublishersAndEveryoneHaveTheirOwnSequences(t *testing.T) {
	r := NewReceiver(run, user)
	var got Counts
	for _, m := range []mark.Mark{
		{Publisher: 1, User: user, Seq: 1}, {Publisher: 2, User: user, Seq: 1},
		{Publisher: 1, User: mark.Everyone, Seq: 1}, {Publisher: 1, User: user, Seq: 2},
	} {
		m.Run = run
		r.Take(m, &got)
	}
	r.Settle([]Sent{{Publisher: 1, First: user, Users: []uint64{2}, Everyone: 1}, {Publisher: 2, First: user, Users: []uint64{1}}}, true, &got)
	if want := (Counts{Received: 4, Expected: 4}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestOneThatComesAndGoesMissesButDoesNotLose(t *testing.T) {
	r := NewReceiver(run, user)
	var got Counts
	r.Take(mark.Mark{Run: run, User: user, Seq: 4}, &got)
	r.Settle([]Sent{{First: user, Users: []uint64{10}}}, false, &got)
	if want := (Counts{Received: 1, Missed: 9}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAnyOrderWithCopiesIsAccountedForExactly(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for range 200 {
		n := 1 + rng.IntN(60)
		var seqs []uint64
		distinct, copies := 0, 0
		for s := range n {
			for k := range rng.IntN(3) {
				seqs = append(seqs, uint64(s+1))
				if k == 0 {
					distinct++
				} else {
					copies++
				}
			}
		}
		rng.Shuffle(len(seqs), func(i, j int) { seqs[i], seqs[j] = seqs[j], seqs[i] })
		r := NewReceiver(run, user)
		var got Counts
		for _, s := range seqs {
			r.Take(mark.Mark{Run: run, User: user, Seq: s}, &got)
		}
		r.Settle([]Sent{{First: user, Users: []uint64{uint64(n)}}}, true, &got)
		if got.Received != uint64(distinct) || got.Doubled != uint64(copies) || got.Lost != uint64(n-distinct) {
			t.Fatalf("%v of %d: %+v", seqs, n, got)
		}
	}
}
