package engine

import (
	"bytes"
	"errors"
	"testing"
)

func TestAPacketIsReadAsItWasMade(t *testing.T) {
	for _, n := range []int{2, 125, 126, 1<<16 - 1, 1 << 16} {
		text := append([]byte("42"), bytes.Repeat([]byte("x"), n-2)...)
		attachment := bytes.Repeat([]byte{7}, n)
		terms := Terms{Key: "k", Overflow: DropOldest, Volatile: true, Control: true, More: true}
		p := NewPacket(terms, text, attachment, nil)
		if want := FrameHeader(n)*2 + 2*n + FrameHeader(0); p.Size() != want {
			t.Errorf("%d bytes, want %d", p.Size(), want)
		}
		again, err := ParsePacket(Terms{}, p.Frames())
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(again.Text(), text) || again.Attachments() != 2 ||
			!bytes.Equal(again.Attachment(0), attachment) || len(again.Attachment(1)) != 0 {
			t.Errorf("a packet of %d bytes comes back as %.20q with %d attachments", n, again.Text(), again.Attachments())
		}
		if got := (Terms{p.Key(), p.Overflow(), p.Volatile(), p.Control(), p.More()}); got != terms {
			t.Errorf("terms are %+v, want %+v", got, terms)
		}
	}
}

func TestALentPacketIsUsedAgain(t *testing.T) {
	frames := NewPacket(Terms{}, []byte("42one")).Frames()
	p := Lend(frames, true)
	if p == nil || !p.Lent() || !p.Volatile() {
		t.Fatalf("got %+v", p)
	}
	kept, alone := p.Keep(), p.KeepAlone()
	p.GiveBack()
	if string(alone.Text()) != "42one" || alone.KeepAlone() != alone {
		t.Errorf("what was kept alone is %q", alone.Text())
	}
	alone.GiveBack()
	copy(frames, "overwritten")
	if kept.Lent() || !kept.Volatile() || string(kept.Text()) != "42one" || kept.Keep() != kept {
		t.Errorf("what was kept is %q", kept.Text())
	}
	if kept.GiveBack(); string(kept.Text()) != "42one" {
		t.Error("what was kept was used again")
	}
	plain := NewPacket(Terms{}, []byte("42two"))
	plain.GiveBack()
	if string(plain.Text()) != "42two" {
		t.Errorf("a packet that nobody has lent was taken: %q", plain.Text())
	}
	if p := Lend(NewPacket(Terms{}, []byte("451-x"), nil).Frames(), false); p != nil {
		t.Error("a packet with attachments was lent")
	}
}

// FuzzParsePacket: what is read is what NewPacket makes of it, byte for byte.
func FuzzParsePacket(f *testing.F) {
	f.Add(NewPacket(Terms{}, []byte(`42["x"]`)).Frames())
	f.Add(NewPacket(Terms{}, []byte(`452-["x"]`), []byte{1}, bytes.Repeat([]byte{2}, 200)).Frames())
	f.Add([]byte{FinText, 126, 0, 2, '4', '2'})
	f.Add([]byte{FinText, 127, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, frames []byte) {
		p, err := ParsePacket(Terms{}, frames)
		if err != nil {
			if !errors.Is(err, ErrMalformed) {
				t.Error(err)
			}
			return
		}
		var attachments [][]byte
		for i := range p.Attachments() {
			attachments = append(attachments, p.Attachment(i))
		}
		if again := NewPacket(Terms{}, p.Text(), attachments...).Frames(); !bytes.Equal(again, frames) {
			t.Errorf("%x comes back as %x", frames, again)
		}
	})
}

func TestReasonOfAnError(t *testing.T) {
	err := errors.New("x")
	because := Because(ReasonTransportError, err)
	if !errors.Is(because, err) || because.Error() != "x" {
		t.Errorf("got %v", because)
	}
	if ReasonOf(errors.Join(because)) != ReasonTransportError || ReasonOf(err) != ReasonParseError {
		t.Error("the reason is lost")
	}
}
