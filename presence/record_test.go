package presence

import (
	"slices"
	"testing"
)

// TestASocketThatMovesHasGoneBeforeItComes: the words of two nodes may reach the owner in any order.
func TestASocketThatMovesHasGoneBeforeItComes(t *testing.T) {
	var version uint64
	r := &record{}
	heard := func(node string, number uint64, flags deviceFlags) (told []string) {
		u := &wordUser{number: number, devices: []wordDevice{{id: "s", number: number, flags: flags}}}
		r.apply(node, u, func() uint64 { version++; return version })
		for _, d := range r.untold() {
			what := " came"
			if d.went != 0 {
				what = " went"
			}
			told = append(told, d.node+what)
		}
		return told
	}
	if got := heard("a", 1, 0); !slices.Equal(got, []string{"a came"}) {
		t.Errorf("at first: told %q", got)
	}
	r.forget()
	if got := heard("b", 1, 0); len(got) > 0 {
		t.Errorf("before the old node has said that it has gone: told %q", got)
	}
	if got := heard("a", 2, deviceGone); !slices.Equal(got, []string{"a went", "b came"}) {
		t.Errorf("at last: told %q", got)
	}
}
