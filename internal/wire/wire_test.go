package wire_test

import (
	"encoding/binary"
	"testing"

	"tether/internal/wire"
)

func message() []byte {
	b := wire.AppendText([]byte{7}, "text")
	b = binary.AppendVarint(binary.AppendUvarint(b, 300), -300)
	b = binary.BigEndian.AppendUint64(b, 1<<40)
	return append(binary.AppendUvarint(b, 2), 'a', 'b')
}

func TestWhatIsAppendedIsReadAgain(t *testing.T) {
	r := wire.Reader{Data: message()}
	if b, s, u, v, f, n := r.Byte(), r.Text(4), r.Uvarint(), r.Varint(), r.Fixed(), r.Count(); b != 7 || s != "text" || u != 300 || v != -300 || f != 1<<40 || n != 2 {
		t.Errorf("got %d, %q, %d, %d, %d, %d", b, s, u, v, f, n)
	}
	if !r.More() || r.Done() {
		t.Error("two bytes are left, and it says that none are")
	}
	if a, b := r.Byte(), r.Byte(); a != 'a' || b != 'b' || r.More() || !r.Done() {
		t.Errorf("got %c, %c, and more is %t, done %t", a, b, r.More(), r.Done())
	}
	if r.Byte() != 0 || !r.Bad || r.Done() {
		t.Error("there is a byte behind the end")
	}
}

func TestAMessageThatIsCutShortIsBadAndReadsAsZero(t *testing.T) {
	whole := message()
	for n := range len(whole) - 2 {
		r := wire.Reader{Data: whole[:n]}
		r.Byte()
		r.Text(4)
		r.Uvarint()
		r.Varint()
		r.Fixed()
		r.Count()
		if !r.Bad || r.More() || r.Done() {
			t.Errorf("%d bytes of %d: bad %t, more %t", n, len(whole), r.Bad, r.More())
		}
	}
}

func TestATextAboveTheLimitIsBad(t *testing.T) {
	if r := (wire.Reader{Data: wire.AppendText(nil, "12345")}); r.Text(4) != "" || !r.Bad {
		t.Error("five bytes were read where four are the limit")
	}
	if r := (wire.Reader{Data: binary.AppendUvarint(nil, 1<<63)}); r.Bytes(1<<20) != nil || !r.Bad {
		t.Error("a length beyond all memory was read")
	}
}
