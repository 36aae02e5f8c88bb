package nats_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	natsio "github.com/nats-io/nats.go"

	"tether/broker"
	"tether/internal/backend"
	"tether/internal/faultproxy"
)

// A node dies, as far as the server can tell, when it has read a message and its acknowledgement has not
// left it: the publisher is told that nobody is there, and then nobody may have delivered it.
func TestWhatIsNotAcknowledgedBeforeTheNodeIsGoneIsNotDelivered(t *testing.T) {
	s := backend.NATS(t)
	proxy := faultproxy.New(t, s.Addr)
	n := run(t, open(t, "nats://"+proxy.Addr()), make(chan broker.Message, 100))
	p := open(t, s.URL)
	defer p.Close()
	if err := n.Subscribe(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	said := make(map[string]broker.Reach)
	for i := range 5 {
		data := strconv.Itoa(i)
		proxy.Hold(faultproxy.ToServer)
		published := make(chan broker.Reach)
		go func() {
			reach, err := p.Publish(context.Background(), broker.Message{Subject: "s", Data: []byte(data)})
			if err != nil {
				t.Errorf("Publish: %v", err)
			}
			published <- reach[0]
		}()
		<-time.After(50 * time.Millisecond) // it has been read by then
		proxy.Refuse()
		proxy.Cut()
		begin := time.Now()
		said[data] = receive(t, published)
		if took := time.Since(begin); !said[data].Nobody() || took > time.Second {
			t.Errorf("after %v: got %+v, want nobody", took, said[data])
		}
		proxy.Heal()
		n.moved(t)
		if g := receive(t, n.gaps); g.From.After(begin) || g.To.Before(begin) {
			t.Errorf("got %+v, want a gap around %v", g, begin)
		}
	}
	if reach := publishOne(t, p, "s", "end"); reach != one {
		t.Errorf("afterwards: got %+v, want %+v", reach, one)
	}
	for m := receive(t, n.got); string(m.Data) != "end"; m = receive(t, n.got) {
		t.Errorf("%q was delivered, and its receipt is %+v", m.Data, said[string(m.Data)])
	}
}

// A publisher cancels what nobody has acknowledged. The server has the cancellations before it has the
// acknowledgements, which are on their way.
func TestWhatIsCancelledBeforeItIsAcknowledgedIsNotDelivered(t *testing.T) {
	s := backend.NATS(t)
	proxy := faultproxy.New(t, s.Addr)
	n := run(t, open(t, "nats://"+proxy.Addr()), make(chan broker.Message, 1000))
	if err := n.Subscribe(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	p := connect(t, s.URL)
	acks, err := p.SubscribeSync("pub.x._")
	if err != nil {
		t.Fatal(err)
	}
	publish := func(tail string, data string) {
		for i := range 200 {
			if err := p.PublishRequest("tether.s.s", "pub.x."+strconv.FormatInt(int64(i), 36)+tail, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		if err := p.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	proxy.Hold(faultproxy.ToServer)
	publish(".0", "late")
	<-time.After(50 * time.Millisecond) // they have been read by then
	publish(".0.-", "")
	proxy.Heal()
	if err := p.PublishRequest("tether.s.s", "pub.x.9.1", []byte("end")); err != nil {
		t.Fatal(err)
	}
	if _, err := acks.NextMsg(10 * time.Second); err != nil {
		t.Errorf("there is no acknowledgement: %v", err)
	}
	if m := receive(t, n.got); string(m.Data) != "end" {
		t.Errorf("got %q, want %q", m.Data, "end")
	}
	if g := receive(t, n.gaps); len(g.Subjects) != 1 || g.Subjects[0] != "s" {
		t.Errorf("got %+v, want a gap of %q", g, "s")
	}
}

// The server may learn late that somebody has left.
func TestAMessageToWhoLeavesLaterIsAnsweredSoon(t *testing.T) {
	s := backend.NATS(t)
	conn := connect(t, s.URL)
	sub, err := conn.SubscribeSync("tether.s.s")
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	p := open(t, s.URL)
	defer p.Close()
	answered := make(chan broker.Reach)
	go func() {
		reach, err := p.Publish(context.Background(), broker.Message{Subject: "s"})
		if err != nil {
			t.Errorf("Publish: %v", err)
		}
		answered <- reach[0]
	}()
	for range 3 { // the message, and two questions
		if _, err := sub.NextMsg(10 * time.Second); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	if err := sub.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if reach := receive(t, answered); !reach.Nobody() {
		t.Errorf("got %+v, want nobody", reach)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
}

// A message meets the end of a subscription, and whoever was subscribed is again when its publisher asks.
func TestAMessageToWhoLeavesAndComesBackIsAnsweredSoon(t *testing.T) {
	s := backend.NATS(t)
	conn := connect(t, s.URL)
	left, err := conn.SubscribeSync("tether.s.s") // what arrives here is lost
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	n := run(t, open(t, s.URL), make(chan broker.Message, 1))
	p := open(t, s.URL)
	defer p.Close()
	begin := time.Now()
	answered := make(chan broker.Reach)
	go func() {
		reach, err := p.Publish(context.Background(), broker.Message{Subject: "s"})
		if err != nil {
			t.Errorf("Publish: %v", err)
		}
		answered <- reach[0]
	}()
	if _, err := left.NextMsg(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if err := n.Subscribe(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	if err := left.Unsubscribe(); err != nil {
		t.Fatal(err)
	}
	if reach := receive(t, answered); !reach.Nobody() {
		t.Errorf("got %+v, want nobody", reach)
	}
	if took := time.Since(begin); took > time.Second {
		t.Errorf("it took %v", took)
	}
	if reach := publishOne(t, p, "s", "end"); reach != one {
		t.Errorf("got %+v, want %+v", reach, one)
	}
	if m := receive(t, n.got); string(m.Data) != "end" {
		t.Errorf("got %q, want %q", m.Data, "end")
	}
}

// A node whose process is frozen finds a message that its publisher has been told nobody took, and the
// node's clock, which may have stood still, does not say that it is late.
func TestAFrozenNodeIsCertainlyNotThereAndFindsTheMessageCancelled(t *testing.T) {
	s := backend.NATS(t)
	conn := connect(t, s.URL)
	sub, err := conn.SubscribeSync("tether.s.s") // it takes, and does not acknowledge
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Flush(); err != nil {
		t.Fatal(err)
	}
	p := open(t, s.URL)
	defer p.Close()
	begin := time.Now()
	if reach := publishOne(t, p, "s", "x"); !reach.Nobody() {
		t.Errorf("got %+v, want nobody", reach)
	}
	if took := time.Since(begin); took > 4*time.Second {
		t.Errorf("it took %v", took)
	}
	var first, last *natsio.Msg
	questions := 0
	for {
		m, err := sub.NextMsg(10 * time.Millisecond)
		if errors.Is(err, natsio.ErrTimeout) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if first == nil {
			first = m
		} else if m.Reply == first.Reply+"._" {
			questions++
		}
		last = m
	}
	if first == nil || last.Reply != first.Reply+".-" || len(last.Data) > 0 || questions < 3 {
		t.Errorf("got %+v, %d questions, %+v", first, questions, last)
	}
}

// Whoever comes and goes, a publisher soon knows: what it publishes meets a subscription at every point of
// its end, and of its return.
func TestAPublisherDoesNotWaitForWhoComesAndGoes(t *testing.T) {
	const soon = time.Second // a few questions, and a margin for the machine
	s := backend.NATS(t)
	p := open(t, s.URL)
	defer p.Close()
	n := run(t, open(t, s.URL), make(chan broker.Message, 1<<20))
	stop := make(chan struct{})
	var slowest, count atomic.Int64
	var publishing sync.WaitGroup
	for range 8 {
		publishing.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				begin := time.Now()
				if _, err := p.Publish(context.Background(), broker.Message{Subject: "s"}); err != nil {
					t.Errorf("Publish: %v", err)
				}
				took := int64(time.Since(begin))
				for old := slowest.Load(); took > old && !slowest.CompareAndSwap(old, took); old = slowest.Load() {
				}
				count.Add(1)
			}
		})
	}
	for count.Load() < 200 {
		if err := n.Subscribe(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
		if err := n.Unsubscribe(t.Context(), "s"); err != nil {
			t.Fatal(err)
		}
	}
	close(stop)
	publishing.Wait()
	took := time.Duration(slowest.Load())
	t.Logf("the slowest of %d took %v", count.Load(), took)
	if took > soon {
		t.Errorf("it took %v", took)
	}
}
