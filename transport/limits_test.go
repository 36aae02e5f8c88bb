package transport

import (
	"bufio"
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
	"tether/hub"
)

// TestLimitOfPayload goes to MaxPayload and one byte past it, in every form that a message has, on both
// carriers and on polling.
func TestLimitOfPayload(t *testing.T) {
	const max = 70_000
	at, past := "4"+letters(max-1), "4"+letters(max)
	carriers(t, Options{MaxPayload: max, Compress: true}, func(t *testing.T, s *server) {
		for name, form := range map[string]func(payload string) string{
			"text":                 text,
			"binary":               bin,
			"text in fragments":    func(p string) string { return inFragments(opText, p, 1000) },
			"binary in two":        func(p string) string { return inFragments(opBinary, p, max-1) },
			"compressed":           func(p string) string { return frameBytes(bitFin|bitRSV1|opText, string(squeeze(t, []byte(p)))) },
			"compressed fragments": func(p string) string { return inFragments(bitRSV1|opText, string(squeeze(t, []byte(p))), 1000) },
		} {
			kind := "t"
			if strings.HasPrefix(name, "binary") {
				kind = "b"
			}
			extension := ""
			if strings.HasPrefix(name, "compressed") {
				extension, kind = "permessage-deflate", "z"
			}
			rfcCase{row: "the limit", name: name, in: form(at), messages: []string{kind + at}}.run(t, s, extension)
			rfcCase{row: "past the limit", name: name, in: form(past), code: 1009}.run(t, s, extension)
		}
		post := func(body string, chunked bool) (status int, answer string, end engine.Reason) {
			c := s.polling()
			e := s.session()
			r := io.Reader(strings.NewReader(body))
			if chunked {
				r = io.MultiReader(r) // whose length net/http does not know
			}
			req, err := http.NewRequest(http.MethodPost, c.base, r)
			if err != nil {
				t.Fatal(err)
			}
			if status, answer = c.request(req); status != http.StatusOK {
				c.wantEnd()
				return status, answer, receive(t, e.closed)
			}
			c.want(body)
			c.post("1")
			return status, answer, receive(t, e.closed)
		}
		for _, chunked := range []bool{false, true} {
			if status, answer, end := post(at, chunked); status != 200 || answer != "ok" || end != engine.ReasonTransportClose {
				t.Errorf("a body at the limit, chunked %v: %d %q, %q", chunked, status, answer, end)
			}
			if status, answer, end := post(past, chunked); status != 413 || answer != "" || end != engine.ReasonTransportError {
				t.Errorf("a body past the limit, chunked %v: %d %q, %q", chunked, status, answer, end)
			}
		}
	})
}

// pollingSession opens a session past net/http, and returns its URL.
func pollingSession(h *Handler, last func() *echo) string {
	const base = "/socket.io/?EIO=4&transport=polling"
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, base, nil))
	return base + "&sid=" + last().c.ID()
}

func pollOnce(h *Handler, url string) (int, string) {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(http.MethodGet, url, nil))
	return w.Code, w.Body.String()
}

func TestLimitOfTheTimeToTakeTheLastPackets(t *testing.T) {
	for _, tt := range []struct {
		name   string
		reason engine.Reason
		after  time.Duration
		taken  bool
	}{
		{"at the limit", engine.ReasonServerDisconnect, pollCloseWait - time.Millisecond, true},
		{"past the limit", engine.ReasonServerDisconnect, pollCloseWait + maxGrain, false},
		{"at the limit of a shutdown", engine.ReasonShutdown, pollShutdownWait - time.Millisecond, true},
		{"past the limit of a shutdown", engine.ReasonShutdown, pollShutdownWait + maxGrain, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
				url := pollingSession(h, last)
				last().c.Send(engine.NewPacket(engine.Terms{}, []byte("41")), nil)
				last().c.Close(tt.reason)
				time.Sleep(tt.after)
				synctest.Wait()
				status, body := pollOnce(h, url)
				if want := `{"code":1,"message":"Session ID unknown"}`; !tt.taken && (status != 400 || body != want) || tt.taken && (status != 200 || body != "41") {
					t.Errorf("got %d %q", status, body)
				}
				if tt.taken {
					pollOnce(h, url)
				}
				if got := <-last().closed; got != tt.reason {
					t.Errorf("closed for %q", got)
				}
			})
		})
	}
}

// TestAClientAtFaultIsNotWaitedFor has a polling client sent away for what it did, or did not do, while it does
// not poll, and while it does.
func TestAClientAtFaultIsNotWaitedFor(t *testing.T) {
	for _, reason := range []engine.Reason{engine.ReasonParseError, engine.ReasonForcedClose} {
		t.Run(string(reason), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
				url := pollingSession(h, last)
				last().c.Close(reason)
				synctest.Wait()
				select {
				case got := <-last().closed:
					if got != reason {
						t.Errorf("closed for %q", got)
					}
				default:
					t.Error("the session waits for a GET")
				}
				if status, body := pollOnce(h, url); status != 200 || body != byeLater {
					t.Errorf("the next GET got %d %q", status, body)
				}
				if status, body := pollOnce(h, url); status != 400 {
					t.Errorf("the one after that got %d %q", status, body)
				}

				url = pollingSession(h, last)
				last().c.Close(reason)
				time.Sleep(byeWait + maxGrain)
				synctest.Wait()
				if status, body := pollOnce(h, url); status != 400 {
					t.Errorf("a GET that comes late got %d %q", status, body)
				}

				url = pollingSession(h, last)
				answer := make(chan string, 1)
				go func() {
					_, body := pollOnce(h, url)
					answer <- body
				}()
				synctest.Wait()
				last().c.Close(reason)
				if body := <-answer; body != "1" {
					t.Errorf("the GET that waits got %q", body)
				}
			})
		})
	}
}

func TestLimitOfTheTimeOfAnUpgrade(t *testing.T) {
	for _, tt := range []struct {
		after time.Duration
		taken bool
	}{{10*time.Second - time.Millisecond, true}, {10 * time.Second, false}} {
		t.Run(fmt.Sprint(tt.after), func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
				url := pollingSession(h, last)
				ours, theirs := net.Pipe()
				query := strings.Replace(url[strings.IndexByte(url, '?')+1:], "polling", "websocket", 1)
				r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(upgradeRequest(query))))
				if err != nil {
					t.Fatal(err)
				}
				go h.ServeHTTP(&hijacker{conn: theirs}, r)
				c := &wsClient{t: t, conn: ours, br: bufio.NewReader(ours)}
				if _, err := http.ReadResponse(c.br, r); err != nil {
					t.Fatal(err)
				}
				c.send("2probe")
				c.wantText("3probe")
				start := time.Now()
				if tt.taken {
					time.Sleep(tt.after)
					c.write(append(textFrame("5"), textFrame("4on")...))
					c.wantText("4on")
					time.Sleep(tt.after / 2) // the limit is over, and nothing of it is left
					c.write(textFrame("4still on"))
					c.wantText("4still on")
					return
				}
				if first, payload, err := c.frame(); first != bitFin|opClose || len(payload) != 0 || err != nil {
					t.Fatalf("got %#x %q, %v; want a close frame", first, payload, err)
				}
				if got := time.Since(start); got != tt.after {
					t.Errorf("closed after %v, want %v", got, tt.after)
				}
				ours.Close()
				last().c.Send(engine.NewPacket(engine.Terms{}, []byte("4still")), nil)
				if status, body := pollOnce(h, url); status != 200 || body != "4still" {
					t.Errorf("polling got %d %q", status, body)
				}
			})
		})
	}
}

// TestLimitOfTheTimeOfAMessage sends the last byte of a message at the limit, and past it.
func TestLimitOfTheTimeOfAMessage(t *testing.T) {
	for after, taken := range map[time.Duration]bool{10*time.Second - time.Millisecond: true, 10*time.Second + time.Millisecond: false} {
		inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
			c := pipe(t, h, "EIO=4&transport=websocket")
			frame := textFrame("4slow")
			c.write(frame[:1])
			time.Sleep(after / 2)
			c.write(frame[1 : len(frame)-1])
			if !taken {
				c.wantClose(0)
				return
			}
			time.Sleep(after - after/2)
			c.write(frame[len(frame)-1:])
			c.wantText("4slow")
		})
	}
}

// TestLimitOfTheTimeOfAPong answers a ping at the limit, and past it.
func TestLimitOfTheTimeOfAPong(t *testing.T) {
	for after, taken := range map[time.Duration]bool{20*time.Second - time.Millisecond: true, 20*time.Second + maxGrain: false} {
		inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
			c := pipe(t, h, "EIO=4&transport=websocket")
			c.wantText("2")
			if !taken {
				start := time.Now()
				c.wantClose(0)
				if got := time.Since(start); got < 20*time.Second || got > after {
					t.Errorf("closed after %v", got)
				}
				if got := <-last().closed; got != engine.ReasonPingTimeout {
					t.Errorf("closed for %q", got)
				}
				return
			}
			time.Sleep(after)
			c.send("3")
			c.send("4alive")
			c.wantText("4alive")
			c.wantText("2") // after another interval
		})
	}
}

// TestLimitOfTheTimeOfAWrite has a client take a chunk at the limit, and past it.
func TestLimitOfTheTimeOfAWrite(t *testing.T) {
	for after, taken := range map[time.Duration]bool{5*time.Second - time.Millisecond: true, 5*time.Second + time.Millisecond: false} {
		inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
			c := pipe(t, h, "EIO=4&transport=websocket")
			inFlight(t, last(), 2*drainChunk)
			time.Sleep(after)
			if n, err := io.CopyN(io.Discard, c.br, 2*drainChunk); (err == nil) != taken {
				t.Errorf("after %v the client had %d bytes, %v", after, n, err)
			}
			if !taken {
				if got := <-last().closed; got != engine.ReasonServerClose {
					t.Errorf("closed for %q", got)
				}
			}
		})
	}
}

// TestLimitOfConnections goes to MaxConns and past it, on either transport.
func TestLimitOfConnections(t *testing.T) {
	s := serve(t, Options{MaxConns: 2})
	for _, first := range []string{Polling, WebSocket} {
		a, b := s.polling(), s.websocket()
		ends := []*echo{s.session(), s.session()}
		if status, h, body := s.do("GET", "EIO=4&transport=polling", ""); status != 503 || h.Get("Retry-After") != "1" || body != "Too many connections" {
			t.Fatalf("%d %q", status, body)
		}
		if c := s.upgrade("EIO=4&transport=websocket", ""); c.head.StatusCode != 503 || c.head.Header.Get("Retry-After") != "1" {
			t.Fatalf("got %d, want 503", c.head.StatusCode)
		}
		a.post("4a")
		a.want("4a") // clients that are there are served
		b.send("4b")
		b.wantText("4b")
		if first == Polling {
			a.post("1")
			receive(t, ends[0].closed)
			c := s.websocket() // there is room again
			c.write([]byte(closing("")))
			c.wantClose(0)
			receive(t, s.session().closed)
			b.write([]byte(closing("")))
			b.wantClose(0)
			receive(t, ends[1].closed)
		}
	}
}

// TestHandshakesThatLeadToNothingHaveABudget opens connections with large heads. Those that joined a
// namespace stay, and of the others those that came last.
func TestHandshakesThatLeadToNothingHaveABudget(t *testing.T) {
	carriers(t, Options{}, func(t *testing.T, _ *server) {
		const head, others = 60_000, 10
		h := fuzzHub(t, hub.Limits{TotalHandshakeBytes: 4 * head})
		s := serveWith(t, h.Attach, Options{Epoll: strings.HasSuffix(t.Name(), "epoll")})
		open := func() *wsClient {
			c := s.upgrade("EIO=4&transport=websocket", "", "X-Large: "+strings.Repeat("x", head))
			c.text()
			return c
		}
		joined := open()
		joined.send("40")
		joined.text()
		var idle []*wsClient
		for range others {
			idle = append(idle, open())
		}
		for _, c := range idle[:others-3] {
			c.wantClose(0)
		}
		for _, c := range append(idle[others-3:], joined) {
			if c != joined {
				c.send("40")
				c.text()
			}
			c.send(`42["still"]`)
			c.wantText(`42["back"]`)
		}
	})
}
