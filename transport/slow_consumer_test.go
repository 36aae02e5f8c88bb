package transport

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
	"tether/internal/long"
)

// packetOf is a packet of n bytes in the queue that begins with text.
func packetOf(text string, n int) *engine.Packet {
	return engine.NewPacket(engine.Terms{}, []byte("4"+text+strings.Repeat("x", n-len(text)-1-4)))
}

// inFlight sends a packet of n bytes to a client that does not read, in a bubble, so that a writer has
// it and waits.
func inFlight(t *testing.T, e *echo, n int) {
	t.Helper()
	if err := e.c.Send(packetOf("flying", n), nil); err != nil {
		t.Fatal(err)
	}
	synctest.Wait()
}

func TestAFullQueueEndsTheConnection(t *testing.T) {
	inBubble(t, Options{QueueBytes: 10_000}, func(t *testing.T, h *Handler, last func() *echo) {
		pipe(t, h, "EIO=4&transport=websocket")
		e := last()
		inFlight(t, e, 4000)
		for _, n := range []int{4000, 6000} { // to the limit: what is flying comes on top
			if err := e.c.Send(packetOf("waits", n), nil); err != nil {
				t.Fatalf("at the limit: %v", err)
			}
		}
		if err := e.c.Send(engine.NewPacket(engine.Terms{}, nil, nil), nil); !errors.Is(err, engine.ErrSlowConsumer) {
			t.Fatalf("past the limit: got %v, want %v", err, engine.ErrSlowConsumer)
		}
		if got := <-e.closed; got != engine.ReasonServerClose {
			t.Fatalf("closed for %q", got)
		}
		if err := e.c.Send(packetOf("late", 100), nil); err == nil {
			t.Error("an ended session takes packets")
		}
	})
}

func TestAFullQueueDropsWhatThePolicySays(t *testing.T) {
	for policy, want := range map[engine.Overflow][]string{
		engine.DropNewest: {"flying", "0", "1", "2", "3", "later"},
		engine.DropOldest: {"flying", "2", "3", "4", "5", "later"},
	} {
		inBubble(t, Options{QueueBytes: 4000, Overflow: policy}, func(t *testing.T, h *Handler, last func() *echo) {
			c := pipe(t, h, "EIO=4&transport=websocket")
			e := last()
			inFlight(t, e, 1000)
			refused := 0
			for i := range 6 {
				switch err := e.c.Send(packetOf(strconv.Itoa(i), 1000), nil); {
				case errors.Is(err, engine.ErrSlowConsumer):
					refused++
				case err != nil:
					t.Fatal(err)
				}
			}
			if want := map[engine.Overflow]int{engine.DropNewest: 2}[policy]; refused != want {
				t.Errorf("%d packets were refused, want %d", refused, want)
			}
			var got []string
			for range 5 {
				got = append(got, strings.Trim(c.text(), "4x"))
			}
			synctest.Wait()
			if err := e.c.Send(packetOf("later", 1000), nil); err != nil { // there is room again
				t.Fatal(err)
			}
			got = append(got, strings.Trim(c.text(), "4x"))
			for i := range got { // Trim takes a leading 4 of the number too
				if got[i] == "" {
					got[i] = "4"
				}
			}
			if !slices.Equal(got, want) {
				t.Errorf("got %q, want %q", got, want)
			}
		})
	}
}

func TestAClientThatStandsStillIsGoneAfterTheWriteTimeout(t *testing.T) {
	for _, policy := range []engine.Overflow{engine.CloseSlow, engine.DropNewest, engine.DropOldest} {
		inBubble(t, Options{Overflow: policy}, func(t *testing.T, h *Handler, last func() *echo) {
			c := pipe(t, h, "EIO=4&transport=websocket")
			e := last()
			start := time.Now()
			inFlight(t, e, 3*drainChunk)
			for range 2 { // it takes a part now and then, and may
				time.Sleep(4 * time.Second)
				io.CopyN(io.Discard, c.br, drainChunk)
			}
			if got := <-e.closed; got != engine.ReasonServerClose {
				t.Fatalf("closed for %q", got)
			}
			if got := time.Since(start); got > 13*time.Second || got < 12*time.Second {
				t.Errorf("gone after %v, want 5s from the last byte", got)
			}
		})
	}
}

func TestAClientThatStopsReadingIsGoneWithinTheWriteTimeout(t *testing.T) {
	for _, policy := range []engine.Overflow{engine.CloseSlow, engine.DropNewest, engine.DropOldest} {
		s := serve(t, Options{WriteTimeout: 100 * time.Millisecond, Overflow: policy, QueueBytes: 16 << 20})
		s.websocket()
		e := s.session()
		start := time.Now()
		big := packetOf("big", 4<<20)
		e.c.Send(big, nil)
		if got := receive(t, e.closed); got != engine.ReasonServerClose {
			t.Fatalf("closed for %q", got)
		}
		if took := time.Since(start); took > long.Limit(5*time.Second) {
			t.Errorf("gone after %v", took)
		}
	}
}

func TestAPacketThatIsLargerThanTheQueueIsTakenWhenNothingWaits(t *testing.T) {
	s := serve(t, Options{QueueBytes: 1000})
	c := s.websocket()
	e := s.session()
	if err := e.c.Send(packetOf("big", 100_000), nil); err != nil {
		t.Fatal(err)
	}
	for _, n := range []int{600, 400} { // whether it is being written by now or not
		if err := e.c.Send(packetOf("behind", n), nil); err != nil {
			t.Fatalf("behind it: %v", err)
		}
	}
	for _, want := range []int{99_000, 500, 300} {
		if got := c.text(); len(got) < want {
			t.Fatalf("got %d bytes, want more than %d", len(got), want)
		}
	}
}

// TestTheQueueHoldsWhatItsLimitSays goes to the limit and one byte past it, on polling, where nothing
// moves until the client asks.
func TestTheQueueHoldsWhatItsLimitSays(t *testing.T) {
	for _, policy := range []engine.Overflow{engine.CloseSlow, engine.DropNewest, engine.DropOldest} {
		s := serve(t, Options{QueueBytes: 1000, Overflow: policy})
		c := s.polling()
		e := s.session()
		a := engine.NewPacket(engine.Terms{}, []byte("4"+strings.Repeat("a", 495))) // 500 with its header
		rest := 1000 - a.Size()
		b := engine.NewPacket(engine.Terms{}, []byte("4"+strings.Repeat("b", rest-5)))
		if b.Size() != rest {
			t.Fatalf("a packet of %d bytes, want %d", b.Size(), rest)
		}
		for _, p := range []*engine.Packet{a, b} {
			if err := e.c.Send(p, nil); err != nil {
				t.Fatalf("at the limit: %v", err)
			}
		}
		past := engine.NewPacket(engine.Terms{}, []byte("4"))
		err := e.c.Send(past, nil)
		switch policy {
		case engine.CloseSlow:
			if !errors.Is(err, engine.ErrSlowConsumer) {
				t.Errorf("past the limit: %v", err)
			}
			if got := receive(t, e.closed); got != engine.ReasonServerClose {
				t.Errorf("closed for %q", got)
			}
			c.wantEnd()
		case engine.DropNewest:
			if !errors.Is(err, engine.ErrSlowConsumer) {
				t.Errorf("past the limit: %v", err)
			}
			c.want(string(a.Text()) + "\x1e" + string(b.Text()))
		case engine.DropOldest:
			if err != nil {
				t.Errorf("past the limit: %v", err)
			}
			c.want(string(b.Text()) + "\x1e4")
		}
	}
}

func TestVolatilePacketsAreDroppedWhenTheWireIsNotReady(t *testing.T) {
	volatile := func(text string) *engine.Packet {
		return engine.NewPacket(engine.Terms{Volatile: true}, []byte("4"+text))
	}
	s := serve(t, Options{})
	c := s.polling()
	e := s.session()
	if err := e.c.Send(volatile("nobody polls"), nil); err != nil {
		t.Fatal(err)
	}
	get := background(t, func() string { _, b := c.get(); return b })
	waitFor(t, e, func(ss *session) bool { return ss.poll.waiting })
	e.c.Send(volatile("now"), nil)
	if got := get(); got != "4now" {
		t.Fatalf("got %q", got)
	}

	inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
		c := pipe(t, h, "EIO=4&transport=websocket")
		e := last()
		e.c.Send(volatile("idle"), nil)
		c.wantText("4idle")
		synctest.Wait()
		inFlight(t, e, 1000)
		e.c.Send(volatile("busy"), nil)
		c.text()
		synctest.Wait()
		e.c.Send(volatile("idle again"), nil)
		c.wantText("4idle again")
	})
}

func TestWhatIsQueuedLeavesBeforeTheClose(t *testing.T) {
	s := serve(t, Options{QueueBytes: 64 << 20})
	for _, n := range []int{0, 1, 2, 1000} {
		c := s.websocket()
		e := s.session()
		for i := range n {
			e.c.Send(engine.NewPacket(engine.Terms{}, []byte("4"+strconv.Itoa(i)+strings.Repeat("x", 1000))), nil)
		}
		e.c.Send(engine.NewPacket(engine.Terms{}, []byte("41")), nil)
		e.c.Close(engine.ReasonServerDisconnect)
		e.c.Close(engine.ReasonShutdown) // the first counts
		c.write(bytes.Repeat(textFrame("4late"), 10))
		for i := range n {
			if got := c.text(); !strings.HasPrefix(got, "4"+strconv.Itoa(i)+"x") {
				t.Fatalf("packet %d begins %.10q", i, got)
			}
		}
		c.wantText("41")
		c.wantClose(0)
		if got := receive(t, e.closed); got != engine.ReasonServerDisconnect {
			t.Fatalf("closed for %q", got)
		}
	}
}

// TestManyWritersKeepTheirOrder has several goroutines write to the same clients in every way there is.
func TestManyWritersKeepTheirOrder(t *testing.T) {
	const clients, writers, packets = 5, 4, 2000
	s := serve(t, Options{QueueBytes: 64 << 20})
	for range clients {
		c := s.websocket()
		e := s.session()
		for w := range writers {
			go func() {
				for i := range packets {
					text := fmt.Appendf(nil, "4%d %d", w, i)
					if i%97 == 0 {
						text = append(text, bytes.Repeat([]byte{'x'}, 100_000)...)
					}
					if err := e.c.Send(engine.NewPacket(engine.Terms{}, text), nil); err != nil {
						t.Error(err)
						return
					}
					if i%53 == 0 {
						runtime.Gosched()
					}
				}
			}()
		}
		var next [writers]int
		for range writers * packets {
			var w, i int
			if _, err := fmt.Sscanf(strings.TrimRight(c.text(), "x"), "4%d %d", &w, &i); err != nil {
				t.Fatal(err)
			}
			if i != next[w] {
				t.Fatalf("packet %d of writer %d, want %d", i, w, next[w])
			}
			next[w]++
		}
	}
}

func TestSessionsAreRefusedWhenThereIsNoRoom(t *testing.T) {
	refuse := error(nil)
	s := serveWith(t, func(engine.Conn, *http.Request) (engine.Receiver, error) { return deaf{}, refuse }, Options{MaxConns: 2})
	c := s.websocket()
	s.polling()
	if status, h, _ := s.do("GET", "EIO=4&transport=polling", ""); status != 503 || h.Get("Retry-After") == "" {
		t.Fatalf("got %d, want 503", status)
	}
	if c := s.upgrade("EIO=4&transport=websocket", ""); c.head.StatusCode != 503 {
		t.Fatalf("got %d, want 503", c.head.StatusCode)
	}
	c.conn.Close()
	for deadline := time.Now().Add(wait); s.h.Len() == 2; {
		if time.Now().After(deadline) {
			t.Fatal("a place does not become free")
		}
	}
	for err, want := range map[error]int{engine.ErrDraining: 503, errors.New("other"): 403} {
		refuse = fmt.Errorf("wrapped: %w", err)
		if status, _, _ := s.do("GET", "EIO=4&transport=polling", ""); status != want {
			t.Errorf("%v: got %d, want %d", err, status, want)
		}
		if c := s.upgrade("EIO=4&transport=websocket", ""); c.head.StatusCode != want {
			t.Errorf("%v: got %d, want %d", err, c.head.StatusCode, want)
		}
	}
	if got := s.h.Len(); got != 1 {
		t.Fatalf("%d sessions, want 1", got)
	}
}

func TestClosingTheHandlerEndsEverySession(t *testing.T) {
	s := serve(t, Options{})
	ws, poll, waiting := s.websocket(), s.polling(), s.polling()
	all := []*echo{s.session(), s.session(), s.session()}
	get := background(t, func() string { _, b := waiting.get(); return b })
	waitFor(t, all[2], func(ss *session) bool { return ss.poll.waiting })
	all[0].c.Send(engine.NewPacket(engine.Terms{}, []byte("4last")), nil)
	closed := background(t, func() error { return s.h.Close() })
	ws.wantText("4last")
	ws.wantClose(0)
	ws.conn.Close()
	if got := get(); got != "1" {
		t.Fatalf("the pending GET got %q", got)
	}
	if err := closed(); err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		if got := receive(t, e.closed); got != engine.ReasonShutdown {
			t.Errorf("closed for %q", got)
		}
	}
	poll.wantEnd()
	if status, _, _ := s.do("GET", "EIO=4&transport=polling", ""); status != 503 {
		t.Fatalf("a handshake after Close got %d", status)
	}
	if err := s.h.Close(); err != nil {
		t.Fatal(err)
	}
}

// wild is a receiver that panics.
type wild struct{ closed chan engine.Reason }

func (wild) Text(data []byte) error   { panic("text") }
func (wild) Binary([]byte) error      { return errors.New("no binary") }
func (wild) Busy() <-chan struct{}    { return nil }
func (w wild) Closed(r engine.Reason) { w.closed <- r; panic("closed") }

func TestAPanicOfTheReceiverEndsItsConnectionOnly(t *testing.T) {
	w := wild{make(chan engine.Reason, 1)}
	s := serveWith(t, func(_ engine.Conn, r *http.Request) (engine.Receiver, error) {
		if r.Header.Get("X-Panic") != "" {
			panic("accept")
		}
		return w, nil
	}, Options{})
	c := s.websocket()
	c.send("4x")
	c.wantClose(1011)
	receive(t, w.closed)
	p := s.polling()
	p.post("4x")
	p.wantEnd()
	receive(t, w.closed)
	if status, _, _ := s.do("GET", "EIO=4&transport=polling", "", "X-Panic: 1"); status != 500 {
		t.Fatalf("got %d", status)
	}
	c = s.websocket()
	c.write(clientFrame(bitFin|opBinary, []byte{1}))
	c.wantClose(0)
	if got := receive(t, w.closed); got != engine.ReasonParseError {
		t.Fatalf("closed for %q", got)
	}
}

func TestTheLogSaysWhyAClientWasTooSlow(t *testing.T) {
	for _, c := range []struct {
		name, want string
		o          Options
		connect    func(*server)
		sizes      []int
	}{
		{"its queue", "its queue was full: QueueBytes is 1000", Options{QueueBytes: 1000},
			func(s *server) { s.polling() }, []int{600, 600}},
		{"its network", "it took nothing for the time of WriteTimeout, 100ms", Options{QueueBytes: 16 << 20, WriteTimeout: 100 * time.Millisecond},
			func(s *server) { s.websocket() }, []int{4 << 20}},
		{"all queues", "the queues of all clients were full: TotalQueueBytes is 20000", Options{TotalQueueBytes: 20_000},
			func(s *server) { s.polling() }, []int{9000, 9000, 9000}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var log lockedBuffer
			c.o.Logger = slog.New(slog.NewTextHandler(&log, nil))
			s := serve(t, c.o)
			c.connect(s)
			e := s.session()
			for _, size := range c.sizes {
				e.c.Send(packetOf("x", size), nil)
			}
			receive(t, e.closed)
			s.h.Close() // the log is written by then
			if got := log.String(); !strings.Contains(got, `why="`+c.want+`"`) || !strings.Contains(got, "connection="+engine.PublicID(e.c.ID())+" user=42 ") {
				t.Errorf("the log says %s", got)
			}
		})
	}
}
