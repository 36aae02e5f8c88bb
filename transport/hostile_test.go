package transport

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/engine"
	"tether/hub"
	"tether/internal/socketio"
)

// hostilePackets close the connection of the client that sends them, at whatever stage, each for itself: the
// last of a list does.
var hostilePackets = map[string][]string{
	"nothing":                          {"4"},
	"an unknown type":                  {"47"},
	"a type that is a letter":          {"4x"},
	"an event without a name":          {"42[]"},
	"a name that is an object":         {`42[{"toString":"x"}]`},
	"a name that is null":              {"42[null]"},
	"an event that is an object":       {`42{"length":1,"0":"x"}`},
	"a reserved name":                  {`42["disconnect"]`},
	"a reserved name with an escape":   {`42["\u0063onnect"]`},
	"a name of 300 bytes":              {`42["` + strings.Repeat("x", 300) + `"]`},
	"half a packet":                    {`42["a"`},
	"something behind a packet":        {`42["a"]x`},
	"nesting":                          {`42["a",` + strings.Repeat("[", 5000) + strings.Repeat("]", 5000) + "]"},
	"nesting that does not end":        {`42["a",` + strings.Repeat(`{"a":`, 5000)},
	"too many arguments":               {"42[" + strings.Repeat("1,", 2000) + "1]"},
	"too many attachments":             {`4511-["a"]`},
	"very many attachments":            {`4599999999999-["a"]`},
	"attachments of another notation":  {`451e1-["a"]`},
	"fewer than no attachments":        {`45-1-["a"]`},
	"no number of attachments":         {`45-["a"]`},
	"a placeholder without attachment": {`451-["a",{"_placeholder":true,"num":1}]`},
	"a placeholder like a method":      {`451-["a",{"_placeholder":true,"num":"splice"}]`},
	"a placeholder below zero":         {`451-["a",{"_placeholder":true,"num":-1}]`},
	"a placeholder twice":              {`452-["a",{"_placeholder":true,"num":0},{"_placeholder":true,"num":0}]`},
	"letters in an ID":                 {`42a["b"]`},
	"an answer without an ID":          {`43["a"]`},
	"an answer that is an object":      {`431{}`},
	"a DISCONNECT with something":      {`41{}`},
	"a refusal":                        {`44{"message":"no"}`},
	"a CONNECT with an array":          {`40[]`},
	"a CONNECT with null":              {`40null`},
	"a namespace of 300 bytes":         {"40/" + strings.Repeat("x", 300) + ","},
	"a namespace with a line feed":     {"40/a\nlevel=ERROR,"},
	"an event of nowhere":              {`42/nowhere,["a"]`},
	"a surrogate":                      {"42[\"\xed\xa0\x80\"]"},
	"binary that nobody announced":     {"%x"},
	"a ping of the client":             {"2"},
	"an unknown packet":                {"9"},
	"a packet called like a property":  {"__proto__"},
}

// hostileConnected are those that a client has to be connected for.
var hostileConnected = map[string][]string{
	"a second CONNECT":            {"40"},
	"text instead of attachments": {`451-["a"]`, `42["b"]`},
	"a packet too large in parts": {`4510-["a"]`, "%" + strings.Repeat("x", 60_000), "%" + strings.Repeat("x", 60_000), "%" + strings.Repeat("x", 60_000)},
}

// TestHostilePacketsAtEveryStage sends each before and after CONNECT, on WebSocket, on polling, and after
// an upgrade, on both carriers: its sender is cut off, and a client beside it is served.
func TestHostilePacketsAtEveryStage(t *testing.T) {
	carriers(t, Options{MaxPayload: 70_000}, func(t *testing.T, _ *server) {
		h := fuzzHub(t, hub.Limits{PacketBytes: 150_000})
		o := Options{MaxPayload: 70_000, Epoll: strings.HasSuffix(t.Name(), "epoll")}
		s := serveWith(t, func(c engine.Conn, r *http.Request) (engine.Receiver, error) { return h.Attach(c, r) }, o)
		beside := newBystander(s)
		for name, packets := range hostilePackets {
			for _, stage := range []func(*testing.T, *server, []string) error{hostileWebSocket, hostilePolling, hostileUpgraded} {
				if err := stage(t, s, packets); err != nil {
					t.Errorf("%s, before CONNECT: %v", name, err)
				}
				if err := stage(t, s, append([]string{"40"}, packets...)); err != nil {
					t.Errorf("%s, connected: %v", name, err)
				}
			}
		}
		for name, packets := range hostileConnected {
			for _, stage := range []func(*testing.T, *server, []string) error{hostileWebSocket, hostilePolling, hostileUpgraded} {
				if err := stage(t, s, append([]string{"40"}, packets...)); err != nil {
					t.Errorf("%s: %v", name, err)
				}
			}
		}
		beside.wantEcho(t)
		beside.c.conn.Close()
	})
}

// hostileWebSocket sends packets as frames, and wants the end.
func hostileWebSocket(t *testing.T, s *server, packets []string) error {
	c := s.websocket()
	defer c.conn.Close()
	return c.hostile(packets)
}

// hostileUpgraded does so on a connection that began on polling.
func hostileUpgraded(t *testing.T, s *server, packets []string) error {
	p := s.polling()
	c := s.upgrade("EIO=4&transport=websocket&sid="+p.sid, "")
	defer c.conn.Close()
	c.send("2probe")
	c.wantText("3probe")
	c.send("5")
	if err := c.hostile(packets); err != nil {
		return err
	}
	for deadline := time.Now().Add(wait); ; { // the client may have the close frame before the session has ended
		status, body := p.get()
		if status == 400 && body == `{"code":1,"message":"Session ID unknown"}` {
			return nil
		}
		if status != 400 || time.Now().After(deadline) {
			return fmt.Errorf("upgraded: the session is still known: %d %q", status, body)
		}
	}
}

func (c *wsClient) hostile(packets []string) error {
	for i, p := range packets {
		frame := textFrame(p)
		if p[0] == '%' {
			frame = clientFrame(bitFin|opBinary, []byte(p[1:]))
		}
		if _, err := c.conn.Write(frame); err != nil {
			break
		}
		if p == "40" && i == 0 {
			if _, _, err := c.frame(); err != nil { // its answer
				return err
			}
		}
	}
	for {
		first, payload, err := c.frame()
		switch {
		case err != nil:
			return fmt.Errorf("WebSocket: no close frame, but %v", err)
		case first != bitFin|opClose:
			continue
		}
		want := []byte{}
		if strings.Contains(packets[len(packets)-1], "\xed\xa0\x80") {
			want = binary.BigEndian.AppendUint16(nil, 1007)
		}
		if !bytes.Equal(payload, want) {
			return fmt.Errorf("WebSocket: a close frame with %q, want %q", payload, want)
		}
		if _, _, err := c.frame(); err != io.EOF {
			return fmt.Errorf("WebSocket: behind the close frame %v", err)
		}
		return nil
	}
}

// hostilePolling sends packets each in a body of its own.
func hostilePolling(t *testing.T, s *server, packets []string) error {
	p := s.polling()
	for i, packet := range packets {
		if packet[0] == '%' {
			packet = string(socketio.AppendBinary(nil, []byte(packet[1:])))
		}
		if len(packet) > 70_000 {
			return nil // as base64 it is past another limit
		}
		status, body := p.post(packet)
		if i < len(packets)-1 && status == 200 {
			if packet == "40" {
				p.get()
			}
			continue
		}
		if status != 200 || body != "ok" {
			return fmt.Errorf("polling: POST answered with %d %q", status, body)
		}
	}
	if last := packets[len(packets)-1]; last[0] == '4' || last[0] == '%' { // what Engine.IO takes, and Socket.IO does not
		if status, body := p.get(); status != 200 || body != byeLater {
			return fmt.Errorf("polling: the next GET got %d %q, want %q", status, body, byeLater)
		}
	}
	if status, body := p.get(); status != 400 || body != `{"code":1,"message":"Session ID unknown"}` {
		return fmt.Errorf("polling: the session is still known: %d %q", status, body)
	}
	return nil
}

// TestFloodsHoldNothingUp sends much of what costs a client little. Unless that is limited the server
// answers what is behind it, with no goroutine more; by default the connection ends.
func TestFloodsHoldNothingUp(t *testing.T) {
	const n = 20_000
	floods := map[string]string{
		"pongs":                           strings.Repeat(pong("p"), n),
		"pongs without payload":           strings.Repeat(pong(""), n),
		"pongs of Engine.IO":              strings.Repeat(text("3"), n),
		"noops":                           strings.Repeat(text("6"), n),
		"messages in 1,000 fragments":     strings.Repeat(frameBytes(opText, "6")+strings.Repeat(frameBytes(0, ""), 998)+frameBytes(bitFin, ""), n/1000),
		"pings between fragments":         frameBytes(opText, "6") + strings.Repeat(ping("p"), n) + frameBytes(bitFin, ""),
		"pongs inside a message, and all": frameBytes(opText, "6") + strings.Repeat(pong("p")+ping(""), n) + frameBytes(bitFin, ""),
	}
	carriers(t, Options{MaxPayload: 100_000}, func(t *testing.T, s *server) {
		for name, flood := range floods {
			c := s.websocket()
			go io.WriteString(c.conn, flood) // ends with the connection
			t.Run(name, func(t *testing.T) { c.t = t; c.wantClose(1008) })
			c.conn.Close()
		}
	})
	carriers(t, Options{MaxPayload: 100_000, ControlRate: -1}, func(t *testing.T, s *server) {
		for name, flood := range floods {
			c := s.websocket()
			before := runtime.NumGoroutine()
			go c.conn.Write([]byte(flood + string(textFrame("4done")))) // ends with the connection
			most := 0
			for {
				first, payload, err := c.frame()
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				most = max(most, runtime.NumGoroutine())
				if first == bitFin|opText && string(payload) == "4done" {
					break
				}
			}
			if most > before+20 {
				t.Errorf("%s: %d goroutines, %d before", name, most, before)
			}
			c.conn.Close()
		}
		p := s.polling()
		if status, body := p.post(strings.Repeat("3\x1e6\x1e", 24_000) + "4done"); status != 200 || body != "ok" {
			t.Fatalf("a body of pongs and noops: %d %q", status, body)
		}
		p.want("4done")
	})
}

// heap is the memory that is in use.
func heap() int {
	var m runtime.MemStats
	for range 3 { // pools are emptied in two steps
		runtime.GC()
	}
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// TestAnAnnouncementReservesNothing opens connections that announce the largest message there may be, and
// send none of it: frames, compressed frames, bodies, and heads of requests.
func TestAnAnnouncementReservesNothing(t *testing.T) {
	const n, perConn = 100, 24 << 10 // bytes of heap, both ends and all of net/http's included
	whole := strings.Repeat("x", rfcMax)
	frame, compressed := bin(whole)[:14], frameBytes(bitRSV1|opBinary, whole)[:14]
	fragments := frameBytes(opText, "4") + frameBytes(0, whole[1:])[:14]
	for name, announce := range map[string]func(s *server) net.Conn{
		"a frame": func(s *server) net.Conn {
			c := s.websocket()
			c.write([]byte(frame))
			return c.conn
		},
		"a compressed frame": func(s *server) net.Conn {
			c := s.upgrade("EIO=4&transport=websocket", "", "Sec-WebSocket-Extensions: permessage-deflate")
			c.text()
			c.write([]byte(compressed))
			return c.conn
		},
		"fragments": func(s *server) net.Conn {
			c := s.websocket()
			c.write([]byte(fragments))
			return c.conn
		},
		"a body": func(s *server) net.Conn {
			_, _, opened := s.do("GET", "EIO=4&transport=polling", "")
			sid := opened[len(`0{"sid":"`):][:20]
			conn := s.dial()
			fmt.Fprintf(conn, "POST /socket.io/?EIO=4&transport=polling&sid=%s HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\n\r\n4", sid, rfcMax)
			return conn
		},
		"a head": func(s *server) net.Conn {
			conn := s.dial()
			fmt.Fprintf(conn, "GET /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nHost: test\r\nContent-Length: %d\r\nX: ", rfcMax)
			return conn
		},
	} {
		carriers(t, Options{MaxPayload: rfcMax, Compress: true}, func(t *testing.T, s *server) {
			announce(s).Close()
			before := heap()
			conns := make([]net.Conn, n)
			for i := range conns {
				conns[i] = announce(s)
			}
			if grown := heap() - before; grown > n*perConn {
				t.Errorf("%s: %d bytes for each of %d connections", name, grown/n, n)
			}
			for _, c := range conns {
				c.Close()
			}
		})
	}
}

// TestMemoryIsBackAfterHostileInput plays what breaks the protocol until it is known what that costs, and
// then twice more.
func TestMemoryIsBackAfterHostileInput(t *testing.T) {
	cases := append(rfcReserved(), rfcFragments()...)
	cases = append(append(cases, rfcClose()...), rfcCompressed(t)...)
	carriers(t, Options{MaxPayload: rfcMax, Compress: true}, func(t *testing.T, s *server) {
		play := func() {
			for _, c := range cases {
				if !strings.HasPrefix(c.row, "7.1.6") && len(c.in) < 100_000 {
					for _, conn := range c.run(t, s, "permessage-deflate") {
						conn.Close()
					}
				}
			}
		}
		cases = bytesOnly(cases)
		play()
		before := heap()
		play()
		play()
		for deadline := time.Now().Add(wait); ; { // ended connections are kept for a moment
			grown := heap() - before
			if grown <= 1<<20 {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("%d bytes more", grown)
			}
		}
	})
}

// bytesOnly leaves out the cases that mean something else when compression has been negotiated.
func bytesOnly(cases []rfcCase) (all []rfcCase) {
	for _, c := range cases {
		if !strings.HasPrefix(c.row, "3") {
			all = append(all, c)
		}
	}
	return all
}

// TestNobodySeesTheBytesOfAnother has many clients send at once, whole and in parts, compressed or not:
// each gets its own back.
func TestNobodySeesTheBytesOfAnother(t *testing.T) {
	const clients, messages = 40, 30
	carriers(t, Options{MaxPayload: 100_000, Compress: true}, func(t *testing.T, s *server) {
		var wg sync.WaitGroup
		for i := range clients {
			extension := []string{"Sec-WebSocket-Extensions: permessage-deflate"}[:i%2]
			c := s.upgrade("EIO=4&transport=websocket", "", extension...)
			c.text()
			r := rand.New(rand.NewPCG(uint64(i), 1))
			wg.Go(func() {
				for range messages {
					own := strings.Repeat(fmt.Sprintf("client %d,", i), 1+r.IntN(4000)/(1+r.IntN(40)))
					frames := text("4" + own)
					switch small := string(squeeze(t, []byte("4"+own))); r.IntN(4) {
					case 0:
						frames = inFragments(opText, "4"+own, 1+len(own)/7)
					case 1:
						frames = text("4" + own)[:3]
						io.WriteString(c.conn, frames)
						frames = text("4" + own)[3:]
					case 2:
						if i%2 == 1 {
							frames = frameBytes(bitFin|bitRSV1|opText, small)
						}
					}
					io.WriteString(c.conn, frames)
					a, err := readOne(c, i%2 == 1)
					if err != nil || a != "4"+own {
						t.Errorf("client %d got %.60q, %v; want %.60q", i, a, err, "4"+own)
						return
					}
				}
			})
		}
		wg.Wait()
	})
}

// readOne reads a message.
func readOne(c *wsClient, compression bool) (string, error) {
	first, payload, err := serverFrame(c.br)
	if err == nil && compression && first&bitRSV1 != 0 {
		payload, err = inflate(payload, rfcMax)
	}
	return string(payload), err
}

// TestPanicsAreLoggedWithoutWhatTheyHold: the value of a panic may be what a client has sent.
func TestPanicsAreLoggedWithoutWhatTheyHold(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	ended := make(chan engine.Reason, 1)
	s := serveWith(t, func(_ engine.Conn, r *http.Request) (engine.Receiver, error) {
		if r.Header.Get("X-Panic") != "" {
			panic(r.Header.Get("X-Panic"))
		}
		return quoting{ended}, nil
	}, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.do("GET", "EIO=4&transport=polling", "", "X-Panic: a secret")
	c := s.websocket()
	c.send("4a secret\nlevel=ERROR msg=forged")
	c.wantClose(1011)
	receive(t, ended)
	c = s.websocket()
	c.send("4index")
	c.wantClose(1011)
	receive(t, ended)
	s.h.Close()
	text := log.String()
	if strings.Contains(text, "secret") || strings.Contains(text, "forged") || !strings.Contains(text, "index out of range") {
		t.Errorf("log: %s", text)
	}
	if got := strings.Count(text, "\n"); got != 3 {
		t.Errorf("%d lines for 3 panics: %s", got, text)
	}
}

// quoting is a receiver that panics with what it gets.
type quoting struct{ ended chan engine.Reason }

func (quoting) Text(data []byte) error {
	if string(data) == "index" {
		_ = data[len(data)]
	}
	panic("bad: " + string(data))
}
func (quoting) Binary([]byte) error      { return nil }
func (quoting) Busy() <-chan struct{}    { return nil }
func (q quoting) Closed(r engine.Reason) { q.ended <- r }
