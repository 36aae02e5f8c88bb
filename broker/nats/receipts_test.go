package nats

import (
	"errors"
	"slices"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/broker/internal/lane"
)

// reading returns a broker that reads and sends nothing, at a place in the cluster that is known.
func reading() *Broker {
	l := newLink(nil)
	b := &Broker{inbox: "_INBOX.x.", link: l, log: nil, names: newNames("tether", nil)}
	b.lanes = lane.New(lane.Options{Send: func(int, *lane.Batch) error { return nil }})
	b.cluster = &cluster{link: l, hello: "tether.c", all: "tether.m", servers: make(map[string]*server), changed: make(chan struct{})}
	b.receipts = newReceipts(b.cluster.isCertain, lookTick)
	return b
}

// publishing has n messages wait for their receipts, calls happen with the number of the first, and returns
// what is known of them then. The answers are those that happen returns.
func publishing(t *testing.T, b *Broker, n int, happen func(first uint64) []answer) []broker.Receipt {
	t.Helper()
	lanes := lane.New(lane.Options{Lanes: 1, Send: func(_ int, lb *lane.Batch) error {
		first := b.receipts.next
		batch := make([]slot, lb.Len())
		for i := range batch {
			batch[i] = slot{Pending: lb.Later(i), wire: "wire", waits: true}
		}
		b.receipts.wait(batch)
		for _, a := range happen(first) {
			a.give()
		}
		b.receipts.failFrom(first, nil) // what nothing is known of
		return nil
	}})
	defer lanes.Wait()
	defer lanes.Close()
	reach, err := lanes.Publish(t.Context(), make([]broker.Message, n)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(b.receipts.slots) > 0 {
		t.Errorf("%d messages are kept", len(b.receipts.slots))
	}
	return reach
}

// FuzzInboxTakesAnything reads what anybody may send to an inbox.
func FuzzInboxTakesAnything(f *testing.F) {
	f.Add("A", []byte{1, 1, 1, 2}, "")
	f.Add("A", []byte{1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "")
	f.Add("A", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, "")
	f.Add("A", []byte{0xff}, "")
	f.Add("1", []byte(nil), "503")
	f.Add("-1", []byte(nil), "503")
	f.Add("zzzzzzzzzzzzzzzzzzz", []byte("x"), "503")
	f.Add("B", []byte("1 1"), "")
	f.Add("C.x", []byte("B 1"), "")
	f.Fuzz(func(t *testing.T, tail string, data []byte, status string) {
		b := reading()
		var answers []answer
		b.receipts.wait([]slot{{waits: true}, {waits: true}})
		for range 2 { // also twice
			m := &natsio.Msg{Subject: b.inbox + tail, Data: data, Header: natsio.Header{"Status": []string{status}}}
			answers = b.readInbox(answers, nil, m)
		}
		if len(answers) > 2 {
			t.Fatalf("%d answers to two messages", len(answers))
		}
		for _, a := range answers {
			if a.reach.Nobody() && (len(data) > 0 || status != "503") {
				t.Fatalf("nobody, by %q %q %q", tail, data, status)
			}
		}
	})
}

func TestTheFirstThingThatIsLearnedOfAMessageCounts(t *testing.T) {
	b := reading()
	got := publishing(t, b, 5, func(first uint64) (out []answer) {
		r := b.receipts
		out = r.noResponders(out, first+3)
		out = r.acknowledge(out, appendRange(nil, first+1, 3)) // also what nobody is subscribed to
		out = r.noResponders(out, first+1)
		return r.acknowledge(out, appendRange(nil, first+100, 1<<62))
	})
	want := []broker.Receipt{unknown, atLeast, atLeast, {}, unknown}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("message %d: got %+v, want %+v", i, got[i], want[i])
		}
	}
}

func TestThatNobodyIsThereIsNotCertainUntilOthersKnowOfUs(t *testing.T) {
	for _, c := range []struct {
		name   string
		joined uint64 // epoch
		happen func(c *cluster)
		want   broker.Receipt
	}{
		{"the others know", 0, func(*cluster) {}, broker.Receipt{}},
		{"somebody is at another server", 0, func(c *cluster) { c.heard(place{id: "B"}, 0) }, broker.Receipt{}},
		{"they knew where we were", 7, func(*cluster) {}, unknown},
		{"somebody is in another cluster", 0, func(c *cluster) { c.foreign.Store(true) }, unknown},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := reading()
			b.cluster.here = place{id: "A"}
			b.cluster.joined.Store(c.joined)
			c.happen(b.cluster)
			got := publishing(t, b, 1, func(first uint64) []answer { return b.receipts.noResponders(nil, first) })
			if got[0] != c.want {
				t.Errorf("got %+v, want %+v", got[0], c.want)
			}
		})
	}
}

// What is not acknowledged is unknown a second after the server has taken it, and what is not taken waits.
func TestAMessageIsGivenUpASecondAfterTheServerHasIt(t *testing.T) {
	b := reading()
	got := publishing(t, b, 3, func(first uint64) (out []answer) {
		r := b.receipts
		if out, _ := r.look(nil, time.Now().Add(time.Hour)); len(out) > 0 {
			t.Errorf("%d messages are given up that the server may not have", len(out))
		}
		begin := time.Now()
		r.taken()
		r.wait([]slot{{waits: true}})
		if out, _ := r.look(nil, begin.Add(ackWait-time.Millisecond)); len(out) > 0 {
			t.Errorf("%d messages are given up too early", len(out))
		}
		out, waits := r.look(r.acknowledge(nil, appendRange(nil, first+1, 1)), time.Now().Add(ackWait))
		if len(out) != 3 || !waits {
			t.Errorf("%d messages are answered, and others wait: %v; want 3 and true", len(out), waits)
		}
		r.slots = nil // that message is nobody's
		return out
	})
	if want := []broker.Receipt{unknown, atLeast, unknown}; !slices.Equal(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAcknowledgementsAreRanges(t *testing.T) {
	a := newAcks(nil)
	for _, reply := range []string{"x.1", "x.2", "x.3", "y.a", "x.4", "x.9", "x.8", "y.b", "elsewhere", "z.-"} {
		a.add(a.of(reply))
	}
	got := make(map[string][][2]uint64)
	for _, to := range a.owed {
		to.endRange()
		for data := to.ranges; len(data) > 0; {
			first, n, rest, ok := cutRange(data)
			if !ok {
				t.Fatalf("%s: %v", to.inbox, data)
			}
			got[to.inbox] = append(got[to.inbox], [2]uint64{first, n})
			data = rest
		}
	}
	if x, y := got["x."], got["y."]; len(got) != 2 || len(x) != 3 || x[0] != [2]uint64{1, 4} || x[1] != [2]uint64{9, 1} ||
		x[2] != [2]uint64{8, 1} || len(y) != 1 || y[0] != [2]uint64{10, 2} {
		t.Errorf("got %v", got)
	}
}

// What is answered before anybody looks leaves nothing behind.
func TestDeadlinesOfWhatIsAnsweredAtOnceAreForgotten(t *testing.T) {
	b := reading()
	for range 1000 {
		publishing(t, b, 1, func(first uint64) []answer {
			b.receipts.taken()
			return b.receipts.acknowledge(nil, appendRange(nil, first, 1))
		})
	}
	if n := len(b.receipts.deadlines); n > 1 {
		t.Errorf("%d deadlines are kept", n)
	}
}

// The server's word that nobody is subscribed is about the stream where a message has a place: who got it is not known.
func TestNoRespondersOfAStreamAreNotANobody(t *testing.T) {
	b := reading()
	reach := publishing(t, b, 1, func(first uint64) []answer {
		b.receipts.slots[0].placed = true
		return b.receipts.noResponders(nil, first)
	})
	if reach[0] != unknown {
		t.Errorf("the receipt is %v", reach[0])
	}
}

func TestWhatAStreamDoesNotStore(t *testing.T) {
	for data, want := range map[string]error{
		`{"stream":"x","seq":1}`: nil,
		`{"error":{"code":503,"err_code":10077,"description":"maximum bytes exceeded"}}`: broker.ErrRefused,
		`{"error":{"code":429,"err_code":10167,"description":"too many requests"}}`:      broker.ErrUnavailable,
	} {
		if err := refusedBy([]byte(data)); !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%s: %v, want %v", data, err, want)
		}
	}
}
