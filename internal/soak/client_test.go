package soak

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/ledger"
)

// client is a Socket.IO client of a user. It is not one of the hub's making: it reads and writes bytes.
type client struct {
	book *ledger.Ledger // nil: it keeps no account
	addr string
	user string

	mute   bool            // it does not answer pings
	onTime func(time.Time) // called with the time that an event "t" carries; nil: nothing
	onSaid func(c *client) // called in the instant in which it knows that it is connected; nil: nothing

	rec   *ledger.Receiver
	stays []*ledger.Stay

	polling     string // the session ID while it polls
	onWebSocket bool
	conn        net.Conn
	r           *bufio.Reader
	buf         []byte

	id        string        // of its socket; valid after said
	said      chan struct{} // closed when it is connected
	done      chan struct{} // closed when it has ended
	connected atomic.Bool
	got       atomic.Int64 // messages
	skipped   atomic.Int64 // that others were emitted before it came
	leaving   atomic.Bool
	farewell  bool // the server has sent a close frame; valid after done
	err       error
}

func newClient(book *ledger.Ledger, node, addr, user string) *client {
	c := &client{book: book, addr: addr, user: user, said: make(chan struct{}), done: make(chan struct{})}
	if book != nil {
		c.rec = book.Receiver("client of "+user, node)
		c.stays = append(c.stays, c.rec.Ask(room(user)), c.rec.Ask(everyone))
	}
	return c
}

// The rooms of the book are those of users, and everyone's.
func room(user string) string { return "user:" + user }

const everyone = ""

func target(room string) hub.Target {
	if user, ok := strings.CutPrefix(room, "user:"); ok {
		return hub.User(user)
	}
	return hub.Everyone
}

var errRefused = errors.New("refused")

// statusError is an answer to a handshake other than 101 or 200.
type statusError int

func (e statusError) Error() string { return fmt.Sprintf("status %d", int(e)) }

// dial connects on WebSocket. The caller runs read.
func (c *client) dial(query string) error {
	d := net.Dialer{Timeout: 20 * time.Second}
	conn, err := d.Dial("tcp", c.addr)
	if err != nil {
		return err
	}
	conn.SetDeadline(time.Now().Add(30 * time.Second))
	r := bufio.NewReaderSize(conn, 2048)
	fmt.Fprintf(conn, "GET /socket.io/?EIO=4&transport=websocket%s HTTP/1.1\r\nHost: soak\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n", query)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		conn.Close()
		return err
	}
	if resp.StatusCode != http.StatusSwitchingProtocols {
		conn.Close()
		return statusError(resp.StatusCode)
	}
	conn.SetDeadline(time.Time{})
	c.conn, c.r = conn, r
	return nil
}

// write sends a text frame, masked as a client's must be.
func (c *client) write(opcode byte, payload []byte) error {
	frame := make([]byte, 0, len(payload)+14)
	frame = append(frame, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		frame = append(frame, 0x80|byte(n))
	default:
		frame = binary.BigEndian.AppendUint16(append(frame, 0x80|126), uint16(n))
	}
	var mask [4]byte
	rand.Read(mask[:])
	frame = append(frame, mask[:]...)
	for i, b := range payload {
		frame = append(frame, b^mask[i%4])
	}
	_, err := c.conn.Write(frame)
	return err
}

// next reads one frame.
func (c *client) next() (opcode byte, payload []byte, err error) {
	var head [10]byte
	if _, err := io.ReadFull(c.r, head[:2]); err != nil {
		return 0, nil, err
	}
	n := uint64(head[1])
	switch n {
	case 126:
		if _, err := io.ReadFull(c.r, head[2:4]); err != nil {
			return 0, nil, err
		}
		n = uint64(binary.BigEndian.Uint16(head[2:4]))
	case 127:
		if _, err := io.ReadFull(c.r, head[2:10]); err != nil {
			return 0, nil, err
		}
		n = binary.BigEndian.Uint64(head[2:10])
	}
	if uint64(cap(c.buf)) < n {
		c.buf = make([]byte, n)
	}
	c.buf = c.buf[:n]
	_, err = io.ReadFull(c.r, c.buf)
	return head[0] & 15, c.buf, err
}

// read handles what comes on the WebSocket until it ends.
func (c *client) read() {
	defer c.end()
	c.onWebSocket = true
	for {
		opcode, payload, err := c.next()
		if err != nil {
			c.err = err
			return
		}
		switch opcode {
		case 1:
			if err := c.packet(payload, func(p string) error { return c.write(1, []byte(p)) }); err != nil {
				c.err = err
				return
			}
		case 8:
			c.farewell = true
			c.write(8, payload[:min(2, len(payload))])
			return
		}
	}
}

// packet handles one Engine.IO packet.
func (c *client) packet(p []byte, answer func(string) error) error {
	switch {
	case len(p) == 0:
		return errors.New("empty packet")
	case p[0] == '0':
		auth, _ := json.Marshal(map[string]string{"user": c.user})
		return answer("40" + string(auth))
	case p[0] == '2':
		if c.mute {
			return nil
		}
		return answer("3")
	case bytes.HasPrefix(p, []byte("40")):
		for _, s := range c.stays {
			s.Sure()
		}
		var open struct{ Sid string }
		if err := json.Unmarshal(p[2:], &open); err != nil {
			return err
		}
		c.id = open.Sid
		c.connected.Store(true)
		close(c.said)
		if c.onSaid != nil {
			c.onSaid(c)
		}
	case bytes.HasPrefix(p, []byte(`42["n",`)):
		var args []json.RawMessage
		var m ledger.Mark
		if err := json.Unmarshal(p[2:], &args); err != nil {
			return err
		}
		if err := json.Unmarshal(args[1], &m); err != nil {
			return err
		}
		c.got.Add(1)
		if c.rec != nil {
			c.rec.Got(m)
		}
	case bytes.HasPrefix(p, []byte(`42["t",`)) && c.onTime != nil:
		n, err := strconv.ParseInt(strings.TrimSuffix(string(p[len(`42["t",`):]), "]"), 10, 64)
		if err != nil {
			return err
		}
		c.onTime(time.Unix(0, n))
	case bytes.HasPrefix(p, []byte("42")), p[0] == '6':
	case bytes.HasPrefix(p, []byte("41")):
		c.left()
	case bytes.HasPrefix(p, []byte("44")):
		return fmt.Errorf("%w: %s", errRefused, p)
	case p[0] == '1': // the server closes; on WebSocket a close frame follows
		c.left()
		if !c.onWebSocket {
			return io.EOF
		}
	default:
		return fmt.Errorf("unexpected packet %q", p)
	}
	return nil
}

func (c *client) left() {
	if c.rec != nil {
		c.rec.Leave("*", c.book.Now())
	}
}

func (c *client) end() {
	if c.rec != nil && c.farewell {
		c.rec.SentAway()
	}
	c.left()
	if c.rec != nil {
		c.rec.End()
	}
	if t, ok := c.conn.(*net.TCPConn); ok {
		t.SetLinger(0) // no TIME_WAIT: a test opens more connections than there are ports
		t.Close()
	}
	close(c.done)
}

// hangUp ends the connection: properly, with DISCONNECT, or like a lost network.
func (c *client) hangUp(properly bool) {
	if c.leaving.Swap(true) {
		return
	}
	c.left()
	switch {
	case c.conn == nil: // it polls
		if properly {
			c.http("POST", "41\x1e1")
		} else {
			c.http("POST", "1") // a lost network would show only when pings are not answered
		}
		return
	case !properly:
		c.conn.Close()
		return
	}
	c.write(1, []byte("41"))
	c.write(8, []byte{3, 232})
}

// pollers is the HTTP client of all clients that poll.
var pollers = &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4096}, Timeout: time.Minute}

func (c *client) http(method, body string) (string, error) {
	url := "http://" + c.addr + "/socket.io/?EIO=4&transport=polling"
	if c.polling != "" {
		url += "&sid=" + c.polling
	}
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := pollers.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = statusError(resp.StatusCode)
	}
	return string(text), err
}

// poll connects on polling and returns when it is connected; then it upgrades to WebSocket if it is
// told to, in the midst of what comes.
func (c *client) poll(upgrade bool) {
	text, err := c.http("GET", "")
	var open struct{ Sid string }
	if err == nil {
		err = json.Unmarshal([]byte(strings.TrimPrefix(text, "0")), &open)
	}
	if err != nil {
		c.err = err
		c.end()
		return
	}
	c.polling = open.Sid
	answer := func(p string) error { _, err := c.http("POST", p); return err }
	if err := c.packet([]byte("0"), answer); err != nil {
		c.err = err
		c.end()
		return
	}
	probed, probing := make(chan error, 1), false
	fail := func(err error) {
		if probing {
			<-probed // it uses the connection
		}
		c.err = err
		c.end()
	}
	for {
		select {
		case err := <-probed:
			probing = false
			if err == nil {
				err = c.write(1, []byte("5"))
			}
			if err == nil {
				c.read()
				return
			}
			upgrade = false // it stays on polling, as clients do
		default:
		}
		text, err := c.http("GET", "")
		if err != nil {
			fail(err)
			return
		}
		for _, p := range strings.Split(text, "\x1e") {
			if err := c.packet([]byte(p), answer); err != nil {
				fail(err)
				return
			}
		}
		if upgrade && !probing && c.connected.Load() {
			probing = true
			go func() { probed <- c.probe() }() // it is waited for
		}
	}
}

func (c *client) probe() error {
	if err := c.dial("&sid=" + c.polling); err != nil {
		return err
	}
	if err := c.write(1, []byte("2probe")); err != nil {
		return err
	}
	_, payload, err := c.next()
	if err == nil && string(payload) != "3probe" {
		err = fmt.Errorf("answer to the probe is %q", payload)
	}
	return err
}

// carrier is how a client connects.
type carrier int

const (
	webSocket carrier = iota
	polling
	upgrading
)

// start connects and returns when the client knows that it is connected.
func (c *client) start(how carrier) error {
	if how == webSocket {
		if err := c.dial(""); err != nil {
			c.err = err
			close(c.done)
			c.left()
			return err
		}
		go c.read() // until done
	} else {
		go c.poll(how == upgrading) // until done
	}
	select {
	case <-c.said:
		return nil
	case <-c.done:
		if c.err == nil {
			return io.EOF
		}
		return c.err
	case <-time.After(wait):
		return errors.New("no answer to CONNECT")
	}
}

// wait bounds everything that a test waits for. It is long because the machine may be slow.
const wait = 60 * time.Second

// must waits for a condition.
func must(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if _, in := within(wait, ok); !in {
		t.Fatalf("%s: not within %v", what, wait)
	}
}

// within waits for a condition and says how long it took.
func within(limit time.Duration, ok func() bool) (took time.Duration, in bool) {
	began := time.Now()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Since(began) > limit {
			return time.Since(began), false
		}
		<-tick.C
	}
	return time.Since(began), true
}

// each runs f for 0 to n-1, width at a time.
func each(n, width int, f func(i int)) {
	var wg sync.WaitGroup
	var next atomic.Int64
	for range width {
		wg.Go(func() {
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				f(int(i))
			}
		})
	}
	wg.Wait()
}
