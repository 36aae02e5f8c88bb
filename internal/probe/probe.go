// Package probe is the one step of hash tables with linear probing that is easy to get wrong: what is found
// by searching on from its home must still be found when something before it has been removed.
package probe

// CloseGap moves what lies behind slot gap, which has become free, so that everything is found from its home,
// and returns the slot that is free in the end. The table has a power of two of slots, mask is one less, and
// one slot or more was free before. home says where the search for what is in slot i begins, and false if
// that is free. move moves from one slot to another, which is free.
func CloseGap(gap, mask int, home func(i int) (int, bool), move func(to, from int)) (free int) {
	for i := (gap + 1) & mask; ; i = (i + 1) & mask {
		h, used := home(i)
		if !used {
			return gap
		}
		if (i-h)&mask >= (i-gap)&mask {
			move(gap, i)
			gap = i
		}
	}
}
