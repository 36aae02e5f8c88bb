package nats_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"testing"

	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"tether/broker"
	"tether/internal/backend"
)

// TestWhatHasNoPlaceDoesNotWaitForAStreamThatIsSilent but where it comes behind something for the same room.
func TestWhatHasNoPlaceDoesNotWaitForAStreamThatIsSilent(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	n := run(t, open(t, withLog(s.URL, "tether", kept)), make(chan broker.Message, 1000))
	n.subscribe(t, "x", "y")
	stranger := connect(t, s.URL)
	if _, err := stranger.Subscribe("tether.l.>", func(*natsio.Msg) {}); err != nil { // so that somebody takes it, and says nothing
		t.Fatal(err)
	}
	js, err := jetstream.New(stranger)
	if err != nil {
		t.Fatal(err)
	}
	for tries := 0; ; tries++ {
		if err := js.DeleteStream(t.Context(), "tether-log"); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			t.Fatal(err)
		}
		reach, err := n.Publish(t.Context(),
			broker.Message{Subject: "x", Place: 1},
			broker.Message{Subject: "y"},
			broker.Message{Subject: "x", Data: []byte("behind it")},
			broker.Message{Subject: "y", Data: []byte("at last")})
		if tries < 20 && (err == nil || reach[1] != one || reach[3] != one) { // it was there again, or the machine is busy
			continue
		}
		if !errors.Is(err, broker.ErrUnavailable) || reach[1] != one || reach[3] != one || reach[0] != unknown || reach[2] != unknown {
			t.Errorf("got %v, %v", reach, err)
		}
		break
	}
	for m := receive(t, n.got); string(m.Data) != "at last"; m = receive(t, n.got) {
		if m.Subject == "x" && m.Place == 0 {
			t.Errorf("%q has come, which is behind what the stream does not have", m.Data)
		}
	}
}

// TestWhatTheStreamStoresLateIsDelivered although its publisher has given it up, and has published something without a place
// since.
func TestWhatTheStreamStoresLateIsDelivered(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	n := run(t, open(t, withLog(s.URL, "tether", kept)), make(chan broker.Message, 10))
	n.subscribe(t, "x")
	conn := connect(t, s.URL)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	var generation struct{ Base uint64 }
	if err := json.Unmarshal(generationIn(t, js), &generation); err != nil {
		t.Fatal(err)
	}
	if err := conn.PublishRequest("tether.r.s.x", "_INBOX.publisher.2", []byte("second")); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, n.got); string(got.Data) != "second" {
		t.Fatalf("got %q", got.Data)
	}
	const first = "_INBOX.publisher.1"
	front := append(binary.AppendUvarint(binary.AppendUvarint(nil, generation.Base), uint64(len(first))), first...)
	if _, err := js.Publish(t.Context(), "tether.l.sx.s.x", append(front, "first"...)); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, n.got); string(got.Data) != "first" || got.Place == 0 {
		t.Errorf("got %q at %d", got.Data, got.Place)
	}
}
