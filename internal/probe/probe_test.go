package probe

import (
	"math/rand/v2"
	"testing"
)

// TestWhatIsLeftIsStillFound fills small tables with numbers that are their own homes, and empties them in
// any order.
func TestWhatIsLeftIsStillFound(t *testing.T) {
	const size, mask = 16, 15
	r := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		var slots [size]int // 0: free
		find := func(n int) int {
			for i := n & mask; slots[i] != 0; i = (i + 1) & mask {
				if slots[i] == n {
					return i
				}
			}
			return -1
		}
		var all []int
		for len(all) < 1+r.IntN(size-2) {
			n := 1 + r.IntN(200)
			if find(n) >= 0 {
				continue
			}
			i := n & mask
			for slots[i] != 0 {
				i = (i + 1) & mask
			}
			slots[i] = n
			all = append(all, n)
		}
		for len(all) > 0 {
			k := r.IntN(len(all))
			gone := all[k]
			all = append(all[:k], all[k+1:]...)
			free := CloseGap(find(gone), mask,
				func(i int) (int, bool) { return slots[i] & mask, slots[i] != 0 },
				func(to, from int) { slots[to] = slots[from] })
			slots[free] = 0
			if find(gone) >= 0 {
				t.Fatalf("%d is still there", gone)
			}
			for _, n := range all {
				if find(n) < 0 {
					t.Fatalf("%d is not found any more", n)
				}
			}
		}
	}
}
