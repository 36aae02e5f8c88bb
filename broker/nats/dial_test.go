package nats

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// network is what a dialer sees of servers: some answer at once, the others never.
type network struct {
	mu      sync.Mutex
	answers map[string]bool
	open    map[net.Conn]string // guarded by mu
}

type pipe struct {
	net.Conn
	n *network
}

func (p *pipe) Close() error {
	p.n.mu.Lock()
	defer p.n.mu.Unlock()
	delete(p.n.open, p)
	return p.Conn.Close()
}

func (n *network) connect(ctx context.Context, _, address string) (net.Conn, error) {
	if !n.answers[address] {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	here, _ := net.Pipe()
	p := &pipe{here, n}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.open[p] = address
	return p, nil
}

// reconnect asks for servers as nats.go does, one after the other, and returns the one that was connected to.
func reconnect(t *testing.T, d *dialer, addresses ...string) (string, time.Duration) {
	t.Helper()
	begin := time.Now()
	for range 2 {
		for _, a := range addresses {
			if c, err := d.dial("tcp", a); err == nil {
				c.Close()
				return a, time.Since(begin)
			}
		}
	}
	t.Fatal("no server could be connected to")
	return "", 0
}

func TestServersThatDoNotAnswerArePassedOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{answers: map[string]bool{"good": true}, open: make(map[net.Conn]string)}
		d := newDialer(t.Context(), []string{"good"})
		d.connect = n.connect
		d.connected()
		for i, want := range []time.Duration{3 * headStart, 0} { // then it is known which do not answer
			got, took := reconnect(t, d, "bad1", "bad2", "bad3", "good")
			if got != "good" || took > want {
				t.Errorf("time %d: %q after %v, want good after %v", i, got, took, want)
			}
		}
		n.answers["bad2"] = true
		if got, took := reconnect(t, d, "good", "bad2"); got != "good" || took != 0 {
			t.Errorf("got %q after %v, want good at once", got, took)
		}
		n.answers["good"] = false
		if got, took := reconnect(t, d, "good", "bad2"); got != "bad2" || took > dialTimeout {
			t.Errorf("when it answers and the other does not: %q after %v", got, took)
		}
		if len(n.open) > 0 {
			t.Errorf("connections are left to %v", n.open)
		}
	})
}

func TestServersThatAnswerSlowlyGetMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDialer(t.Context(), []string{"slow1", "slow2"})
		defer d.connected()
		d.connect = func(ctx context.Context, _, _ string) (net.Conn, error) {
			select {
			case <-time.After(dialTimeout - time.Millisecond):
				here, _ := net.Pipe()
				return here, nil
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		}
		rounds := 1
		for ; ; rounds++ {
			if c, err := d.dial("tcp", "slow1"); err == nil {
				c.Close()
				break
			}
			if _, err := d.dial("tcp", "slow2"); err == nil || !d.again() {
				t.Fatalf("round %d: got %v, and none is to follow", rounds, err)
			}
		}
		if rounds != 4 {
			t.Errorf("it was connected to in round %d, want 4", rounds)
		}
	})
}

// What answers and is no server that can be used does not keep others from being tried.
func TestAServerIsPassedOverOnlyOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{answers: map[string]bool{"useless": true}, open: make(map[net.Conn]string)}
		d := newDialer(t.Context(), []string{"useless", "back soon"})
		d.connect = n.connect
		defer d.connected()
		if _, err := d.dial("tcp", "back soon"); err == nil {
			t.Fatal("it answers")
		}
		n.answers["back soon"] = true
		if _, err := d.dial("tcp", "back soon"); !errors.Is(err, errOthersAnswer) {
			t.Errorf("got %v, want %v", err, errOthersAnswer)
		}
		c, err := d.dial("tcp", "back soon")
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	})
}

func TestTheOnlyServerHasAllTheTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{open: make(map[net.Conn]string)}
		d := newDialer(t.Context(), []string{"only"})
		d.connect = n.connect
		d.connected()
		begin := time.Now()
		if _, err := d.dial("tcp", "only"); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != dialTimeout {
			t.Errorf("got %v after %v, want %v", err, time.Since(begin), dialTimeout)
		}
	})
}

func TestWhatIsNoNATSServerIsCalledSo(t *testing.T) {
	for _, c := range []struct {
		says, want string
		wait       time.Duration
	}{
		{"HTTP/1.1 400 Bad Request\r\n", "does not greet as a NATS server does", time.Minute},
		{"", "says nothing", 100 * time.Millisecond},
	} {
		here, there := net.Pipe()
		g := newDialer(t.Context(), nil).greeted(here, "host:1")
		if c.says != "" {
			go there.Write([]byte(c.says)) // ends with the pipe
		}
		g.SetReadDeadline(time.Now().Add(c.wait))
		_, err := g.Read(make([]byte, 100))
		if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "host:1") {
			t.Errorf("%q: got %v, want %q", c.says, err, c.want)
		}
		g.Close()
		there.Close()
	}
	here, there := net.Pipe()
	defer there.Close()
	g := newDialer(t.Context(), nil).greeted(here, "host:1")
	defer g.Close()
	for _, part := range []string{"IN", "FO {}\r\n"} {
		go there.Write([]byte(part)) // ends with the read
		if n, err := g.Read(make([]byte, 100)); err != nil || n != len(part) {
			t.Errorf("%q: got %d, %v", part, n, err)
		}
	}
}
