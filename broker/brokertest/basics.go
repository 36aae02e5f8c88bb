package brokertest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"testing"

	"tether/broker"
	"tether/internal/long"
)

var basics = []test{
	{"a subject is live when Subscribe returns", testLive},
	{"receipts count the nodes that are subscribed", testReceipts},
	{"a node that has ended is not counted", testEnded},
	{"subscribing twice is subscribing once", testTwice},
	{"flapping ends in what was asked for last", testFlapping},
	{"what was counted is delivered before Unsubscribe returns", testUnsubscribeUnderFire},
	{"payloads of every size arrive unchanged", testPayloads},
	{"what is lent is the publisher's again", testLent},
	{"a trace changes nothing of a message, and is not delivered", testTrace},
	{"ten thousand subjects", testManySubjects},
}

func testLive(t *testing.T, h Harness) {
	n, p := start(t, h), publisher(t, h)
	for i := range 300 {
		s := "live:" + strconv.Itoa(i)
		n.subscribe(s)
		wantReach(t, h, publish(t, p, s, s), 1)
	}
	n.awaitCount(300)
}

func testReceipts(t *testing.T, h Harness) {
	p, a, b := publisher(t, h), start(t, h), start(t, h)
	wantReach(t, h, publish(t, p, "s", "0"), 0)
	a.subscribe("s", "only a")
	wantReach(t, h, publish(t, p, "s", "1"), 1)
	b.subscribe("s", "only b")
	wantReach(t, h, publish(t, p, "s", "2"), 2)
	wantReach(t, h, publish(t, a.b, "s", "3"), 2) // a publisher that is itself subscribed
	reach, err := p.Publish(context.Background(),
		broker.Message{Subject: "only a"}, broker.Message{Subject: "nobody"},
		broker.Message{Subject: "s", Data: []byte("4")}, broker.Message{Subject: "only b"})
	if err != nil || len(reach) != 4 {
		t.Fatalf("got %v, %v", reach, err)
	}
	for i, nodes := range []int{1, 0, 2, 1} {
		wantReach(t, h, reach[i], nodes)
	}
	a.await("four messages on s", func() bool { return len(a.got["s"]) >= 4 })
	a.unsubscribe("s") // what is on its way now may or may not be delivered
	wantReach(t, h, publish(t, p, "s", "5"), 1)
	b.await("four messages on s", func() bool { return len(b.got["s"]) >= 4 })
	b.unsubscribe("s")
	wantReach(t, h, publish(t, p, "s", "6"), 0)
	a.await("one message on its own", func() bool { return len(a.got["only a"]) == 1 })
	b.await("one message on its own", func() bool { return len(b.got["only b"]) == 1 })
}

// testUnsubscribeUnderFire ends subscriptions while others publish. What they were told that the node took has
// been delivered when the call returns, and nothing is afterwards.
func testUnsubscribeUnderFire(t *testing.T, h Harness) {
	const publishers, width = 3, 10
	rounds := long.Or(6, 20)
	if h.Overtakes {
		t.Skip("this backend confirms the end of a subscription ahead of its messages")
	}
	n := start(t, h)
	names := []string{"fire:0", "fire:1", "fire:2", "fire:3"}
	msgs := make([]broker.Message, width*len(names))
	for i := range msgs {
		msgs[i] = broker.Message{Subject: names[i%len(names)], Data: []byte("x")}
	}
	delivered := func() (total int) {
		for _, name := range names {
			total += len(n.received(name))
		}
		return total
	}
	pubs := make([]broker.Broker, publishers)
	for i := range pubs {
		pubs[i] = publisher(t, h)
	}
	before := 0
	for round := range rounds {
		n.subscribe(names...)
		taken := make(chan taking, publishers)
		for _, p := range pubs {
			go func() { taken <- publishUntilNobody(t, p, msgs) }()
		}
		n.awaitCount(before + (round+1)*len(msgs))
		n.unsubscribe(names...)
		atReturn := delivered()
		counted, sure := 0, true
		for range pubs {
			t := <-taken
			counted, sure = counted+t.counted, sure && t.failed == 0
		}
		if now := delivered(); now != atReturn {
			t.Errorf("%d messages were delivered after Unsubscribe had returned", now-atReturn)
		}
		got := atReturn - before
		if counted > got || h.Bound == broker.Exact && sure && counted < got {
			t.Errorf("%d messages were taken, and %d delivered when Unsubscribe returned", counted, got)
		}
		before = atReturn
	}
}

// taking is what publishing came to: how many messages were taken, and how many calls failed, of whose messages nobody
// knows.
type taking struct{ counted, failed int }

// publishUntilNobody publishes until of one call no message is taken. A backend that a busy machine keeps from its
// answer is asked again.
func publishUntilNobody(t *testing.T, p broker.Broker, msgs []broker.Message) (sum taking) {
	for {
		reach, err := p.Publish(context.Background(), msgs...)
		if errors.Is(err, broker.ErrUnavailable) && sum.failed < 10 {
			sum.failed++
			continue
		}
		if err != nil {
			t.Errorf("Publish: %v", err)
			return sum
		}
		n := 0
		for _, r := range reach {
			n += r.Nodes
		}
		if n == 0 {
			return sum
		}
		sum.counted += n
	}
}

func testEnded(t *testing.T, h Harness) {
	p := publisher(t, h)
	for _, c := range []struct {
		how string
		end func(*node)
	}{
		{"closed", func(n *node) { closeBroker(t, n.b) }},
		{"run ended", func(n *node) { n.end() }},
	} {
		n := start(t, h)
		n.subscribe("s")
		wantReach(t, h, publish(t, p, "s", c.how), 1)
		c.end(n)
		n.awaitEnd()
		awaitNobody(t, p, "s")
	}
}

func testTwice(t *testing.T, h Harness) {
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s", "s")
	n.subscribe("s")
	n.subscribe()
	wantReach(t, h, publish(t, p, "s", "1"), 1)
	publish(t, p, "s", "2")
	n.awaitData("s", "2")
	if got := n.received("s"); len(got) != 2 {
		t.Errorf("got %q, want each message once", got)
	}
	n.unsubscribe("s", "s", "unknown")
	n.unsubscribe("unknown")
	n.unsubscribe()
	wantReach(t, h, publish(t, p, "s", "3"), 0)
}

func testFlapping(t *testing.T, h Harness) {
	n, p := start(t, h), publisher(t, h)
	n.subscribe("steady")
	const rounds = 300
	for i := range rounds {
		data := strconv.Itoa(i)
		n.subscribe("s")
		wantReach(t, h, publish(t, p, "s", data), 1)
		wantReach(t, h, publish(t, p, "steady", data), 1)
		n.awaitData("s", data)
		n.unsubscribe("s")
		wantReach(t, h, publish(t, p, "s", "nobody"), 0)
	}
	n.awaitData("steady", strconv.Itoa(rounds-1))
	if got := n.received("s"); len(got) != rounds {
		t.Errorf("got %d messages, want %d", len(got), rounds)
	}

	// Many nodes at once, each with subjects of its own: a node's subscriptions have one caller.
	const many = 6
	done := make(chan error, many)
	for g := range many {
		b := start(t, h).b
		go func() { done <- flap(h, b, p, fmt.Sprintf("flap:%d:", g)) }()
	}
	for range many {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func flap(h Harness, n, p broker.Broker, prefix string) error {
	r := rand.New(rand.NewPCG(1, uint64(len(prefix))))
	live, failed := make(map[string]bool), 0
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	for range 200 {
		s := prefix + strconv.Itoa(r.IntN(5))
		live[s] = !live[s]
		change := n.Unsubscribe
		if live[s] {
			change = n.Subscribe
		}
		if err := change(ctx, s); err != nil {
			return errors.Join(err...)
		}
		reach, err := tryPublish(p, s, "")
		if slow(err) && failed < mostLate {
			failed++
			continue
		}
		if err == nil && h.excuses(reach) {
			continue
		}
		if err != nil || reach.Nobody() == live[s] {
			return fmt.Errorf("%s, live %t: got %v, %v", s, live[s], reach, err)
		}
	}
	return nil
}

// testLent uses the memory of messages again once Publish has returned.
func testLent(t *testing.T, h Harness) {
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s")
	data := make([]byte, 8)
	const rounds = 100
	for i := range rounds {
		copy(data, fmt.Sprintf("%08d", i))
		if _, err := p.Publish(context.Background(), broker.Message{Subject: "s", Data: data, Lent: true}); err != nil {
			t.Fatal(err)
		}
		clear(data)
	}
	n.awaitCount(rounds)
	for i, got := range n.received("s") {
		if want := fmt.Sprintf("%08d", i); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// testTrace publishes with a trace what a backend that has headers carries just so, too.
func testTrace(t *testing.T, h Harness) {
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s")
	trace := &broker.Trace{Parent: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", State: "vendor=opaque"}
	for _, data := range []string{"", "short"} {
		carry(t, h, n, p, broker.Message{Subject: "s", Data: []byte(data), Trace: trace})
	}
	carry(t, h, n, p, broker.Message{Subject: "s", Data: []byte("without")})
	if h.MaxData > 0 { // there is no place for headers
		carry(t, h, n, p, broker.Message{Subject: "s", Data: make([]byte, h.MaxData), Trace: trace})
	}
}

// carry publishes a message on "s" until it arrives. On a machine that is too slow for it, it lies in a gap.
func carry(t *testing.T, h Harness, n *node, p broker.Broker, m broker.Message) {
	t.Helper()
	data := string(m.Data)
	last := func() string { // with the lock held
		got := n.got["s"]
		if len(got) == 0 {
			return "nothing"
		}
		return got[len(got)-1]
	}
	failed := 0
	for gaps := 0; ; gaps = n.gapCount() {
		reach, err := p.Publish(context.Background(), m)
		if slow(err) && failed < mostLate {
			failed++
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		arrived := false
		n.await(fmt.Sprintf("%d bytes, or a gap", len(data)), func() bool {
			arrived = last() == data
			return arrived || len(n.gaps) > gaps
		})
		if arrived {
			if gaps == 0 {
				wantReach(t, h, reach[0], 1)
			}
			return
		}
		t.Logf("%d bytes lie in a gap", len(data))
		awaitDelivery(t, n, p, "s") // it is back
	}
}

func testPayloads(t *testing.T, h Harness) {
	n, p := start(t, h), publisher(t, h)
	n.subscribe("s")
	sizes := []int{0, 1, 2, 255, 256, 4095, 65_535, 65_536, 1_000_000}
	if h.MaxData > 0 {
		sizes = append(sizes, h.MaxData)
	} else {
		sizes = append(sizes, 8<<20)
	}
	r := rand.NewChaCha8([32]byte{1})
	for _, size := range sizes {
		if h.MaxData > 0 && size > h.MaxData {
			continue
		}
		data := make([]byte, size)
		r.Read(data)
		carry(t, h, n, p, broker.Message{Subject: "s", Data: data})
	}
	if h.MaxData == 0 {
		return
	}
	reach, err := p.Publish(context.Background(),
		broker.Message{Subject: "s", Data: []byte("before")},
		broker.Message{Subject: "s", Data: make([]byte, h.MaxData+1)},
		broker.Message{Subject: "s", Data: []byte("after")})
	if !errors.Is(err, broker.ErrTooLarge) || len(reach) != 3 || reach[1].Bound != broker.Unknown {
		t.Fatalf("one too large: got %v, %v", reach, err)
	}
	if n.gapCount() == 0 {
		wantReach(t, h, reach[0], 1)
		wantReach(t, h, reach[2], 1)
	}
	n.awaitData("s", "after")
}

func testManySubjects(t *testing.T, h Harness) {
	n, p := start(t, h), publisher(t, h)
	const many = 10_000
	names := make([]string, many)
	msgs := make([]broker.Message, many)
	for i := range names {
		names[i] = "many:" + strconv.Itoa(i)
		msgs[i] = broker.Message{Subject: names[i], Data: []byte(names[i])}
	}
	publishAll := func(nodes int) {
		t.Helper()
		reach, err := p.Publish(context.Background(), msgs...)
		if err != nil || len(reach) != many {
			t.Fatalf("Publish: %d reaches, %v", len(reach), err)
		}
		excused := false // all of a call come late together
		for i := range reach {
			if excused && reach[i].Bound == broker.Unknown {
				continue
			}
			wantReach(t, h, reach[i], nodes)
			excused = excused || h.Bound == broker.AtLeast && reach[i].Bound == broker.Unknown && shared()
		}
	}
	n.subscribe(names...)
	publishAll(1)
	n.awaitCount(many)
	for _, s := range names {
		if got := n.received(s); len(got) != 1 || got[0] != s {
			t.Fatalf("%s: got %q", s, got)
		}
	}
	n.unsubscribe(names...)
	publishAll(0)
}
