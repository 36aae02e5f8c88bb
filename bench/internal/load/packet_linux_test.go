package load

import "testing"

func FuzzPacketsOfAServerAreTakenApartWithoutHarm(f *testing.F) {
	for _, s := range []string{`["m","x"]`, `12["a"]`, `/admin,3["a","b"]`, `/admin`, ``, `[`, `99999999999999999999["a"]`, `["a\"b","c"]`, `5[]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, array := event(b)
		if array != nil && array[0] != '[' || id < -1 {
			t.Fatalf("event(%q) = %d, %q", b, id, array)
		}
		if s := firstString(array); len(s) > len(array) {
			t.Fatalf("firstString(%q) = %q", array, s)
		}
		called(array, "ready")
		if n := ackID(b); n < -1 {
			t.Fatalf("ackID(%q) = %d", b, n)
		}
		status(b)
	})
}
