package relay

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
	"tether/transport"
)

// socket is a WebSocket of a client.
type socket struct {
	t      testing.TB
	conn   net.Conn
	r      *bufio.Reader
	status int
}

// upgrade opens a WebSocket for a session at a node.
func (x *node) upgrade(sid string) *socket {
	x.t.Helper()
	server := httptest.NewServer(x)
	x.t.Cleanup(server.Close)
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		x.t.Fatal(err)
	}
	x.t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	fmt.Fprintf(conn, "GET /socket.io/?EIO=4&transport=websocket&sid=%s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", sid)
	s := &socket{t: x.t, conn: conn, r: bufio.NewReader(conn)}
	res, err := http.ReadResponse(s.r, nil)
	if err != nil {
		x.t.Fatal(err)
	}
	s.status = res.StatusCode
	return s
}

func (s *socket) send(text string) {
	s.t.Helper()
	b := binary.BigEndian.AppendUint16([]byte{0x81, 0x80 | 126}, uint16(len(text)))
	if _, err := s.conn.Write(append(append(b, 0, 0, 0, 0), text...)); err != nil {
		s.t.Fatal(err)
	}
}

// read returns a message, or why there is none.
func (s *socket) read() string {
	head, err := s.r.Peek(2)
	if err != nil {
		return err.Error()
	}
	n, skip := int(head[1]), 2
	if n == 126 {
		if head, err = s.r.Peek(4); err != nil {
			return err.Error()
		}
		n, skip = int(binary.BigEndian.Uint16(head[2:])), 4
	}
	if head[0] == 0x88 {
		return "close"
	}
	b := make([]byte, skip+n)
	if _, err := io.ReadFull(s.r, b); err != nil {
		return err.Error()
	}
	return string(b[skip:])
}

func (s *socket) want(want string) {
	s.t.Helper()
	if got := s.read(); got != want {
		s.t.Fatalf("got %.100q, want %.100q", got, want)
	}
}

// probe opens a WebSocket at another node than the session's, up to where the client may go over.
func (c *client) probe(turn int) *socket {
	c.t.Helper()
	s := c.nodes[turn].upgrade(c.sid)
	if s.status != http.StatusSwitchingProtocols {
		c.t.Fatalf("status %d", s.status)
	}
	polled := make(chan answered, 1)
	go func() { polled <- c.at(turn+1, "GET", "") }() // received below
	s.send("2probe")
	s.want("3probe")
	if got := receive(c.t, polled); got != (answered{200, "6"}) {
		c.t.Fatalf("the GET beside the probe: got %v", got)
	}
	return s
}

// TestASessionComesToWhereItsWebSocketIs, with what its client has sent on the way.
func TestASessionComesToWhereItsWebSocketIs(t *testing.T) {
	t.Parallel()
	for _, epoll := range []bool{false, true} {
		everyBroker(t, func(t *testing.T, broker opener) {
			nodes := start(t, broker, 3, transport.Options{Epoll: epoll, UpgradeWait: patience})
			c := open(t, nodes)
			for _, text := range []string{"4one", "4two\x1ebAQID", "4" + strings.Repeat("x", 30_000)} {
				c.post(text)
			}
			s := c.probe(1)
			s.send("5")
			moved := receive(t, nodes[1].echoes)
			for _, text := range []string{"4one", "4two", "\x01\x02\x03", "4" + strings.Repeat("x", 30_000)} {
				s.want(text)
			}
			c.closes(engine.ReasonTransportClose)
			s.send("4three")
			s.want("4three")
			if moved.c.ID() != c.sid || moved.c.Transport() != transport.WebSocket {
				t.Errorf("%s on %s", moved.c.ID(), moved.c.Transport())
			}
			nodes[0].awaitLen(0)
			nodes[1].awaitLen(1)
			for turn := range 3 {
				if got := c.at(turn, "GET", ""); got != unknown {
					t.Errorf("a GET at node %d: got %v", turn, got)
				}
			}
			s.conn.Close()
			if got := receive(t, moved.closed); got != engine.ReasonTransportClose {
				t.Errorf("it ended for %q", got)
			}
		})
	}
}

// TestAClientThatDoesNotGoOverStays where it was.
func TestAClientThatDoesNotGoOverStays(t *testing.T) {
	t.Parallel()
	everyBroker(t, func(t *testing.T, broker opener) {
		c := open(t, start(t, broker, 3, transport.Options{UpgradeWait: patience}))
		c.post("4one")
		c.probe(1).conn.Close()
		for got := c.do("GET", ""); got != (answered{200, "4one"}); got = c.do("GET", "") {
			if got != (answered{200, "6"}) { // until the node knows
				t.Fatalf("got %v", got)
			}
		}
		c.post("4two")
		c.want("4two")
		if s := c.nodes[1].upgrade(c.sid); s.status != http.StatusBadRequest {
			t.Errorf("a second attempt: status %d", s.status)
		}
		c.post("4three")
		c.want("4three")
	})
}

// TestWhatIsNotKeptComesBehindWhatWas: a client may say at any time what makes its session stay.
func TestWhatIsNotKeptComesBehindWhatWas(t *testing.T) {
	t.Parallel()
	c := open(t, start(t, memoryBroker(), 2, transport.Options{UpgradeWait: patience}))
	c.post("4one")
	s := c.probe(1)
	c.post("4two\x1e6") // a noop means nothing, and is not for the receiver
	for i := 0; i < 2; {
		switch got := c.do("GET", ""); got.body {
		case "6":
		case "4one\x1e4two":
			i = 2
		case []string{"4one", "4two"}[i]:
			i++
		default:
			t.Fatalf("got %v", got)
		}
	}
	s.send("5") // too late: it has left polling, and the WebSocket does not get the session
	s.want("close")
	c.closes(engine.ReasonTransportError)
}

// TestWhatIsKeptIsInTheBudget of what is not complete: the session that began first ends.
func TestWhatIsKeptIsInTheBudget(t *testing.T) {
	t.Parallel()
	nodes := start(t, memoryBroker(), 2, transport.Options{UnfinishedBytes: 200_000, UpgradeWait: patience})
	text := "4" + strings.Repeat("x", 60_000)
	var clients []*client
	for range 3 { // 64 KiB each, and twice as much while it is read
		c := open(t, nodes)
		c.post(text)
		clients = append(clients, c)
	}
	clients[0].closes(engine.ReasonTransportError)
	for _, c := range clients[1:] {
		c.post("6") // it stays
		c.want(text)
	}
	for range 2 { // what has been delivered does not count
		c := open(t, nodes)
		c.post(text)
		c.post("6")
		c.want(text)
	}
}

// TestASessionThatIsNotFreshStays: its receiver has heard of its client.
func TestASessionThatIsNotFreshStays(t *testing.T) {
	t.Parallel()
	c := open(t, start(t, memoryBroker(), 2, transport.Options{}))
	c.post("4one")
	c.want("4one")
	if s := c.nodes[1].upgrade(c.sid); s.status != http.StatusBadRequest {
		t.Errorf("status %d", s.status)
	}
	if s := c.nodes[1].upgrade(c.sid[:20] + "node0009"); s.status != http.StatusBadRequest {
		t.Errorf("of no node: status %d", s.status)
	}
	c.post("4two")
	c.want("4two")
	s := c.nodes[0].upgrade(c.sid) // where it is
	s.send("2probe")
	s.want("3probe")
	s.send("5")
	s.send("4three")
	s.want("4three")
}

// TestAWebSocketAtTheOwnerNeedNotBeWaitedFor.
func TestAWebSocketAtTheOwnerNeedNotBeWaitedFor(t *testing.T) {
	t.Parallel()
	c := open(t, start(t, memoryBroker(), 2, transport.Options{UpgradeWait: patience}))
	c.post("4one")
	s := c.nodes[0].upgrade(c.sid)
	c.want("4one")
	s.send("2probe")
	s.want("3probe")
	s.send("5")
	s.send("4two")
	s.want("4two")
}

// TestWhatIsKeptForAnUpgradeIsKeptForAMoment, and only where it may be of use.
func TestWhatIsKeptForAnUpgradeIsKeptForAMoment(t *testing.T) {
	t.Parallel()
	for _, x := range []struct {
		name  string
		nodes int
		o     transport.Options
		trip  time.Duration // to the first POST
		body  string
		want  time.Duration
	}{
		{"a client near by", 2, transport.Options{}, 0, "4x", 300 * time.Millisecond},
		{"one that is far away", 2, transport.Options{}, 200 * time.Millisecond, "4x", 800 * time.Millisecond},
		{"one that is very far away", 2, transport.Options{}, 900 * time.Millisecond, "4x", 2 * time.Second},
		{"an option", 2, transport.Options{UpgradeWait: 5 * time.Second}, time.Second, "4x", 5 * time.Second},
		{"one that comes late", 2, transport.Options{}, 3 * time.Second, "4x", 0},
		{"as much as is kept", 2, transport.Options{}, 0, "4" + strings.Repeat("x", 64<<10-2), 300 * time.Millisecond},
		{"more", 2, transport.Options{}, 0, "4" + strings.Repeat("x", 64<<10-1), 0},
		{"a node alone", 1, transport.Options{}, 0, "4x", 0},
		{"no upgrades", 2, transport.Options{NoUpgrade: true}, 0, "4x", 0},
	} {
		t.Run(x.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := open(t, start(t, memoryBroker(), x.nodes, x.o))
				time.Sleep(x.trip)
				began := time.Now()
				c.post(x.body)
				if took := time.Since(began); took != 0 {
					t.Errorf("the POST took %v", took)
				}
				c.want(x.body)
				if took := time.Since(began); took != x.want {
					t.Errorf("the answer took %v, want %v", took, x.want)
				}
				began = time.Now()
				c.post("4y")
				c.want("4y")
				if took := time.Since(began); took != 0 {
					t.Errorf("the next one took %v", took)
				}
			})
		})
	}
}

// TestAnOwnerThatDiesBeforeAClientGoesOver takes the session with it.
func TestAnOwnerThatDiesBeforeAClientGoesOver(t *testing.T) {
	t.Parallel()
	nodes := start(t, memoryBroker(), 3, transport.Options{UpgradeWait: patience})
	c := open(t, nodes)
	s := c.probe(1)
	nodes[0].Close()
	nodes[0].stop()
	s.send("5")
	s.want("close")
	if got := receive(t, receive(t, nodes[1].echoes).closed); got != engine.ReasonTransportError {
		t.Errorf("it ended for %q", got)
	}
	nodes[1].awaitLen(0)
}

// TestANodeEndsWhileAClientIsAboutToGoOver.
func TestANodeEndsWhileAClientIsAboutToGoOver(t *testing.T) {
	t.Parallel()
	c := open(t, start(t, memoryBroker(), 2, transport.Options{UpgradeWait: patience}))
	c.post("4one")
	s := c.probe(1)
	c.nodes[1].Close() // it does not wait for the client
	s.want("close")
	for got := c.at(0, "GET", ""); got != (answered{200, "4one"}); got = c.at(0, "GET", "") {
		if got != (answered{200, "6"}) {
			t.Fatalf("got %v", got)
		}
	}
}
