package nats_test

import (
	"context"
	"strconv"
	"sync"
	"testing"
	"time"

	"tether/broker"
	"tether/internal/backend"
	"tether/internal/faultproxy"
	"tether/internal/long"
)

var unknown = broker.Receipt{Bound: broker.Unknown}

// aboutASecond is how long a publisher waits for an acknowledgement, with a margin for the machine.
const aboutASecond = 1400 * time.Millisecond

// A node dies when it has read a message, and may have delivered it, and its acknowledgement has not left it.
func TestWhatIsNotAcknowledgedBeforeTheNodeIsGoneIsUnknown(t *testing.T) {
	long.Alone(t)
	s := backend.NATS(t)
	proxy := faultproxy.New(t, s.Addr)
	n := run(t, open(t, "nats://"+proxy.Addr()), make(chan broker.Message, 100))
	p := open(t, s.URL)
	defer p.Close()
	n.subscribe(t, "s")
	for i := range 3 {
		proxy.Hold(faultproxy.ToServer)
		published := make(chan broker.Receipt)
		begin := time.Now()
		go func() {
			reach, err := p.Publish(context.Background(), broker.Message{Subject: "s", Data: []byte(strconv.Itoa(i))})
			if err != nil {
				t.Errorf("Publish: %v", err)
			}
			published <- reach[0]
		}()
		if m := receive(t, n.got); string(m.Data) != strconv.Itoa(i) {
			t.Errorf("got %q, want %d", m.Data, i)
		}
		proxy.Refuse()
		proxy.Cut()
		if reach, took := receive(t, published), time.Since(begin); reach != unknown || took > long.Limit(aboutASecond) {
			t.Errorf("after %v: got %+v, want %+v", took, reach, unknown)
		}
		if reach := settled(t, p, "s", "nobody"); reach != (broker.Receipt{}) {
			t.Errorf("when the server knows that the node is gone: got %+v, want nobody", reach)
		}
		proxy.Heal()
		n.moved(t)
		if g := receive(t, n.gaps); g.From.After(begin) && g.From.After(time.Now()) || g.To.Before(begin) {
			t.Errorf("got %+v, want a gap after %v", g, begin)
		}
	}
	if reach := settled(t, p, "s", "end"); reach != one {
		t.Errorf("afterwards: got %+v, want %+v", reach, one)
	}
}

// Somebody is subscribed and does not acknowledge, as a node whose process is frozen.
func TestWhatAFrozenNodeTakesIsUnknownAndHoldsUpNobodyElse(t *testing.T) {
	long.Alone(t)
	s := backend.NATS(t)
	conn := connect(t, s.URL)
	sub, err := conn.SubscribeSync("tether.s.frozen")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	n := run(t, open(t, s.URL), make(chan broker.Message, 100))
	n.subscribe(t, "awake")
	p := open(t, s.URL)
	defer p.Close()
	begin := time.Now()
	answered := make(chan broker.Receipt)
	go func() {
		reach, err := p.Publish(context.Background(), broker.Message{Subject: "frozen"}, broker.Message{Subject: "awake"})
		if err != nil || reach[1] != one && !late(reach[1]) {
			t.Errorf("got %+v, %v, want one node for the other message", reach, err)
		}
		answered <- reach[0]
	}()
	if _, err := sub.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if reach := publishOne(t, p, "awake", ""); reach != one && !late(reach) {
		t.Errorf("another message: got %+v, want %+v", reach, one)
	}
	if took := time.Since(begin); took > long.Limit(time.Second) {
		t.Errorf("another message took %v", took)
	}
	if reach := receive(t, answered); reach != unknown {
		t.Errorf("got %+v, want %+v", reach, unknown)
	}
	if took := time.Since(begin); took > long.Limit(aboutASecond) || took < time.Second {
		t.Errorf("it took %v", took)
	}
	if _, err := sub.NextMsg(10 * time.Millisecond); err == nil {
		t.Error("there is a second message")
	}
}

// What is published meets a subscription at every point of its end, and of its return. A receipt that nobody
// is there is true, and no receipt takes longer than about a second.
func TestReceiptsAreTrueOfWhoComesAndGoes(t *testing.T) {
	long.Alone(t)
	const publishers, rounds = 8, 60
	s := backend.NATS(t)
	p := open(t, s.URL)
	defer p.Close()
	n := run(t, open(t, s.URL), make(chan broker.Message, 1<<20))
	stop := make(chan struct{})
	var mu sync.Mutex
	said := make(map[string]broker.Receipt) // guarded by mu
	var publishing sync.WaitGroup
	for g := range publishers {
		publishing.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				data, begin := strconv.Itoa(g)+"/"+strconv.Itoa(i), time.Now()
				reach, err := p.Publish(context.Background(), broker.Message{Subject: "s", Data: []byte(data)})
				if err != nil && !slow(err) { // then the receipt is unknown
					t.Errorf("Publish: %v", err)
					return
				}
				if took := time.Since(begin); took > long.Limit(aboutASecond) {
					t.Errorf("it took %v", took)
				}
				mu.Lock()
				said[data] = reach[0]
				mu.Unlock()
			}
		})
	}
	for range rounds {
		n.subscribe(t, "s")
		n.unsubscribe(t, "s")
	}
	close(stop)
	publishing.Wait()
	counts := make(map[string]int)
	for len(n.got) > 0 {
		m := <-n.got
		reach := said[string(m.Data)]
		if reach.Nobody() {
			t.Errorf("%q was delivered, and its receipt is %+v", m.Data, reach)
		}
		counts["delivered"]++
		delete(said, string(m.Data))
	}
	for data, reach := range said {
		if reach.Nodes > 0 {
			t.Errorf("%q was counted and not delivered", data)
		}
		counts[reach.String()]++
	}
	t.Log(counts)
}
