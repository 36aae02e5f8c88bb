package nats

import (
	"testing"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/internal/backend"
)

// TestAMessageWithoutATraceCostsNoAllocationAndNoHeaders beside the one that nats.go is asked for.
func TestAMessageWithoutATraceCostsNoAllocationAndNoHeaders(t *testing.T) {
	server := backend.NATS(t)
	conn, err := natsio.Connect(server.URL, ConnectOptions(nil)...)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	b := &Broker{conn: conn, link: newLink(nil), names: newNames(natsio.NewInbox()[len("_INBOX."):], nil)}
	s := slot{wire: b.names.wire("s"), reply: "nobody.listens"} // so that no answer of the server allocates
	write := func(m broker.Message) func() {
		return func() {
			if err := b.write(b.link.current(), m, &s, 1); err != nil {
				t.Fatal(err)
			}
		}
	}
	m := broker.Message{Subject: "s", Data: []byte("payload")}
	if n := testing.AllocsPerRun(1000, write(m)); n != 0 {
		t.Errorf("without a trace: %v allocations", n)
	}
	before := conn.Stats().OutBytes
	write(m)()
	if n := conn.Stats().OutBytes - before; n != uint64(len(m.Data)) {
		t.Errorf("without a trace: %d bytes for a payload of %d", n, len(m.Data))
	}
	m.Trace = &broker.Trace{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}
	if n := testing.AllocsPerRun(1000, write(m)); n == 0 {
		t.Error("with a trace nothing is allocated: the measure is wrong")
	}
}
