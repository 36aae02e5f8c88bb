package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

// termed is a packet of n bytes in the queue that begins with name.
func termed(name string, n int, t engine.Terms) *engine.Packet {
	text := "4" + name + "|"
	return engine.NewPacket(t, []byte(text+strings.Repeat(".", n-len(text)-4)))
}

// named is the name of a packet that termed made.
func named(text string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(text, "4"), "|")
	return name
}

// policies are rows for a queue with room for four packets. A packet is its name, then "c", "n" or "o"
// for its policy, "!" if it is an answer, and "=" with its key.
var policies = []struct {
	name      string
	configure engine.Overflow
	sends     string
	want      string // what arrives
	refused   string
	replaced  uint64
	closed    bool
}{
	{name: "close is the default", sends: "0 1 2 3 4", refused: "4", closed: true},
	{name: "newest", sends: "0 1 2 3 4n 5n", want: "0 1 2 3", refused: "4 5"},
	{name: "newest does not drop what waits", sends: "0n 1n 2 3 4n", want: "0 1 2 3", refused: "4"},
	{name: "oldest", sends: "0o 1o 2o 3o 4o 5o", want: "2 3 4 5"},
	{name: "oldest only of those that may", sends: "0 1o 2 3o 4o 5o", want: "0 2 4 5"},
	{name: "oldest when none may", sends: "0 1 2n 3 4o", want: "0 1 2 3", refused: "4"},
	{name: "what may be dropped gives way before the connection ends", sends: "0o 1 2o 3 4 5", want: "1 3 4 5"},
	{name: "and then it ends", sends: "0o 1 2 3 4 5", refused: "5", closed: true},
	{name: "and for one that would be dropped", sends: "0o 1 2 3 4n 5n", want: "1 2 3 4", refused: "5"},
	{name: "close against the configuration", configure: engine.DropNewest, sends: "0 1 2 3 4 5c", refused: "4 5", closed: true},
	{name: "newest against the configuration", configure: engine.DropOldest, sends: "0 1 2 3 4 5n", want: "2 3 4 5"},
	{name: "newest is not dropped for the configured oldest", configure: engine.DropOldest, sends: "0n 1n 2 3 4", want: "0 1 3 4"},
	{name: "an answer is not dropped", configure: engine.DropOldest, sends: "0! 1 2 3 4 5", want: "0 3 4 5"},
	{name: "an answer has others dropped", configure: engine.DropOldest, sends: "0 1 2 3 4! 5!", want: "2 3 4 5"},
	{name: "an answer may pass the limit by a quarter", configure: engine.DropNewest, sends: "0 1 2 3 4! 5", want: "0 1 2 3 4", refused: "5"},
	{name: "and no further", configure: engine.DropNewest, sends: "0 1 2 3 4! 5!", refused: "5", closed: true},
	{name: "latest", sends: "0 1=a 2 3=a 4=b 5=a", want: "0 2 4 5", replaced: 2},
	{name: "latest keeps the order", sends: "0=a 1=b 2=c 3=b", want: "0 2 3", replaced: 1},
	{name: "latest in a full queue", sends: "0=a 1 2 3 4=a 5=a", want: "1 2 3 5", replaced: 2},
	{name: "latest of another key in a full queue", sends: "0=a 1 2 3 4=b", refused: "4", closed: true},
	{name: "latest with a policy", sends: "0=a 1n=b 2n=c 3n=d 4n=e 5n=b", want: "0 2 3 5", refused: "4", replaced: 1},
	{name: "latest that may be dropped", sends: "0o=a 1 2o=b 3 4o=c 5o=b", want: "1 3 4 5", replaced: 1},
	{name: "latest for ever", sends: strings.Repeat("x=a ", 1000) + "y=b z=a", want: "y z", replaced: 1000},
}

func (r *testTerms) parse(word string) {
	name, key, _ := strings.Cut(word, "=")
	r.t.Key = key
	for _, c := range name {
		switch c {
		case 'c':
			r.t.Overflow = engine.CloseSlow
		case 'n':
			r.t.Overflow = engine.DropNewest
		case 'o':
			r.t.Overflow = engine.DropOldest
		case '!':
			r.t.Control = true
		default:
			r.name += string(c)
		}
	}
}

type testTerms struct {
	name string
	t    engine.Terms
}

func TestEveryPacketHasItsPolicy(t *testing.T) {
	for _, transport := range []string{Polling, WebSocket} {
		for _, row := range policies {
			t.Run(transport+"/"+row.name, func(t *testing.T) {
				s := serve(t, Options{QueueBytes: 4000, Overflow: row.configure, WriteTimeout: wait})
				var got func() string
				if transport == Polling {
					got = s.stuckPolling()
				} else {
					got = s.stuckWebSocket()
				}
				e := s.session()
				fly(t, e)
				var refused []string
				for word := range strings.FieldsSeq(row.sends) {
					var p testTerms
					p.parse(word)
					if err := e.c.Send(termed(p.name, 1000, p.t), nil); errors.Is(err, engine.ErrSlowConsumer) {
						refused = append(refused, p.name)
					} else if err != nil {
						t.Fatal(err)
					}
				}
				if got := strings.Join(refused, " "); got != row.refused {
					t.Errorf("%q are refused, want %q", got, row.refused)
				}
				stats := s.h.Stats()
				dropped := len(strings.Fields(row.sends)) - len(strings.Fields(row.want)) - int(row.replaced)
				if row.closed {
					if got := receive(t, e.closed); got != engine.ReasonServerClose || stats.Slow != 1 {
						t.Errorf("closed for %q, %d counted", got, stats.Slow)
					}
					return
				}
				if stats.Slow != 0 || stats.Replaced != row.replaced || stats.Dropped != uint64(dropped) {
					t.Errorf("counted %+v, want %d dropped, %d replaced", stats, dropped, row.replaced)
				}
				var arrived []string
				for range strings.Fields(row.want) {
					arrived = append(arrived, got())
				}
				if got := strings.Join(arrived, " "); got != row.want {
					t.Errorf("%q arrive, want %q", got, row.want)
				}
				if err := e.c.Send(termed("later", 1000, engine.Terms{}), nil); err != nil || got() != "later" {
					t.Errorf("later: %v", err)
				}
			})
		}
	}
}

// stuckPolling is a polling client; what it gets is read when it is asked for.
func (s *server) stuckPolling() func() string {
	c := s.polling()
	var got []string
	return func() string {
		if len(got) == 0 {
			_, body := c.get()
			for packet := range strings.SplitSeq(body, "\x1e") {
				got = append(got, named(packet))
			}
		}
		name := got[0]
		got = got[1:]
		return name
	}
}

const flying = "flying"

// stuckWebSocket is likewise; the packet that fly sends is not among what it gets.
func (s *server) stuckWebSocket() func() string {
	c := s.websocket()
	return func() string {
		for {
			if name := named(c.text()); name != flying {
				return name
			}
		}
	}
}

// fly sends to a client on WebSocket more than the kernel takes, so that what follows waits.
func fly(t *testing.T, e *echo) {
	t.Helper()
	if e.c.Transport() == Polling {
		return
	}
	if err := e.c.Send(termed(flying, 4<<20, engine.Terms{}), nil); err != nil {
		t.Fatal(err)
	}
	waitFor(t, e, func(s *session) bool { return s.writing && s.queue.empty() })
}

// TestABinaryPacketIsDroppedAsAWhole drops and replaces packets with attachments, among others.
func TestABinaryPacketIsDroppedAsAWhole(t *testing.T) {
	binary := func(name string, t engine.Terms) *engine.Packet {
		return engine.NewPacket(t, []byte("452-"+name), bytes.Repeat([]byte(name), 300), []byte(name))
	}
	for _, transport := range []string{Polling, WebSocket} {
		s := serve(t, Options{QueueBytes: 1000, WriteTimeout: wait})
		var next func() string
		if transport == Polling {
			c := s.polling()
			var body []string
			next = func() string {
				if len(body) == 0 {
					_, b := c.get()
					body = strings.Split(b, "\x1e")
				}
				packet := body[0]
				body = body[1:]
				return packet
			}
		} else {
			c := s.websocket()
			next = func() string {
				for {
					first, payload, err := c.frame()
					switch {
					case err != nil:
						t.Fatal(err)
					case first == bitFin|opBinary:
						return "b" // and the bytes
					case named(string(payload)) != flying:
						return string(payload)
					}
				}
			}
		}
		e := s.session()
		fly(t, e)
		for i := range 5 {
			e.c.Send(binary(fmt.Sprint(i), engine.Terms{Overflow: engine.DropOldest}), nil)
			e.c.Send(binary("k"+fmt.Sprint(i), engine.Terms{Overflow: engine.DropOldest, Key: "k"}), nil)
			e.c.Send(engine.NewPacket(engine.Terms{}, fmt.Appendf(nil, "4t%d", i)), nil)
		}
		got := ""
		for range 5 + 3 {
			got += next()[:1] // only packets of this test begin with 4
		}
		// The last packet with attachments, and all that may not be dropped, in order.
		if want := "4444" + "4bb" + "4"; got != want {
			t.Errorf("%s: got %s, want %s", transport, got, want)
		}
	}
}

// TestAWorkersPolicyCountsAtTheClientsQueue emits from a process without a hub, through a broker.
func TestAWorkersPolicyCountsAtTheClientsQueue(t *testing.T) {
	bus := memory.NewBus()
	h := running(t, bus.Broker())
	s := &server{t: t}
	s.startHandler(newHandler(h, Options{QueueBytes: 4000}))
	c := s.polling()
	c.post("40")
	_, body := c.get()
	if !strings.HasPrefix(body, `40{"sid"`) {
		t.Fatalf("got %q", body)
	}
	socket := h.Socket(body[len(`40{"sid":"`):strings.LastIndex(body, `"`)])
	if err := socket.Wait(t.Context()); err != nil { // until then what is sent to it is held
		t.Fatal(err)
	}
	b := bus.Broker()
	defer b.Close()
	worker := hub.NewEmitter(b, hub.EmitterOptions{})
	arg := strings.Repeat(".", 900)
	for i := range 100 {
		for _, e := range []*hub.Emitter{worker.Latest("a"), worker.Latest("b"), worker.Overflow(engine.DropOldest)} {
			if _, err := e.Emit(t.Context(), hub.Everyone, "e", i, arg); err != nil {
				t.Fatal(err)
			}
		}
	}
	for deadline := time.Now().Add(wait); h.Stats().Received < 300; {
		if time.Now().After(deadline) {
			t.Fatal("nothing is received")
		}
	}
	_, body = c.get()
	want := fmt.Sprintf(`42["e",98,"%[1]s"]|42["e",99,"%[1]s"]|42["e",99,"%[1]s"]|42["e",99,"%[1]s"]`, arg)
	if got := strings.ReplaceAll(body, "\x1e", "|"); got != want {
		t.Errorf("got %q", got)
	}
	if got := h.Stats(); got.Dropped != 0 || s.h.Stats().Replaced != 198 || s.h.Stats().Dropped != 98 {
		t.Errorf("counted %+v", s.h.Stats())
	}
}

// slowQueue is a queue as plain as can be, of what TestAQueueIsWhatItSays compares.
type slowQueue struct {
	h    *Handler
	list []*engine.Packet
}

func (q *slowQueue) size() (n int) {
	for _, p := range q.list {
		n += q.h.weight(p)
	}
	return n
}

// TestAQueueIsWhatItSays compares the queue with a plain list, over random operations, and looks at its
// memory.
func TestAQueueIsWhatItSays(t *testing.T) {
	for seed := range uint64(40) {
		h := &Handler{o: Options{QueueBytes: 5000}}
		r := rand.New(rand.NewPCG(seed, 0))
		h.o.Overflow = engine.CloseSlow + engine.Overflow(r.IntN(3))
		var q queue
		plain := slowQueue{h: h}
		most, keys := 0, 1+r.IntN(8)
		for range 2000 {
			switch op := r.IntN(10); {
			case op < 5:
				terms := engine.Terms{Overflow: engine.Overflow(r.IntN(4)), Control: r.IntN(10) == 0}
				if r.IntN(2) == 0 {
					terms.Key = string('a' + rune(r.IntN(keys)))
				}
				p := termed("", 7+r.IntN(1200)+r.IntN(2)*r.IntN(2)*4000, terms)
				old := q.find(terms.Key)
				i := slices.IndexFunc(plain.list, func(o *engine.Packet) bool { return o.Key() == terms.Key && terms.Key != "" })
				if (old == nil) != (i < 0) || i >= 0 && plain.list[i] != old {
					t.Fatalf("seed %d: find(%q) finds another", seed, terms.Key)
				}
				if old != nil {
					q.cut(old, h)
					plain.list = slices.Delete(plain.list, i, i+1)
				}
				q.push(p, h)
				plain.list = append(plain.list, p)
			case op < 8:
				var want *engine.Packet
				if len(plain.list) > 0 {
					want = plain.list[0]
					plain.list = plain.list[1:]
				}
				if got := q.pop(h); got != want {
					t.Fatalf("seed %d: pop gives another", seed)
				}
			default:
				if i := slices.IndexFunc(plain.list, h.yields); i >= 0 {
					q.yield(h)
					plain.list = slices.Delete(plain.list, i, i+1)
				}
			}
			bytes, all := 0, true
			for _, p := range plain.list {
				if all = all && h.yields(p); h.yields(p) {
					bytes += h.weight(p)
				}
			}
			if gotBytes, gotAll := q.yielding(h); gotBytes != bytes || gotAll != all {
				t.Fatalf("seed %d: %d bytes yield, %v; want %d, %v", seed, gotBytes, gotAll, bytes, all)
			}
			held := int64(0)
			for i, p := range plain.list {
				if i > 0 || large(p) {
					held += int64(p.Size()) + packetCost
				}
			}
			if got := h.queued.Load(); got != held {
				t.Fatalf("seed %d: %d bytes are held, want %d", seed, got, held)
			}
			if q.size != plain.size() || q.empty() != (len(plain.list) == 0) {
				t.Fatalf("seed %d: size %d, want %d", seed, q.size, plain.size())
			}
			if most = max(most, len(plain.list)); q.more != nil && cap(q.more.packets) > max(16, 4*most) {
				t.Fatalf("seed %d: room for %d packets, there were %d at most", seed, cap(q.more.packets), most)
			}
		}
		if q.clear(h); h.queued.Load() != 0 {
			t.Fatalf("seed %d: %d bytes are held by nothing", seed, h.queued.Load())
		}
	}
}

// TestTheLogTellsOfSlowConsumersNowAndThen counts the lines, and what is in them.
func TestTheLogTellsOfSlowConsumersNowAndThen(t *testing.T) {
	var log lockedBuffer
	s := serve(t, Options{QueueBytes: 1000, Logger: slog.New(slog.NewTextHandler(&log, nil))})
	s.polling()
	e := s.session()
	for range 100 {
		e.c.Send(termed("", 600, engine.Terms{Overflow: engine.DropNewest}), nil)
	}
	for deadline := time.Now().Add(wait); strings.Count(log.String(), "\n") == 0; {
		if time.Now().After(deadline) {
			t.Fatal("nothing is logged")
		}
	}
	s.h.slow.told.Store(s.h.now() - int64(slowLogInterval)) // it was ten seconds ago
	e.c.Send(termed("", 600, engine.Terms{Overflow: engine.CloseSlow}), nil)
	receive(t, e.closed)
	s.h.Close()
	lines := strings.Split(strings.TrimSpace(log.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %q", len(lines), lines)
	}
	var closed, dropped int
	for _, line := range lines {
		var c, d int
		if _, err := fmt.Sscanf(line[strings.Index(line, "closed="):], "closed=%d dropped=%d", &c, &d); err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		closed, dropped = closed+c, dropped+d
	}
	if closed != 1 || dropped != 99 {
		t.Errorf("the log says %d closed, %d dropped; want 1, 99", closed, dropped)
	}
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestWhoWaitsForRoomIsTold fills a queue to a byte less than half, and half, and has the client read.
func TestWhoWaitsForRoomIsTold(t *testing.T) {
	for _, transport := range []string{Polling, WebSocket} {
		s := serve(t, Options{QueueBytes: 2000, WriteTimeout: wait})
		connect := func() (next func() string, e *echo) {
			if transport == Polling {
				next = s.stuckPolling()
			} else {
				next = s.stuckWebSocket()
			}
			e = s.session()
			fly(t, e)
			return next, e
		}
		next, e := connect()
		behind := func(want bool) <-chan struct{} {
			t.Helper()
			c, err := e.c.Behind()
			if err != nil || (c != nil) != want {
				t.Fatalf("%s: behind is %v, %v; want %v", transport, c != nil, err, want)
			}
			return c
		}
		behind(false)
		e.c.Send(termed("a", 999, engine.Terms{}), nil)
		behind(false)
		e.c.Send(termed("b", 7, engine.Terms{}), nil)
		told := []<-chan struct{}{behind(true), behind(true)}
		next()
		next()
		for _, c := range told {
			receive(t, c)
		}
		behind(false)

		for name, end := range map[string]func(){
			"Close": func() { e.c.Close(engine.ReasonServerDisconnect) },
			"slow":  func() { e.c.Send(termed("past", 1500, engine.Terms{}), nil) },
			"fail":  func() { e.c.(*session).fail(engine.ReasonTransportError) },
		} {
			_, e = connect()
			e.c.Send(termed("a", 1000, engine.Terms{}), nil)
			c := behind(true)
			end()
			receive(t, c)
			if _, err := e.c.Behind(); err == nil {
				t.Errorf("%s, %s: nothing says that it has ended", transport, name)
			}
		}
	}
}

// TestAHandlerThatWaitsIsNotCutOff has one emit a hundred times what the queue holds, in events of half of
// it, to a client that reads slowly.
func TestAHandlerThatWaitsIsNotCutOff(t *testing.T) {
	const events, size = 200, 8 << 10
	h := running(t, memory.NewBus().Broker())
	ended := make(chan error, 1)
	h.Of("/").On("go", func(ctx context.Context, s *hub.Socket, _ *hub.Message) error {
		big := strings.Repeat("x", size-100)
		for i := range events {
			if err := s.Wait(ctx); err != nil {
				ended <- err
				return nil
			}
			if err := s.Emit("e", i, big); err != nil {
				ended <- err
				return nil
			}
		}
		ended <- nil
		return nil
	})
	s := &server{t: t}
	s.startHandler(newHandler(h, Options{QueueBytes: 2 * size, Epoll: os.Getenv(onEpoll) != ""}))
	poll, ws := s.polling(), s.websocket()
	poll.post("40")
	if _, body := poll.get(); !strings.HasPrefix(body, `40{"sid"`) {
		t.Fatalf("got %q", body)
	}
	ws.send("40")
	if text := ws.text(); !strings.HasPrefix(text, `40{"sid"`) {
		t.Fatalf("got %q", text)
	}
	poll.post(`42["go"]`)
	for got := 0; got < events; {
		_, body := poll.get()
		for packet := range strings.SplitSeq(body, "\x1e") {
			if want := fmt.Sprintf(`42["e",%d,`, got); !strings.HasPrefix(packet, want) {
				t.Fatalf("got %.20q, want %q", packet, want)
			}
			got++
		}
	}
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
	ws.send(`42["go"]`)
	for got := range events {
		if text, want := ws.text(), fmt.Sprintf(`42["e",%d,`, got); !strings.HasPrefix(text, want) {
			t.Fatalf("got %.20q, want %q", text, want)
		}
	}
	if err := receive(t, ended); err != nil {
		t.Error(err)
	}
}
