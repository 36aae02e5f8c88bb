package transport

import (
	"bufio"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
)

// script is a session that a fuzzer drives, in fake time: what its client and its server do.
type script struct {
	t     *testing.T
	h     *Handler
	e     *collector
	base  string // of the URL
	sent  int    // packets that the server has sent
	ws    net.Conn
	abort context.CancelFunc // of the last GET
	tasks sync.WaitGroup

	mu  sync.Mutex
	got []int // numbers of packets, in the order in which the client had them; guarded by mu
}

// collector is a receiver that keeps what it is told.
type collector struct {
	c     engine.Conn
	mu    sync.Mutex
	texts []string // guarded by mu
	ended int      // guarded by mu
}

func (c *collector) Text(data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.texts = append(c.texts, string(data))
	return nil
}
func (c *collector) Binary([]byte) error   { return nil }
func (c *collector) Busy() <-chan struct{} { return nil }
func (c *collector) Closed(engine.Reason) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended++
}

// saw takes the packets of the server out of what came.
func (s *script) saw(packet string) {
	if n, err := strconv.Atoi(strings.TrimPrefix(packet, "4#")); err == nil && strings.HasPrefix(packet, "4#") {
		s.mu.Lock()
		s.got = append(s.got, n)
		s.mu.Unlock()
	}
}

func (s *script) get() {
	ctx, cancel := context.WithCancel(context.Background())
	s.abort = cancel
	s.tasks.Go(func() {
		w := httptest.NewRecorder()
		s.h.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, s.base, nil))
		if w.Code == http.StatusOK {
			for packet := range strings.SplitSeq(w.Body.String(), "\x1e") {
				s.saw(packet)
			}
		}
	})
}

func (s *script) post(body string) {
	s.tasks.Go(func() {
		s.h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, s.base, strings.NewReader(body)))
	})
}

// upgrade makes the connection that frames go to from now on.
func (s *script) upgrade() {
	ours, theirs := net.Pipe()
	query := strings.Replace(s.base[strings.IndexByte(s.base, '?')+1:], "polling", "websocket", 1)
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(upgradeRequest(query))))
	if err != nil {
		s.t.Fatal(err)
	}
	s.tasks.Go(func() {
		s.h.ServeHTTP(&hijacker{conn: theirs}, r)
		if s.h.Len() == 0 { // the session was gone, and the answer was no upgrade
			theirs.Close()
		}
	})
	s.tasks.Go(func() {
		c := &wsClient{t: s.t, conn: ours, br: bufio.NewReader(ours)}
		if _, err := http.ReadResponse(c.br, r); err != nil {
			return
		}
		for {
			first, payload, err := c.frame()
			if err != nil {
				return
			}
			if first == bitFin|opText {
				s.saw(string(payload))
			}
		}
	})
	if s.ws != nil {
		s.ws.Close()
	}
	s.ws = ours
}

func (s *script) write(frames string) {
	if s.ws != nil {
		s.ws.SetWriteDeadline(time.Now().Add(time.Second))
		io.WriteString(s.ws, frames)
	}
}

// step does what op says; rest is what follows it in the input.
func (s *script) step(op byte, rest []byte) {
	part := string(rest[:min(len(rest), int(op>>4))])
	switch op & 0x0f {
	case 0:
		s.get()
	case 1:
		s.post("4" + part)
	case 2:
		s.post(part)
	case 3:
		s.upgrade()
	case 4:
		s.write(text("2probe"))
	case 5:
		s.write(text("5"))
	case 6:
		s.write(part)
	case 7:
		s.write(text("4" + part))
	case 8, 9:
		s.sent++
		if s.e.c.Send(engine.NewPacket(engine.Terms{}, []byte("4#"+strconv.Itoa(s.sent))), nil) != nil {
			s.sent--
		}
	case 10:
		s.e.c.Close(engine.ReasonServerDisconnect)
	case 11:
		if s.abort != nil {
			s.abort()
		}
	case 12:
		time.Sleep(time.Duration(op>>4) * 3 * time.Second)
	case 13:
		if s.ws != nil {
			s.ws.Close()
		}
	case 14:
		s.write(text("3") + ping(part))
	case 15:
		s.post("3")
	}
	synctest.Wait()
}

// FuzzSession has a string of bytes say what the two ends of a session do, one thing after the other:
// polls, posts, upgrades in any state, frames whole and broken, packets, closes, time. Whatever it is,
// packets arrive in order and once, the receiver is told of the end once, and nothing is left.
func FuzzSession(f *testing.F) {
	for _, seed := range []string{
		"\x00\x08\x00\x08\x18\x00\x0a\x00\x00",
		"\x03\x04\x00\x08\x05\x08\x18\x37abc\x0a",
		"\x00\x03\x04\x08\x05\x18\x0a",
		"\x08\x03\x04\x05\x08\x03\x04\x05",
		"\x03\x05\x08\x00\x03\x04\x04\x05",
		"\x03\x04\x0d\x03\x04\x05\x08\xfc\xfc\xfc\xfc",
		"\x31abc\x22\x1e4\x01\x0f\x112",
		"\x00\x00\x08\x03",
		"\x08\x03\x04\x21\x1e4\x05\x46\x81\xff\x80\x00",
		"\x00\x0b\x00\x08",
		"\xfc\xfc\x0f\xfc\xfc\xfc",
		"\x03\x04\x05\x0e\x2eab\xfc\x0e\xfc\xfc\x0e",
		"\x0a\x08\x03\x04\x05\x00",
		"\x08\x08\x0a\x03\x04\x05\x0d\x00",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 200 {
			return
		}
		synctest.Test(t, func(t *testing.T) {
			s := &script{t: t, e: &collector{}}
			s.h = newEngine(func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
				s.e.c = c
				return s.e, nil
			}, Options{MaxPayload: 1000, Logger: slog.New(slog.DiscardHandler)})
			s.base = "/socket.io/?EIO=4&transport=polling"
			s.h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, s.base, nil))
			s.base += "&sid=" + s.e.c.ID()
			for i, op := range in {
				s.step(op, in[i+1:])
			}
			s.h.Close()
			if s.abort != nil {
				s.abort()
			}
			if s.ws != nil {
				s.ws.Close()
			}
			s.tasks.Wait()
			if s.e.ended != 1 {
				t.Errorf("the receiver was told of the end %d times", s.e.ended)
			}
			if n := s.h.Len(); n != 0 {
				t.Errorf("%d sessions are left", n)
			}
			for i, n := range s.got {
				if i > 0 && n <= s.got[i-1] || n > s.sent {
					t.Errorf("the client had %v of %d packets", s.got, s.sent)
					break
				}
			}
			if !slices.IsSorted(s.got) {
				t.Errorf("the client had %v", s.got)
			}
		})
	})
}
