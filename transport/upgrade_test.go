package transport

import (
	"encoding/json"
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/engine"
)

// TestNothingIsLostOrReorderedWhileClientsUpgrade has the server emit numbered packets throughout the
// upgrade of several clients, while the clients send numbered messages that come back.
func TestNothingIsLostOrReorderedWhileClientsUpgrade(t *testing.T) {
	const clients, packets = 8, 3000
	s := serve(t, Options{QueueBytes: 64 << 20})
	var wg sync.WaitGroup
	for range clients {
		c := s.polling()
		e := s.session()
		wg.Go(func() { // the server's packets
			for i := range packets {
				p := engine.NewPacket(engine.Terms{}, []byte("4s"+strconv.Itoa(i)))
				if i%100 == 0 { // with an attachment, which must stay behind its text
					p = engine.NewPacket(engine.Terms{}, []byte("4s"+strconv.Itoa(i)), []byte(strconv.Itoa(i)))
				}
				if err := e.c.Send(p, nil); err != nil {
					t.Errorf("packet %d: %v", i, err)
					return
				}
				if i%50 == 0 {
					for range 100 { // spreads the packets over the upgrade; nothing depends on it
						runtime.Gosched()
					}
				}
			}
		})
		wg.Go(func() { upgradeUnderFire(t, s, c, packets) })
	}
	wg.Wait()
}

// numbers checks what one client receives.
type numbers struct {
	t                   testing.TB
	server, own, binary int // the next of each
}

func (n *numbers) text(packet string) {
	switch {
	case packet == "6" || packet == "2":
	case packet == "4s"+strconv.Itoa(n.server):
		if n.binary%100 == 0 && n.server > n.binary {
			n.t.Errorf("packet %d came before the attachment of %d", n.server, n.binary)
		}
		n.server++
	case packet == "4c"+strconv.Itoa(n.own):
		n.own++
	default:
		n.t.Errorf("got %.30q, want s%d or c%d", packet, n.server, n.own)
	}
}

func (n *numbers) attachment(data string) {
	if data != strconv.Itoa(n.binary) || n.server != n.binary+1 {
		n.t.Errorf("attachment %q behind packet %d, want %d", data, n.server-1, n.binary)
	}
	n.binary += 100
}

func upgradeUnderFire(t *testing.T, s *server, c *pollClient, packets int) {
	n := &numbers{t: t}
	poll := func() {
		status, body := c.get()
		if status != 200 {
			t.Errorf("poll got %d %.50q", status, body)
			return
		}
		for _, p := range strings.Split(body, "\x1e") {
			if p[0] == 'b' {
				var b []byte
				json.Unmarshal([]byte(`"`+p[1:]+`"`), &b)
				n.attachment(string(b))
			} else {
				n.text(p)
			}
		}
	}
	sent := 0
	for ; sent < 5; sent++ {
		c.post(fmt.Sprintf("4c%d", sent))
		poll()
	}
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.send("2probe")
	polled := make(chan struct{})
	go func() { defer close(polled); poll() }()
	ws.wantText("3probe")
	<-polled // the open GET returns, and only then the client goes over
	batch := textFrame("5")
	for ; sent < 50; sent++ { // at once, without waiting for an answer
		batch = append(batch, textFrame(fmt.Sprintf("4c%d", sent))...)
	}
	ws.write(batch)
	for n.server < packets || n.own < sent || n.binary < packets {
		first, p, err := ws.frame()
		switch {
		case err != nil:
			t.Errorf("at s%d c%d: %v", n.server, n.own, err)
			return
		case first == bitFin|opBinary:
			n.attachment(string(p))
		default:
			n.text(string(p))
		}
		if t.Failed() {
			return
		}
	}
}

// TestAProbeThatIsNotAnsweredCostsFewPolls has a proxy hold back what comes over the new connection: the
// client polls on, until it gives the upgrade up.
func TestAProbeThatIsNotAnsweredCostsFewPolls(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
		url := pollingSession(h, last)
		sid := last().c.ID()
		ws, _ := pipeHead(t, h, "EIO=4&transport=websocket&sid="+sid)
		ws.send("2probe")
		ws.wantText("3probe") // the proxy has it
		polls, start := 0, time.Now()
		for time.Since(start) < h.o.UpgradeTimeout {
			if status, body := pollOnce(h, url); status != 200 || body != "6" && body != "2" {
				t.Fatalf("got %d %q", status, body)
			}
			polls++
		}
		if polls > 12 {
			t.Errorf("%d polls in %v", polls, h.o.UpgradeTimeout)
		}
		last().c.Send(engine.NewPacket(engine.Terms{}, []byte("4still")), nil)
		if _, body := pollOnce(h, url); body != "4still" {
			t.Errorf("got %q", body)
		}
	})
}

// TestAPollBehindTheUpgradeIsRefused has the poll come first, which a client has sent behind the upgrade.
func TestAPollBehindTheUpgradeIsRefused(t *testing.T) {
	carriers(t, Options{}, func(t *testing.T, s *server) {
		c := s.polling()
		e := s.session()
		ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
		ws.send("2probe")
		ws.wantText("3probe")
		ss := e.c.(*session)
		ss.mu.Lock()
		ss.poll.noops = 16 // so that it is kept for long
		ss.mu.Unlock()
		get := background(t, func() string { _, b := c.get(); return b })
		waitFor(t, e, func(ss *session) bool { return ss.poll.waiting })
		ws.send("5")
		if got, want := get(), `{"code":3,"message":"Bad request"}`; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		ws.send("4on")
		ws.wantText("4on")
	})
}

func TestAProbeReleasesThePoll(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.send("2probe")
	ws.wantText("3probe")
	waitFor(t, s.session(), func(ss *session) bool { return ss.poll.probed })
	c.want("6") // also a GET that comes after the probe
}

func TestAProbeThatFailsLeavesPollingAlone(t *testing.T) {
	for name, tt := range map[string]struct {
		wrong []byte
		code  int
	}{
		"another packet":       {textFrame("4x"), 0},
		"another probe":        {textFrame("2"), 0},
		"binary":               {clientFrame(bitFin|opBinary, []byte{1}), 0},
		"nothing":              {nil, 0}, // until the upgrade timeout
		"a close":              {clientFrame(bitFin|opClose, nil), 0},
		"a close with a code":  {clientFrame(bitFin|opClose, []byte{0x03, 0xe8}), 1000},
		"a bad frame":          {[]byte{0xff, 0xff}, 1002},
		"an impossible length": {[]byte{bitFin | opText, bitMask | 127, 0x80, 0, 0, 0, 0, 0, 0, 1}, 1002},
		"a length too large":   {[]byte{bitFin | opText, bitMask | 127, 0, 0, 0, 1, 0, 0, 0, 0}, 1009},
		"no UTF-8":             {clientFrame(bitFin|opText, []byte{0xff}), 1007},
	} {
		t.Run(name, func(t *testing.T) {
			o := Options{}
			if tt.wrong == nil {
				o.UpgradeTimeout = 50 * time.Millisecond
			}
			s := serve(t, o)
			c := s.polling()
			e := s.session()
			ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
			ws.write(tt.wrong)
			ws.wantClose(tt.code)
			c.post("4still")
			c.want("4still")
			waitFor(t, e, func(ss *session) bool { return ss.poll.probe == nil })
			for deadline := time.Now().Add(wait); !s.upgrades(c); { // it may be tried again
				if o.UpgradeTimeout == 0 || time.Now().After(deadline) {
					t.Fatal("the next upgrade fails")
				}
			}
		})
	}
}

// upgrades reports whether a session upgrades, and goes on.
func (s *server) upgrades(c *pollClient) bool {
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.conn.Write(slices.Concat(textFrame("2probe"), textFrame("5"), textFrame("4on")))
	for _, want := range []string{"3probe", "4on"} {
		if _, got, err := ws.frame(); err != nil || string(got) != want {
			return false
		}
	}
	return true
}

// TestAPingThatWaitsForAPollLeavesAfterTheUpgrade has the ping due while the client does not poll any more.
func TestAPingThatWaitsForAPollLeavesAfterTheUpgrade(t *testing.T) {
	s := serve(t, Options{PingInterval: 20 * time.Millisecond, PingTimeout: time.Hour})
	c := s.polling()
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.send("2probe")
	ws.wantText("3probe")
	waitFor(t, s.session(), func(ss *session) bool { return ss.ping })
	ws.send("5")
	ws.wantText("2")
}

func TestASessionThatEndsTakesItsProbeAlong(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.send("2probe")
	ws.wantText("3probe")
	c.post("1")
	receive(t, s.session().closed)
	ws.wantClose(0)
}

func TestAnUpgradeBesideAPOSTIsRefused(t *testing.T) {
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	conn := s.dial()
	fmt.Fprintf(conn, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\nContent-Length: 3\r\n\r\n4", c.sid)
	waitFor(t, e, func(ss *session) bool { return ss.poll.post != nil })
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.send("2probe")
	ws.wantText("3probe")
	ws.send("5")
	ws.wantClose(0)
	conn.Write([]byte("ok"))
	if head, _ := readAnswer(t, conn); head.StatusCode != http.StatusOK {
		t.Fatalf("the POST got %d", head.StatusCode)
	}
	c.want("4ok")
}
