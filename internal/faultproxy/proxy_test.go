package faultproxy

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"
)

// echo returns the address of a server that sends back what it gets.
func echo(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() { // ends with its connection
				io.Copy(c, c)
				c.Close()
			}()
		}
	}()
	return l.Addr().String()
}

func dial(t *testing.T, p *Proxy) net.Conn {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if _, err := io.WriteString(c, s); err != nil {
		t.Fatalf("write %q: %v", s, err)
	}
}

func expect(t *testing.T, c net.Conn, want string) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	got := make([]byte, len(want))
	n, err := io.ReadFull(c, got)
	if string(got[:n]) != want {
		t.Fatalf("got %q, %v; want %q", got[:n], err, want)
	}
}

// expectSilence is only ever wrong in passing: what would break it takes microseconds.
func expectSilence(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	n, err := c.Read(make([]byte, 100))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("got %d bytes, %v; want silence", n, err)
	}
}

func expectEnd(t *testing.T, c net.Conn) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		_, err := c.Read(make([]byte, 100))
		if errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal("the connection is still open")
		}
		if err != nil {
			return
		}
	}
}

// expectRefusal dials and wants a reset, which may come before the dial is done or after it.
func expectRefusal(t *testing.T, p *Proxy) {
	t.Helper()
	c, err := net.Dial("tcp", p.Addr())
	if err != nil {
		return
	}
	defer c.Close()
	expectEnd(t, c)
}

func TestBytesAndTheOrderlyEndPassBothWays(t *testing.T) {
	p := New(t, echo(t))
	c := dial(t, p)
	big := strings.Repeat("0123456789abcdef", 1<<14)
	go io.WriteString(c, big) // the echo would block us before all is written
	expect(t, c, big)
	c.(*net.TCPConn).CloseWrite()
	if _, err := c.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("after the end: got %v, want %v", err, io.EOF)
	}
}

func TestWhatIsHeldArrivesAfterHeal(t *testing.T) {
	for name, d := range map[string]Direction{"ToServer": ToServer, "ToClient": ToClient, "Both": Both} {
		t.Run(name, func(t *testing.T) {
			p := New(t, echo(t))
			c := dial(t, p)
			send(t, c, "a")
			expect(t, c, "a")
			p.Hold(d)
			send(t, c, "b")
			expectSilence(t, c)
			p.Heal()
			expect(t, c, "b")
		})
	}
}

func TestAConnectionOpenedWhileHeldIsSilentToo(t *testing.T) {
	p := New(t, echo(t))
	p.Hold(Both)
	c := dial(t, p)
	send(t, c, "a")
	expectSilence(t, c)
	p.Heal()
	expect(t, c, "a")
}

func TestAConnectionThatLostBytesStaysSilent(t *testing.T) {
	p := New(t, echo(t))
	c := dial(t, p)
	send(t, c, "a")
	expect(t, c, "a")
	p.Swallow(ToClient)
	send(t, c, "b")
	expectSilence(t, c)
	p.Heal()
	send(t, c, "c")
	expectSilence(t, c)

	fresh := dial(t, p)
	send(t, fresh, "d")
	expect(t, fresh, "d")
}

func TestDelayShiftsBytesAndKeepsTheirOrder(t *testing.T) {
	p := New(t, echo(t))
	c := dial(t, p)
	const delay = 100 * time.Millisecond
	p.Delay(Both, delay)
	start := time.Now()
	for _, s := range []string{"a", "b", "c"} {
		send(t, c, s)
	}
	expect(t, c, "abc")
	if took := time.Since(start); took < 2*delay {
		t.Errorf("took %v, want at least %v", took, 2*delay)
	}
}

func TestCutAfterForwardsExactlySoManyBytes(t *testing.T) {
	p := New(t, echo(t))
	old := dial(t, p)
	send(t, old, "abc")
	expect(t, old, "abc")
	p.CutAfter(ToServer, 2)
	for _, c := range []net.Conn{old, dial(t, p)} {
		send(t, c, "x")
		expect(t, c, "x")
		send(t, c, "yz")
		expectEnd(t, c)
	}
}

func TestCutEndsWhatIsOpenAndRefuseWhatComes(t *testing.T) {
	p := New(t, echo(t))
	c := dial(t, p)
	send(t, c, "a")
	expect(t, c, "a")
	if got := p.Links(); got != 1 {
		t.Errorf("got %d links, want 1", got)
	}
	p.Cut()
	expectEnd(t, c)
	p.Refuse()
	expectRefusal(t, p)
	p.Heal()
	c = dial(t, p)
	send(t, c, "b")
	expect(t, c, "b")
}

func TestAnIdleConnectionIsCutAndOneInUseIsNot(t *testing.T) {
	p := New(t, echo(t))
	p.Idle(time.Second)
	c := dial(t, p)
	for range 75 {
		send(t, c, "a")
		expect(t, c, "a")
		<-time.After(20 * time.Millisecond)
	}
	expectEnd(t, c)
}

func TestNewConnectionsAreLedElsewhereAndOldOnesStay(t *testing.T) {
	p := New(t, echo(t))
	old := dial(t, p)
	send(t, old, "a")
	expect(t, old, "a")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p.Lead(l.Addr().String())
	dial(t, p)
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	send(t, old, "b")
	expect(t, old, "b")
}

func TestAProxyWithoutATargetEndsItsConnections(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	expectRefusal(t, New(t, l.Addr().String()))
}
