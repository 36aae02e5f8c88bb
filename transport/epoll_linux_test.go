package transport

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/engine"
	"tether/internal/long"
)

// TestEverythingOverEpoll runs all tests of the package again in a process whose servers use epoll.
func TestEverythingOverEpoll(t *testing.T) {
	long.Only(t)
	t.Parallel()
	if os.Getenv(onEpoll) != "" {
		t.Skip("this is that process")
	}
	cmd := exec.Command(os.Args[0], "-test.timeout=5m")
	cmd.Env = append(os.Environ(), onEpoll+"=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// carrierOf waits for the session's WebSocket carrier.
func carrierOf(t testing.TB, e *echo) (c carrier) {
	t.Helper()
	waitFor(t, e, func(s *session) bool { c = s.carrier; return c != nil })
	return c
}

func TestConnectionsOverPlainTCPAreOnEpoll(t *testing.T) {
	s := serve(t, Options{Epoll: true})
	s.websocket()
	if c, ok := carrierOf(t, s.session()).(*epoll); !ok {
		t.Errorf("a WebSocket client is on %T", c)
	}
	c := s.polling()
	ws := s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "")
	ws.send("2probe")
	ws.wantText("3probe")
	ws.write(append(textFrame("5"), textFrame("4after")...))
	ws.wantText("4after")
	if c, ok := carrierOf(t, s.session()).(*epoll); !ok {
		t.Errorf("a client that has upgraded is on %T", c)
	}
}

func TestConnectionsOverSomethingElseAreNotOnEpoll(t *testing.T) {
	var e *echo
	h := newEngine(func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
		e = &echo{c: c, closed: make(chan engine.Reason, 1)}
		return e, nil
	}, Options{Epoll: true, Logger: slog.New(slog.DiscardHandler)})
	defer h.Close()
	hs := httptest.NewTLSServer(h)
	defer hs.Close()
	conn, err := tls.Dial("tcp", hs.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	io.WriteString(conn, upgradeRequest("EIO=4&transport=websocket"))
	c := &wsClient{t: t, conn: conn, br: bufio.NewReader(conn)}
	if c.head, err = http.ReadResponse(c.br, nil); err != nil {
		t.Fatal(err)
	}
	c.text()
	c.send("4over TLS")
	c.wantText("4over TLS")
	if c, ok := carrierOf(t, e).(*websocket); !ok {
		t.Errorf("a client over TLS is on %T", c)
	}
	p := pipe(t, h, "EIO=4&transport=websocket")
	p.send("4over a pipe")
	p.wantText("4over a pipe")
	if c, ok := carrierOf(t, e).(*websocket); !ok {
		t.Errorf("a client over a pipe is on %T", c)
	}
	p.conn.Close()
}

func TestIdleConnectionsOnEpollHaveNoGoroutine(t *testing.T) {
	s := serve(t, Options{Epoll: true})
	s.websocket()
	conns := make([]*wsClient, 100)
	before := runtime.NumGoroutine()
	for i := range conns {
		conns[i] = s.websocket()
		conns[i].send("4x")
		conns[i].wantText("4x")
	}
	for deadline := time.Now().Add(wait); runtime.NumGoroutine() > before+20; { // workers that stay
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
		runtime.Gosched()
	}
}

func TestAnEndRightBehindAMessageIsSeen(t *testing.T) {
	s := serve(t, Options{Epoll: true})
	for i := range 300 {
		c := s.upgrade("EIO=4&transport=websocket", "")
		e := s.session()
		if i%2 == 0 {
			c.text()
		}
		c.write([]byte{bitFin | opText, bitMask}) // is still being dealt with, or not yet, when the end comes
		c.conn.Close()
		receive(t, e.closed)
	}
}

func TestAMessageThatDoesNotCompleteOnEpollEndsTheConnection(t *testing.T) {
	const timeout = 50 * time.Millisecond
	s := serve(t, Options{Epoll: true, MessageTimeout: timeout})
	for name, part := range map[string][]byte{
		"a byte":             {0x81},
		"a header":           textFrame("4hello")[:6],
		"a long frame":       textFrame("4" + string(make([]byte, 50_000)))[:40_000],
		"a fragment":         clientFrame(opText, []byte("4x")),
		"fragments and more": append(clientFrame(opText, []byte("4x")), 0, 0x81),
	} {
		c := s.websocket()
		e := s.session()
		c.send("4complete")
		c.wantText("4complete")
		start := time.Now()
		c.write(part)
		c.wantClose(0)
		if took := time.Since(start); took < timeout {
			t.Errorf("%s: closed after %v", name, took)
		}
		if got := receive(t, e.closed); got != engine.ReasonTransportError {
			t.Errorf("%s: closed for %q", name, got)
		}
	}
}

func TestTheTimeOfAMessageOnEpollBeginsWithIt(t *testing.T) {
	s := serve(t, Options{Epoll: true, MessageTimeout: time.Hour})
	c := s.websocket()
	e := s.session()
	carrierOf(t, e)
	deadline := func() (at int64) {
		waitFor(t, e, func(s *session) bool {
			_, at = s.carrier.deadlinesLocked()
			return at != never && !s.carrier.(*epoll).reading
		})
		return at
	}
	frame := textFrame("4hello")
	c.write(frame[:3])
	first := deadline()
	c.write(frame[3:5])
	waitFor(t, e, func(s *session) bool { // it has come
		c := s.carrier.(*epoll)
		return !c.reading && len(c.in.buf) == 5
	})
	if got := deadline(); got != first {
		t.Errorf("more of a message moves its deadline by %v", time.Duration(got-first))
	}
	c.write(append(frame[5:], frame[:2]...))
	c.wantText("4hello")
	if got := deadline(); got <= first {
		t.Error("the next message has the deadline of the last one")
	}
	c.write(frame[2:])
	c.wantText("4hello")
	waitFor(t, e, func(s *session) bool { // and nothing is kept when it is whole
		_, at := s.carrier.deadlinesLocked()
		return at == never && s.carrier.(*epoll).in == nil
	})
}

// TestStalledWritesOnEpollWaitWithoutAGoroutine has many clients read nothing, and then everything.
func TestStalledWritesOnEpollWaitWithoutAGoroutine(t *testing.T) {
	const clients, packets = 20, 15
	s := serve(t, Options{Epoll: true, QueueBytes: 64 << 20, WriteTimeout: time.Minute})
	before := runtime.NumGoroutine()
	var all []*wsClient
	for range clients {
		all = append(all, s.websocket())
		e := s.session()
		carrierOf(t, e)
		for i := range packets {
			if err := e.c.Send(packetOf(strconv.Itoa(i)+" ", 200_000), nil); err != nil {
				t.Fatal(err)
			}
		}
		waitFor(t, e, func(s *session) bool {
			o := s.carrier.(*epoll).out
			return o != nil && o.waiting
		})
	}
	for deadline := time.Now().Add(wait); runtime.NumGoroutine() > before+20; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d goroutines with %d stalled clients, %d before", runtime.NumGoroutine(), clients, before)
		}
	}
	for _, c := range all {
		for i := range packets {
			if got := c.text(); !strings.HasPrefix(got, "4"+strconv.Itoa(i)+" ") || len(got) < 199_000 {
				t.Fatalf("packet %d is %.10q, %d bytes", i, got, len(got))
			}
		}
	}
}

func TestAClientOnEpollMustTakeAChunkInTime(t *testing.T) {
	s := serve(t, Options{Epoll: true, QueueBytes: 64 << 20, WriteTimeout: time.Hour})
	c := s.websocket()
	e := s.session()
	carrierOf(t, e)
	e.c.Send(packetOf("big", 16<<20), nil)
	var deadline int64
	waiting := func(more func(o *pendingWrite) bool) {
		waitFor(t, e, func(s *session) bool {
			o := s.carrier.(*epoll).out
			if o == nil || !o.waiting || !more(o) {
				return false
			}
			deadline, _ = s.carrier.deadlinesLocked()
			return true
		})
	}
	var left int
	waiting(func(o *pendingWrite) bool { left = len(o.rest); return true })
	first := deadline
	io.CopyN(io.Discard, c.br, 2<<20)
	waiting(func(o *pendingWrite) bool { return len(o.rest) <= left-drainChunk })
	if deadline <= first {
		t.Error("progress does not move the deadline")
	}
	ss := e.c.(*session)
	ss.mu.Lock()
	ss.carrier.(*epoll).out.deadline = 0 // it has passed
	ss.mu.Unlock()
	ss.tick()
	if got := receive(t, e.closed); got != engine.ReasonServerClose {
		t.Errorf("closed for %q", got)
	}
}

// openFiles counts the descriptors of this process.
func openFiles(t testing.TB) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Skip("no /proc here")
	}
	return len(list)
}

// TestDescriptorsAreClosed has connections end in every way there is.
func TestDescriptorsAreClosed(t *testing.T) {
	before := openFiles(t)
	t.Run("connections", func(t *testing.T) {
		s := serve(t, Options{Epoll: true, MessageTimeout: 20 * time.Millisecond, WriteTimeout: 50 * time.Millisecond,
			UpgradeTimeout: 20 * time.Millisecond, QueueBytes: 64 << 20})
		ends := []func(c *wsClient, e *echo){
			func(c *wsClient, e *echo) { c.conn.Close() },
			func(c *wsClient, e *echo) { c.conn.(*net.TCPConn).SetLinger(0); c.conn.Close() },
			func(c *wsClient, e *echo) { c.conn.(*net.TCPConn).CloseWrite() },
			func(c *wsClient, e *echo) { c.write(clientFrame(bitFin|opClose, nil)) },
			func(c *wsClient, e *echo) { c.write([]byte{0xff, 0xff}) },
			func(c *wsClient, e *echo) { c.write([]byte{0x81}) },
			func(c *wsClient, e *echo) { c.send("1") },
			func(c *wsClient, e *echo) { e.c.Close(engine.ReasonServerDisconnect) },
			func(c *wsClient, e *echo) { e.c.Close(engine.ReasonServerDisconnect); c.conn.Close() },
			func(c *wsClient, e *echo) { e.c.Send(packetOf("stalls", 8<<20), nil) },
			func(c *wsClient, e *echo) { e.c.Send(packetOf("stalls", 8<<20), nil); c.conn.Close() },
			func(c *wsClient, e *echo) {}, // until the handler closes
		}
		for range 5 {
			for i, end := range ends {
				c := s.websocket()
				e := s.session()
				if i%2 == 0 {
					c.send("4x")
					c.wantText("4x")
				}
				end(c, e)
			}
			c := s.polling()
			s.session()
			s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "").conn.Close()
			s.upgrade("EIO=4&transport=websocket&sid="+c.sid, "").write(textFrame("5")) // too early
		}
		s.h.Close()
		if got := s.h.Len(); got != 0 {
			t.Errorf("%d sessions left", got)
		}
		s.h.poller.mu.Lock()
		for fd, c := range s.h.poller.conns {
			if c != nil {
				t.Errorf("the poller has kept descriptor %d", fd)
			}
		}
		s.h.poller.mu.Unlock()
	})
	for deadline := time.Now().Add(wait); openFiles(t) > before; { // net/http closes its own a little later
		if time.Now().After(deadline) {
			t.Fatalf("%d descriptors, %d before", openFiles(t), before)
		}
		runtime.Gosched()
	}
}

// TestReusedDescriptorsReachNobodyElse has connections come and go while packets are sent to all
// sessions that there ever were: what is meant for one must not reach the next with its descriptor.
func TestReusedDescriptorsReachNobodyElse(t *testing.T) {
	const workers, rounds = 8, 60
	s := serve(t, Options{Epoll: true, MessageTimeout: time.Minute})
	var mu sync.Mutex
	named := make(map[string]engine.Conn)
	stop := make(chan struct{})
	var wg, senders sync.WaitGroup
	for range 2 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				mu.Lock()
				all := make(map[string]engine.Conn, len(named))
				for name, c := range named {
					all[name] = c
				}
				mu.Unlock()
				for name, c := range all {
					c.Send(engine.NewPacket(engine.Terms{}, []byte("4to "+name)), nil)
				}
				runtime.Gosched()
			}
		})
	}
	s.h.server = engine.AttachFunc(func(c engine.Conn, r *http.Request) (engine.Receiver, error) {
		mu.Lock()
		named[r.Header.Get("X-Name")] = c
		mu.Unlock()
		return &echo{c: c, closed: make(chan engine.Reason, 1)}, nil
	})
	for w := range workers {
		wg.Go(func() {
			for i := range rounds {
				name := fmt.Sprintf("%d-%d", w, i)
				c := s.upgrade("EIO=4&transport=websocket", "", "X-Name: "+name)
				c.text()
				c.send("4to " + name)
				if got := c.text(); got != "4to "+name {
					t.Errorf("%s got %q", name, got)
				}
				mu.Lock()
				conn := named[name]
				mu.Unlock()
				if i%3 == 0 && conn != nil {
					conn.Close(engine.ReasonServerDisconnect)
				}
				c.conn.Close()
				if i%10 == 0 { // the ended ones stay targets for a while
					mu.Lock()
					clear(named)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	close(stop)
	senders.Wait()
}

// slowReceiver blocks until it is released.
type slowReceiver struct {
	echo
	entered chan struct{}
	release chan struct{}
}

func (r *slowReceiver) Text(data []byte) error {
	if string(data) == "block" {
		r.entered <- struct{}{}
		<-r.release
	}
	return r.echo.Text(data)
}

func TestReceiversThatBlockHoldUpNobodyElse(t *testing.T) {
	const blocked = 50
	entered, release := make(chan struct{}), make(chan struct{})
	s := serveWith(t, func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
		return &slowReceiver{echo{c: c, closed: make(chan engine.Reason, 1)}, entered, release}, nil
	}, Options{})
	var all []*wsClient
	for range blocked {
		c := s.websocket()
		c.write(append(textFrame("4block"), textFrame("4next")...))
		receive(t, entered)
		all = append(all, c)
	}
	for range 20 {
		c := s.websocket()
		c.send("4free")
		c.wantText("4free")
	}
	close(release)
	for _, c := range all {
		c.wantText("4block")
		c.wantText("4next")
	}
}

func TestABusyReceiverIsPushedBackOnTheClient(t *testing.T) {
	var got atomic.Int64
	busy := make(chan struct{})
	r := &pushedBack{got: &got}
	r.busy.Store(&busy)
	s := serveWith(t, func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
		r.echo = echo{c: c, closed: make(chan engine.Reason, 1)}
		return r, nil
	}, Options{})
	c := s.websocket()
	message := textFrame("4" + strings.Repeat("x", 10_000))
	const n = 2000
	c.conn.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	sent, err := c.conn.Write(bytes.Repeat(message, n))
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Fatalf("20 MB were taken: %v", err)
	}
	if got.Load() > 1 {
		t.Errorf("a busy receiver got %d messages", got.Load())
	}
	r.busy.Store(nil)
	close(busy)
	c.conn.SetWriteDeadline(time.Now().Add(wait))
	c.write(bytes.Repeat(message, n)[sent:])
	c.write(textFrame("4last"))
	for c.text() != "4last" {
	}
	if got.Load() != n+1 {
		t.Errorf("%d messages, want %d", got.Load(), n+1)
	}
}

// pushedBack is busy, and answers only the last message.
type pushedBack struct {
	paused
	got *atomic.Int64
}

func (p *pushedBack) Text(data []byte) error {
	p.got.Add(1)
	if len(data) < 100 {
		return p.echo.Text(data)
	}
	return nil
}
