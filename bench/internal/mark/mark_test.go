package mark

import (
	"strings"
	"testing"
)

func TestAMarkIsReadBackFromAPayloadOfAnySize(t *testing.T) {
	marks := []Mark{
		{},
		{Run: 0xdeadbeef, Publisher: 7, User: 41, Seq: 1, At: 1234567890123},
		{Run: 1, Publisher: 0xffff, Warm: true, User: Everyone, Seq: 1<<40 - 1, At: 1<<63 - 1},
	}
	for _, m := range marks {
		for _, size := range []int{0, Size, Size + 1, 256, 1000} {
			b := Append([]byte("x"), m, size)
			if got, want := len(b)-1, max(size, Size); got != want {
				t.Errorf("Append(%+v, %d): %d bytes, want %d", m, size, got, want)
			}
			got, ok := Parse(b[1:])
			if !ok || got != m {
				t.Errorf("Parse = %+v, %v; want %+v", got, ok, m)
			}
		}
	}
}

func TestWhatIsNoMarkIsNotRead(t *testing.T) {
	good := string(Append(nil, Mark{Run: 1}, Size))
	for _, s := range []string{"", good[:Size-1], strings.Replace(good, "m", "x", 1), "g" + good[1:], good[:Size-1] + "F"} {
		if m, ok := Parse([]byte(s)); ok {
			t.Errorf("Parse(%q) = %+v, want none", s, m)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	p := Append(nil, Mark{Run: 1, User: 12, Seq: 99, At: 1 << 50}, 256)
	for b.Loop() {
		if _, ok := Parse(p); !ok {
			b.Fatal("not a mark")
		}
	}
}
