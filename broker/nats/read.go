package nats

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	natsio "github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

const (
	// readQueue is what nats.go has read and read has not: nats.go drops what it finds no place for. It is
	// that large because read may not get a processor for a while.
	readQueue = 1 << 15

	// burst is the number of messages that are taken, acknowledged and handed over together, at most.
	burst = 256
)

// What comes to our inbox, by the end of its subject. Numbers are in base 36, whose letters are small:
//
//	NUMBER    the reply subject of a message: the server's "no responders"
//	A         acknowledgements of receivers, as ranges of numbers
//	B         a beat; see run
//	Q         the reply subject of a question to ourselves; see rooms
//	P.NUMBER  that of a probe: an empty message that asks the server whether anybody is subscribed; see receipts
//	C.…       answers of other brokers; see cluster
const (
	ackTail      = "A"
	beatTail     = "B"
	questionTail = "Q"
	probeTail    = "P."
	clusterTail  = "C."
)

// read reads everything that the server sends us, in its order, until gone. It is the only goroutine that
// does, and it waits for nobody but the server.
func (b *Broker) read() {
	tick := time.NewTicker(lookTick)
	tick.Stop()
	defer tick.Stop()
	var answers []answer
	for {
		waits := true
		select {
		case m := <-b.in:
			answers = b.readBurst(answers, m)
		case <-b.receipts.wake:
			tick.Reset(b.receipts.tick)
		case now := <-tick.C:
			if answers, waits = b.receipts.look(answers, now); !waits {
				tick.Stop()
			}
			b.probe()
		case <-b.gone:
			return
		}
		if len(answers) > 0 {
			b.lanes.Alive()
		}
		for _, a := range answers {
			a.give()
		}
		clear(answers)
		answers = answers[:0]
	}
}

// readBurst reads a message and those that have come behind it.
func (b *Broker) readBurst(answers []answer, m *natsio.Msg) []answer {
	r := b.run.Load()
	if r != nil {
		r.begin()
	}
	if len(b.in) >= cap(b.in)-1 {
		// It was full, or nearly, and only we take from it: nats.go may have dropped something.
		b.dropped.Add(1)
		if r != nil {
			r.miss("", errOverflow)
		}
	}
	fenced := false
	for n := 1; ; n++ {
		switch {
		case m == b.fence:
			fenced = true
		case strings.HasPrefix(m.Subject, b.inbox):
			answers = b.readInbox(answers, r, m)
		case b.names.isRoom(m.Subject):
			if r != nil {
				r.take(m)
			}
		default:
			b.cluster.read(m)
		}
		if n == burst || len(b.in) == 0 {
			break
		}
		m = <-b.in // nobody else takes from it
	}
	if r != nil {
		r.end()
	}
	if fenced {
		b.fenced <- struct{}{} // keep waits for it
	}
	return answers
}

func (b *Broker) readInbox(answers []answer, r *run, m *natsio.Msg) []answer {
	tail := m.Subject[len(b.inbox):]
	switch {
	case tail == ackTail:
		return b.receipts.acknowledge(answers, m.Data)
	case tail == beatTail:
		if r != nil {
			r.back(m.Data)
		}
	case strings.HasPrefix(tail, clusterTail):
		b.cluster.readAnswer(tail[len(clusterTail):], m)
	case len(m.Data) == 0 && m.Header.Get("Status") == "503":
		if probed, is := strings.CutPrefix(tail, probeTail); is {
			return b.receipts.nobody(answers, number(probed))
		}
		return b.noResponders(answers, number(tail))
	case b.kept != nil:
		return b.receipts.stored(answers, number(tail), refusedBy(m.Data))
	}
	return answers
}

// noResponders takes the word of the server that nobody is subscribed to what a message was published on. With a place
// that is the stream.
func (b *Broker) noResponders(answers []answer, n uint64) []answer {
	if b.kept == nil || !b.receipts.waitsForStream(n) {
		return b.receipts.noResponders(answers, n)
	}
	b.kept.doubt()
	return b.receipts.stored(answers, n, unavailable("publish", errNoStream))
}

var errNoStream = errors.New("no stream takes it")

// refusedBy is why a stream has not stored a message; nil: it has.
func refusedBy(data []byte) error {
	if !bytes.Contains(data, []byte(`"error":{`)) {
		return nil
	}
	var stored struct{}
	err := decode(data, &stored)
	if api := new(jetstream.APIError); errors.As(err, &api) && api.Code == http.StatusTooManyRequests {
		return unavailable("publish", err)
	}
	return refused("publish", err)
}

// isProbe reports whether a reply subject is that of a probe.
func isProbe(reply string) bool {
	i := strings.LastIndexByte(reply, '.') + 1
	return strings.HasSuffix(reply[:i], "."+probeTail)
}

// probe asks whether anybody is subscribed where nobody has acknowledged a message so far.
func (b *Broker) probe() {
	if b.kept == nil {
		return
	}
	for _, p := range b.receipts.unacknowledged() {
		_ = b.conn.PublishRequest(b.kept.room(p.wire), b.inbox+probeTail+strconv.FormatUint(p.n, 36), nil) // else it is unknown a little later
	}
}

// number reads a number; 0, which is none, if there is something else.
func number(s string) uint64 {
	n, err := strconv.ParseUint(s, 36, 63)
	if err != nil {
		return 0
	}
	return n
}
