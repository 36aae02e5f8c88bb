package transport

import (
	"bytes"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
)

// idlers are what a client can send that carries nothing; each is one.
var idlers = map[string]string{
	"WebSocket pings":                  string(clientFrame(bitFin|opPing, []byte("x"))),
	"WebSocket pongs":                  string(clientFrame(bitFin|opPong, nil)),
	"Engine.IO pongs nobody asked for": string(textFrame("3")),
	"Engine.IO noops":                  string(textFrame("6")),
	"Engine.IO upgrades":               string(textFrame("5")),
	"tiny fragments":                   string(clientFrame(opContinuation, []byte(strings.Repeat("x", tinyFragment-1)))),
	"empty fragments":                  string(clientFrame(opContinuation, nil)),
}

// start is what has to come before such a frame, and counts as many as it returns.
func startOf(name string) (frame string, n int) {
	if strings.HasSuffix(name, "fragments") {
		return string(clientFrame(opText, bytes.Repeat([]byte("4"), tinyFragment))), 0
	}
	return "", 0
}

func TestWhatCarriesNothingHasABudget(t *testing.T) {
	const rate, budget = 10, 10 * int(controlTime/time.Second)
	for name, frame := range idlers {
		t.Run(name, func(t *testing.T) {
			start, n := startOf(name)
			// In a bubble no time passes: to the limit, and one past it.
			inBubble(t, Options{ControlRate: rate, MessageTimeout: time.Hour}, func(t *testing.T, h *Handler, last func() *echo) {
				c := pipe(t, h, "EIO=4&transport=websocket")
				go discardTo(c, 1<<20)
				c.write([]byte(start + strings.Repeat(frame, budget-n)))
				synctest.Wait()
				e := last()
				select {
				case got := <-e.closed:
					t.Fatalf("at the limit: closed for %q", got)
				default:
				}
				c.conn.Write([]byte(frame)) // of some the header is enough
				if got := <-e.closed; got != engine.ReasonTransportError {
					t.Errorf("closed for %q", got)
				}
			})
			// On a socket, and so on both carriers: the close code.
			s := serve(t, Options{ControlRate: rate})
			c := s.websocket()
			c.write([]byte(start + strings.Repeat(frame, budget-n)))
			go c.conn.Write([]byte(strings.Repeat(frame, 10*budget))) // what it does not take is an error of nobody
			c.wantClose(1008)
		})
	}
}

// discardTo reads up to n bytes of what a client in a bubble gets.
func discardTo(c *wsClient, n int) {
	buf := make([]byte, 4096)
	for n > 0 {
		got, err := c.br.Read(buf)
		if err != nil {
			return
		}
		n -= got
	}
}

func TestTheBudgetCountsOnPollingToo(t *testing.T) {
	s := serve(t, Options{ControlRate: 10})
	c := s.polling()
	if status, body := c.post(strings.Repeat("6\x1e", 599) + "6"); status != 200 || body != "ok" {
		t.Fatalf("at the limit: %d %q", status, body)
	}
	if _, body := c.post("4still here"); body != "ok" {
		t.Fatalf("at the limit: %q", body)
	}
	c.want("4still here")
	c.post(strings.Repeat("6\x1e", 2999) + "6")
	if got := receive(t, s.session().closed); got != engine.ReasonTransportError {
		t.Errorf("closed for %q", got)
	}
	c.wantEnd()
}

func TestTheBudgetGrowsBackAndCanBeLifted(t *testing.T) {
	ping := clientFrame(bitFin|opPing, nil)
	inBubble(t, Options{ControlRate: 2}, func(t *testing.T, h *Handler, last func() *echo) {
		c := pipe(t, h, "EIO=4&transport=websocket")
		go discardTo(c, 1<<20)
		for range 3600 { // an hour of what is more than a client does
			c.write(ping)
			time.Sleep(time.Second)
			c.send("3")
		}
		select {
		case got := <-last().closed:
			t.Fatalf("closed for %q", got)
		default:
		}
	})
	s := serve(t, Options{ControlRate: -1})
	c := s.websocket()
	go c.write(append(bytes.Repeat(ping, 10_000), textFrame("4still here")...))
	for {
		first, payload, err := c.frame()
		if err != nil {
			t.Fatal(err)
		}
		if first == bitFin|opText {
			if string(payload) != "4still here" {
				t.Errorf("got %q", payload)
			}
			break
		}
	}
}

// TestABrowserNeverNoticesTheBudget keeps a connection for a day, with a budget a hundredth of the default.
func TestABrowserNeverNoticesTheBudget(t *testing.T) {
	inBubble(t, Options{ControlRate: 1}, func(t *testing.T, h *Handler, last func() *echo) {
		c := pipe(t, h, "EIO=4&transport=websocket")
		for range 24 * 60 * 60 / 25 {
			c.wantText("2")
			c.send("3")
		}
		if last().c.(*session).extra != nil {
			t.Error("an answer to a ping is counted")
		}
	})
}

func TestMessagesAreReadAtTheirRate(t *testing.T) {
	t.Parallel()
	inBubble(t, Options{MessageRate: 10}, func(t *testing.T, h *Handler, last func() *echo) {
		c := pipe(t, h, "EIO=4&transport=websocket")
		start := time.Now()
		go c.write(append(bytes.Repeat(textFrame("4x"), 1000), textFrame("3")...)) // the pong lies behind it all
		for i := range 1000 {
			got := c.text()
			if got == "2" {
				got = c.text()
			}
			if got != "4x" {
				t.Fatalf("message %d is %q", i, got)
			}
			// Those of a second at once, the others at their rate; the one that was read waits to be answered for.
			want := max(0, time.Duration(i-10)*time.Second/10)
			if took := time.Since(start); took < want || took > want+200*time.Millisecond {
				t.Fatalf("message %d after %v, want %v", i, took, want)
			}
		}
	})
	// And on both carriers, and polling.
	s := serve(t, Options{MessageRate: 200})
	c, p := s.websocket(), s.polling()
	start := time.Now()
	c.write(bytes.Repeat(textFrame("4x"), 300))
	for range 300 {
		c.wantText("4x")
	}
	if took := time.Since(start); took < 490*time.Millisecond {
		t.Errorf("300 messages took %v", took)
	}
	start = time.Now()
	if status, _ := p.post(strings.Repeat("4x\x1e", 299) + "4x"); status != 200 {
		t.Fatal(status)
	}
	if took := time.Since(start); took < 490*time.Millisecond {
		t.Errorf("a POST of 300 messages took %v", took)
	}
}
