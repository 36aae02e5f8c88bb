package nats_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"tether/broker"
	"tether/internal/backend"
)

// generationIn is what is written down of the generation of a log.
func generationIn(t *testing.T, js jetstream.JetStream) []byte {
	t.Helper()
	stream, err := js.Stream(t.Context(), "tether-sessions")
	if err != nil {
		t.Fatal(err)
	}
	begun, err := stream.GetLastMsgForSubject(t.Context(), "tether.k.run")
	if err != nil {
		t.Fatal(err)
	}
	return begun.Data
}

// TestAForgedGenerationIsRefused by a node that knows the true one, until the log begins anew. It would count places otherwise.
func TestAForgedGenerationIsRefused(t *testing.T) {
	t.Parallel()
	s := backend.JetStreamStandIn(t, t.TempDir())
	n := run(t, open(t, withLog(s.URL, "tether", kept)), make(chan broker.Message, 10))
	n.subscribe(t, "x")
	l := logged(t, n.Broker)
	before := l.head(t)
	js, err := jetstream.New(connect(t, s.URL))
	if err != nil {
		t.Fatal(err)
	}
	begun := generationIn(t, js)
	forged := bytes.Replace(begun, []byte(`"before":0`), []byte(`"before":1`), 1)
	if bytes.Equal(forged, begun) {
		t.Fatalf("the generation is %s", begun)
	}
	if _, err := js.Publish(t.Context(), "tether.k.run", forged); err != nil {
		t.Fatal(err)
	}
	for receive(t, n.states) == nil {
	}
	for {
		_, err := n.Publish(t.Context(), broker.Message{Subject: "x", Place: 1})
		if err != nil && strings.Contains(err.Error(), "somebody else has written") {
			break
		}
		if err == nil || !errors.Is(err, broker.ErrUnavailable) {
			t.Fatalf("Publish: %v", err)
		}
	}
	for _, name := range []string{"tether-log", "tether-sessions"} {
		if err := js.DeleteStream(t.Context(), name); err != nil {
			t.Fatal(err)
		}
	}
	for receive(t, n.states) != nil {
	}
	receive(t, n.gaps)
	if after := l.head(t); after <= before {
		t.Errorf("the head was %d and is %d", before, after)
	}
	if got := l.read(t, "x", before); got != "forgotten" {
		t.Errorf("from before: %q", got)
	}
}
