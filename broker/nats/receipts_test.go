package nats

import (
	"testing"

	natsio "github.com/nats-io/nats.go"
)

// reading returns receipts that read and send nothing.
func reading() *receipts {
	return &receipts{
		link: newLink(nil), inbox: "_INBOX.x.", open: make(map[uint64]*batch),
		alive: func() {}, clustered: func() bool { return false },
	}
}

// FuzzInboxTakesAnything reads what anybody may send to an inbox.
func FuzzInboxTakesAnything(f *testing.F) {
	f.Add("_", []byte{1, 0, 1, 1, 1, 2}, "")
	f.Add("_", []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "")
	f.Add("_", []byte{0xff}, "")
	f.Add("1", []byte(nil), "")
	f.Add("1.0", []byte(nil), "503")
	f.Add("1.zzzzzz", []byte(nil), "503")
	f.Add("1.-1", []byte(nil), "503")
	f.Add("zzzzzzzzzzzzzzzzzzz.1", []byte("x"), "503")
	f.Add("1.0.2", []byte(nil), "503")
	f.Add("1.0._", []byte(nil), "503")
	f.Add("R.1", []byte(nil), "")
	f.Add("R.zzzzzzzzzz", []byte(nil), "")
	f.Add("V.1", []byte(nil), "")
	f.Add("P", []byte(nil), "")
	f.Fuzz(func(t *testing.T, tail string, data []byte, status string) {
		r := reading()
		b := r.begin(2)
		for range 2 { // also twice
			r.read(&natsio.Msg{Subject: r.inbox + tail, Data: data, Header: natsio.Header{"Status": []string{status}}})
		}
		for i, f := range b.fates {
			if f == nobody && (len(data) > 0 || status != "503") {
				t.Fatalf("message %d: nobody, by %q %q %q", i, tail, data, status)
			}
		}
	})
}

func TestTheFirstThingThatIsLearnedOfAMessageCounts(t *testing.T) {
	r := reading()
	b := r.begin(3)
	r.read(&natsio.Msg{Subject: r.inbox + "_", Data: []byte{byte(b.id), 1, byte(b.id), 2, byte(b.id), 9, 99, 0}})
	r.read(&natsio.Msg{Subject: r.inbox + "1.0", Header: natsio.Header{"Status": []string{"503"}}})
	r.read(&natsio.Msg{Subject: r.inbox + "1.1", Header: natsio.Header{"Status": []string{"503"}}})
	r.read(&natsio.Msg{Subject: r.inbox + "1.2", Data: []byte("not a word of the server")})
	want := []fate{nobody, acknowledged, acknowledged}
	for i, f := range b.fates {
		if f != want[i] {
			t.Errorf("message %d: got %d, want %d", i, f, want[i])
		}
	}
	select {
	case <-b.marked:
		t.Error("marked without a mark")
	default:
	}
	r.read(&natsio.Msg{Subject: r.inbox + "1"})
	r.read(&natsio.Msg{Subject: r.inbox + "1"})
	<-b.marked
}
