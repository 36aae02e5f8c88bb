package nats_test

import (
	"context"
	"errors"
	"strconv"
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

// A publisher cancels what nobody has acknowledged. The server has the cancellation of these messages
// before it can have their acknowledgements.
func TestWhatIsCancelledBeforeItIsAcknowledgedIsNotDelivered(t *testing.T) {
	s := backend.NATS(t)
	n := run(t, open(t, s.URL), make(chan broker.Message, 1000))
	if err := n.Subscribe(t.Context(), "s"); err != nil {
		t.Fatal(err)
	}
	p := connect(t, s.URL)
	acks, err := p.SubscribeSync("pub.x._")
	if err != nil {
		t.Fatal(err)
	}
	// One write, so that nothing comes between.
	for i := range 200 {
		if err := p.PublishRequest("tether.s.s", "pub.x."+strconv.FormatInt(int64(i), 36)+".0", []byte("late")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 200 {
		if err := p.PublishRequest("tether.s.s", "pub.x."+strconv.FormatInt(int64(i), 36)+".0.-", nil); err != nil {
			t.Fatal(err)
		}
	}
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
