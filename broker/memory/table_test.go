package memory

import (
	"math/rand/v2"
	"strconv"
	"testing"
)

// The table against a map, with few hashes, so that subjects stand in each other's places.
func TestATableIsAMap(t *testing.T) {
	for seed := range uint64(200) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		hashes := []uint64{4, 16, 1 << 60}[seed%3]
		var tab table
		plain := map[string]*subscription{}
		for step := range 400 {
			subject := strconv.Itoa(rnd.IntN(60))
			n, _ := strconv.ParseUint(subject, 10, 64)
			hash := n * 0x9e3779b97f4a7c15 % hashes
			first := plain[subject]
			switch fresh := (&subscription{subject: subject}); {
			case first == nil:
				tab.add(hash, fresh)
				plain[subject] = fresh
			case rnd.IntN(4) == 0:
				tab.set(hash, first, fresh)
				plain[subject] = fresh
			default:
				tab.set(hash, first, nil)
				delete(plain, subject)
			}
			for n := range uint64(60) {
				subject := strconv.FormatUint(n, 10)
				if got := tab.find(n*0x9e3779b97f4a7c15%hashes, subject); got != plain[subject] {
					t.Fatalf("seed %d, step %d: %q is %p, want %p", seed, step, subject, got, plain[subject])
				}
			}
			if tab.used != len(plain) || (tab.used == 0) != (tab.slots == nil) || 4*tab.used > 3*len(tab.slots) {
				t.Fatalf("seed %d, step %d: %d of %d slots for %d subjects", seed, step, tab.used, len(tab.slots), len(plain))
			}
		}
	}
}
