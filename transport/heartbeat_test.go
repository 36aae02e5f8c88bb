package transport

import (
	"log/slog"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"tether/engine"
)

// inBubble runs f with a handler whose receivers are echoes, in fake time.
func inBubble(t *testing.T, o Options, f func(t *testing.T, h *Handler, last func() *echo)) {
	synctest.Test(t, func(t *testing.T) {
		var e *echo
		o.Logger = slog.New(slog.DiscardHandler)
		h := newEngine(func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
			e = &echo{c: c, closed: make(chan engine.Reason, 1)}
			return e, nil
		}, o)
		defer h.Close()
		f(t, h, func() *echo { return e })
	})
}

func TestPingsComeAnIntervalAfterThePong(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
		c := pipe(t, h, "EIO=4&transport=websocket")
		for range 5 {
			start := time.Now()
			c.wantText("2")
			if got := time.Since(start); got < 25*time.Second || got > 25*time.Second+maxGrain {
				t.Errorf("a ping after %v, want 25s", got)
			}
			time.Sleep(3 * time.Second)
			c.send("3")
		}
		// Pongs that nobody asked for postpone nothing.
		start := time.Now()
		time.Sleep(20 * time.Second)
		c.send("3")
		c.wantText("2")
		if got := time.Since(start); got > 25*time.Second+maxGrain {
			t.Errorf("a ping after %v, want 25s", got)
		}
	})
}

func TestAClientThatDoesNotAnswerAPingIsGone(t *testing.T) {
	for _, o := range []Options{{}, {PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond}} {
		inBubble(t, o, func(t *testing.T, h *Handler, last func() *echo) {
			c := pipe(t, h, "EIO=4&transport=websocket")
			start := time.Now()
			c.wantText("2")
			c.send("4not a pong")
			c.wantText("4not a pong")
			c.wantClose(0)
			want := h.o.PingInterval + h.o.PingTimeout
			if got := time.Since(start); got < want || got > want+2*time.Duration(h.wheel.grain) {
				t.Errorf("closed after %v, want %v", got, want)
			}
			if got := <-last().closed; got != engine.ReasonPingTimeout {
				t.Errorf("closed for %q", got)
			}
		})
	}
}

// TestAPollThatComesWhenThePongIsDueIsTooLate polls at the very moment, which the wheel has not reached.
func TestAPollThatComesWhenThePongIsDueIsTooLate(t *testing.T) {
	for _, early := range []time.Duration{0, time.Millisecond} {
		inBubble(t, Options{PingInterval: 300 * time.Millisecond, PingTimeout: 200 * time.Millisecond}, func(t *testing.T, h *Handler, last func() *echo) {
			time.Sleep(3 * time.Millisecond) // between two slots
			url := pollingSession(h, last)
			time.Sleep(500*time.Millisecond - early)
			status, body := pollOnce(h, url)
			if early == 0 && status != 400 || early > 0 && body != "2" {
				t.Errorf("%v early: got %d %q", early, status, body)
			}
		})
	}
}

// TestADeadClientIsNotWrittenToForItsClose has a client neither read nor answer: what waits for it, the ping at
// least, does not hold up its end.
func TestADeadClientIsNotWrittenToForItsClose(t *testing.T) {
	inBubble(t, Options{WriteTimeout: time.Minute}, func(t *testing.T, h *Handler, last func() *echo) {
		start := time.Now()
		pipe(t, h, "EIO=4&transport=websocket")
		if got := <-last().closed; got != engine.ReasonPingTimeout {
			t.Errorf("closed for %q", got)
		}
		want := h.o.PingInterval + h.o.PingTimeout
		if got := time.Since(start); got < want || got > want+2*maxGrain {
			t.Errorf("gone after %v, want %v", got, want)
		}
	})
}

func TestManySessionsKeepTheirOwnHeartbeats(t *testing.T) {
	inBubble(t, Options{PingInterval: time.Second, PingTimeout: 500 * time.Millisecond}, func(t *testing.T, h *Handler, last func() *echo) {
		var closed, pings atomic.Int32
		const n = 200
		for i := range n {
			c := pipe(t, h, "EIO=4&transport=websocket")
			e := last()
			go func() {
				for {
					first, _, err := c.frame()
					if err != nil || first == bitFin|opClose {
						c.conn.Close()
						<-e.closed
						closed.Add(1)
						return
					}
					if i%2 == 0 {
						pings.Add(1)
						c.conn.Write(textFrame("3"))
					}
				}
			}()
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(20 * time.Second)
		synctest.Wait()
		if got := closed.Load(); got != n/2 {
			t.Errorf("%d sessions ended, want those of the %d silent clients", got, n/2)
		}
		if got, least := pings.Load(), int32(n/2*19); got < least {
			t.Errorf("%d pings, want at least %d", got, least)
		}
	})
}

func TestAMessageThatDoesNotCompleteEndsTheConnection(t *testing.T) {
	for name, part := range map[string][]byte{
		"a byte":             {0x81},
		"a header":           textFrame("4hello")[:6],
		"a long frame":       textFrame("4" + string(make([]byte, 5000)))[:4000],
		"a fragment":         clientFrame(opText, []byte("4x")),
		"fragments and more": append(clientFrame(opText, []byte("4x")), 0, 0x81),
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, h *Handler, last func() *echo) {
				c := pipe(t, h, "EIO=4&transport=websocket")
				c.send("4complete")
				c.wantText("4complete")
				time.Sleep(5 * time.Second)
				start := time.Now()
				c.write(part)
				c.wantClose(0)
				if got := time.Since(start); got != 10*time.Second {
					t.Errorf("closed after %v, want 10s", got)
				}
				if got := <-last().closed; got != engine.ReasonTransportError {
					t.Errorf("closed for %q", got)
				}
			})
		})
	}
}

func TestAMessageMayTakeItsTime(t *testing.T) {
	inBubble(t, Options{PingInterval: time.Hour}, func(t *testing.T, h *Handler, last func() *echo) {
		c := pipe(t, h, "EIO=4&transport=websocket")
		for range 3 {
			for _, b := range textFrame("4abc") {
				time.Sleep(900 * time.Millisecond)
				c.write([]byte{b})
			}
			c.wantText("4abc")
		}
	})
}

// paused is a receiver that has had enough until it is released.
type paused struct {
	echo
	busy atomic.Pointer[chan struct{}]
}

func (p *paused) Busy() <-chan struct{} {
	if c := p.busy.Load(); c != nil {
		return *c
	}
	return nil
}

func TestAClientIsNotGivenUpForPongsThatWereNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &paused{}
		h := newEngine(func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
			p.echo = echo{c: c, closed: make(chan engine.Reason, 1)}
			return p, nil
		}, Options{})
		c := pipe(t, h, "EIO=4&transport=websocket")
		time.Sleep(10 * time.Second)
		release := make(chan struct{})
		p.busy.Store(&release)
		c.send("4stop")
		c.wantText("4stop")
		c.wantText("2")
		go c.conn.Write(append(textFrame("3"), textFrame("4go on")...)) // is not read
		time.Sleep(25 * time.Second)                                    // past the pong's time, but not past the longest pause
		p.busy.Store(nil)
		close(release)
		c.wantText("4go on")
		c.wantText("2")
		c.send("3")

		never := make(chan struct{})
		p.busy.Store(&never)
		c.send("4stop")
		c.wantText("4stop")
		start := time.Now()
		c.wantText("2")
		c.wantClose(0)
		if got := time.Since(start); got > 90*time.Second {
			t.Errorf("a pause lasted %v", got)
		}
		if got := <-p.closed; got != engine.ReasonPingTimeout {
			t.Errorf("closed for %q", got)
		}
		h.Close()
	})
}

func TestAWheelCallsWhatIsDueAndNothingElse(t *testing.T) {
	inBubble(t, Options{PingInterval: time.Second, PingTimeout: time.Second}, func(t *testing.T, h *Handler, _ func() *echo) {
		w := &h.wheel
		s := &session{h: h, slot: noSlot, state: stateEnded}
		w.set(s, h.now()+int64(300*time.Millisecond))
		w.set(s, h.now()+int64(700*time.Millisecond)) // replaces it
		time.Sleep(600 * time.Millisecond)
		synctest.Wait()
		waits := func() bool {
			w.mu.Lock()
			defer w.mu.Unlock()
			return s.slot != noSlot
		}
		if !waits() {
			t.Error("called before its time")
		}
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if waits() {
			t.Error("not called")
		}
		w.set(s, h.now()+int64(time.Hour)) // further than the wheel is round
		w.remove(s)
		w.remove(s)
		if w.n != 0 {
			t.Errorf("%d sessions left", w.n)
		}
	})
}

// TestAWheelThatSleepsIsWokenForWhatIsDueEarlier sets a deadline before the one that it sleeps for.
func TestAWheelThatSleepsIsWokenForWhatIsDueEarlier(t *testing.T) {
	inBubble(t, Options{PingInterval: 20 * time.Second, PingTimeout: 20 * time.Second}, func(t *testing.T, h *Handler, _ func() *echo) {
		w := &h.wheel
		var all [3]session
		for i := range all {
			all[i] = session{h: h, slot: noSlot, state: stateEnded}
			w.set(&all[i], h.now()+int64(9-3*i)*int64(time.Second)) // 9 s, 6 s, 3 s
			synctest.Wait()
		}
		for left := len(all); left > 0; left-- {
			time.Sleep(3*time.Second + maxGrain)
			synctest.Wait()
			w.mu.Lock()
			if w.n != left-1 {
				t.Errorf("%d sessions left, want %d", w.n, left-1)
			}
			w.mu.Unlock()
		}
	})
}
