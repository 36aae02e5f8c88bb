package load

import (
	"bytes"
	"testing"
)

func TestLengthsOfEveryForm(t *testing.T) {
	for _, n := range []int{0, 1, 125, 126, 65535, 65536} {
		payload := bytes.Repeat([]byte("x"), n)
		masked := appendFrame(nil, opText, payload, 0xdeadbeef)
		if _, _, err := parseFrame(masked); err == nil {
			t.Errorf("a masked frame of %d bytes is accepted from a server", n)
		}
		// The same without the mask is what a server would send.
		head := len(masked) - n - 4
		b := append(bytes.Clone(masked[:head]), payload...)
		b[1] &^= 0x80
		for _, cut := range []int{0, 1, head - 1, len(b) - 1} {
			if cut < len(b) {
				if _, got, err := parseFrame(b[:cut]); got != 0 || err != nil {
					t.Errorf("%d of %d bytes: %d, %v; want more to be needed", cut, len(b), got, err)
				}
			}
		}
		f, got, err := parseFrame(append(b, "rest"...))
		if err != nil || got != len(b) || f.op != opText || !f.fin || !bytes.Equal(f.payload, payload) {
			t.Errorf("%d bytes: %+v, %d, %v", n, f.op, got, err)
		}
	}
}

func FuzzAFrameIsNeverLongerThanWhatCame(f *testing.F) {
	f.Add([]byte{0x81, 2, 'h', 'i'})
	f.Add([]byte{0x81, 126, 0, 200})
	f.Add([]byte{0x81, 127, 0x80, 0, 0, 0, 0, 0, 0, 0})
	f.Add([]byte{0x88, 126, 0, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		fr, n, err := parseFrame(b)
		if n > len(b) || err != nil && n != 0 || len(fr.payload) > n {
			t.Fatalf("parseFrame(%x) = %d bytes of payload, %d, %v", b, len(fr.payload), n, err)
		}
	})
}
