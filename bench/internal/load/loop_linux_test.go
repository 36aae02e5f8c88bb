package load

import (
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/clock"
	"tether/bench/internal/mark"
)

func TestAClientSaysWhoItIsAndAnswersWhatItIsAsked(t *testing.T) {
	type seen struct{ head, auth, pong, ack, wsPong string }
	got := make(chan seen, 1)
	url := handSocketIO(t, func(w *wire) {
		s := seen{head: w.head, auth: w.greet()}
		w.text("2")
		_, s.pong = w.next()
		w.text(`42/,17["question",1]`, `4217["question",1]`)
		_, s.ack = w.next()
		if s.ack != "4317[]" {
			_, s.ack = w.next()
		}
		w.Write(serverFrame(0x80|opPing, "abc"))
		_, s.wsPong = w.next()
		if s.wsPong == "4317[]" {
			_, s.wsPong = w.next()
		}
		got <- s
		w.untilGone()
	})
	l := clients(t, Options{URL: url, Conns: 1, First: 7, User: "user-{n}", Auth: `{"id":"{user}","n":"{n}"}`})
	grow(t, l, 1)
	s := <-got
	if !strings.HasPrefix(s.head, "GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\n") {
		t.Errorf("request %q", s.head)
	}
	s.head = ""
	if want := (seen{auth: `{"id":"user-7","n":"7"}`, pong: "3", ack: "4317[]", wsPong: "abc"}); s != want {
		t.Errorf("got %+v, want %+v", s, want)
	}
}

func TestMessagesAreCountedHoweverTheyAreCutUp(t *testing.T) {
	const run = 3
	text := func(seq uint64) string {
		return fmt.Sprintf(`42["m","%s"]`, mark.Append(nil, mark.Mark{Run: run, Publisher: 1, Seq: seq, At: clock.Now()}, 200))
	}
	url := handSocketIO(t, func(w *wire) {
		w.greet()
		b := serverFrame(0x80|opText, text(1))
		m := text(2) // in three fragments with a ping between them
		b = append(b, serverFrame(opText, m[:50])...)
		b = append(b, serverFrame(0x80|opPing, "")...)
		b = append(b, serverFrame(opContinuation, m[50:51])...)
		b = append(b, serverFrame(0x80|opContinuation, m[51:])...)
		b = append(b, serverFrame(0x80|opText, `42/other,5["other","`+m[8:])...) // a third copy of 2: doubled
		b = append(b, serverFrame(0x80|opBinary, "binary")...)
		for len(b) > 0 { // in segments that end anywhere
			n := min(len(b), 37)
			w.Write(b[:n])
			b = b[n:]
		}
		w.text(text(4), text(3))
		w.untilGone()
	})
	l := clients(t, Options{URL: url, Conns: 1, Run: run})
	grow(t, l, 1)
	r := eventually(t, l, "five messages", func(r *Result) bool { return r.Snapshot.Received == 5 })
	if want := (check.Counts{Received: 4, Doubled: 1, Inverted: 1}); r.Check != want {
		t.Errorf("check %+v, want %+v", r.Check, want)
	}
	if r.Latency.Count() != 5 || r.Latency.Max() > time.Minute {
		t.Errorf("%d latencies up to %v, want 5 sensible ones", r.Latency.Count(), r.Latency.Max())
	}
}

func TestAFailedHandshakeSaysWhy(t *testing.T) {
	tests := map[string]struct {
		serve func(*wire)
		why   string
	}{
		"refused":    {func(w *wire) { w.text("0{}"); w.next(); w.text(`44{"message":"no"}`); w.untilGone() }, `refused: {"message":"no"}`},
		"closed":     {func(w *wire) { w.text("0{}"); w.next() }, "closed by the server"},
		"close code": {func(w *wire) { w.Write([]byte{0x88, 2, 0x03, 0xf1}); w.untilGone() }, "websocket close 1009"},
		"masked":     {func(w *wire) { w.Write([]byte{0x81, 0x81}); w.untilGone() }, errFrame.Error()},
		"silent":     {func(w *wire) { w.untilGone() }, "handshake timeout"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			timeout := time.Minute
			if name == "silent" {
				timeout = 300 * time.Millisecond
			}
			l := clients(t, Options{URL: handSocketIO(t, tt.serve), Conns: 3, Timeout: timeout})
			grow(t, l, 3)
			r := eventually(t, l, "three failures", func(r *Result) bool { return r.Snapshot.Failed == 3 })
			if r.Failures[tt.why] != 3 || r.Snapshot.Up != 0 || r.Snapshot.InFlight != 0 {
				t.Errorf("failures %v, up %d, in flight %d; want 3 × %q", r.Failures, r.Snapshot.Up, r.Snapshot.InFlight, tt.why)
			}
		})
	}
}

func TestWhatTheServerClosesLaterIsNoFailedHandshake(t *testing.T) {
	url := handSocketIO(t, func(w *wire) { w.greet(); w.text("41"); w.untilGone() })
	l := clients(t, Options{URL: url, Conns: 2})
	grow(t, l, 2)
	r := eventually(t, l, "two closed", func(r *Result) bool { return r.Snapshot.Closed == 2 })
	if r.Snapshot.Failed != 0 || r.Failures["disconnected by the server"] != 2 || r.Handshake.Count() != 2 {
		t.Errorf("%+v, failures %v", r.Snapshot, r.Failures)
	}
}

func TestAConnectionIsUpWhenItsReadyEventHasCome(t *testing.T) {
	release := make(chan struct{})
	url := handSocketIO(t, func(w *wire) { w.greet(); w.text(`42["not yet"]`); <-release; w.text(`42["ready",{}]`); w.untilGone() })
	l := clients(t, Options{URL: url, Conns: 1, Ready: "ready"})
	settled := make(chan struct{})
	l.Do(func() { l.Grow(1, func() { close(settled) }) })
	eventually(t, l, "the first event", func(r *Result) bool { return r.Snapshot.Events == 1 })
	select {
	case <-settled:
		t.Error("it is up before the event")
	default:
	}
	close(release)
	<-settled
}

func TestClientsEmitBySchedule(t *testing.T) {
	const conns, rate = 5, 2000
	url := handSocketIO(t, func(w *wire) {
		w.greet()
		for {
			op, p := w.next()
			if op == opClose {
				return
			}
			id, args, _ := strings.Cut(strings.TrimPrefix(p, "42"), "[")
			w.text("43"+id+"[1]", "42["+args)
		}
	})
	l := clients(t, Options{URL: url, Conns: conns, Run: 4})
	grow(t, l, conns)
	const want = rate * 150 / 1000
	l.Do(func() {
		l.Emit(Emission{Event: "echo", Rate: rate, Size: 100, Ack: true, Back: true, Start: clock.Now(), Warm: 50 * time.Millisecond, Time: 100 * time.Millisecond})
	})
	r := eventually(t, l, "all answers", func(r *Result) bool { return r.Snapshot.Answered == want && r.Snapshot.Received == want })
	if r.Snapshot.Sent != want || r.Check != (check.Counts{Received: want, Expected: want}) {
		t.Errorf("sent %d, check %+v; want %d and no faults", r.Snapshot.Sent, r.Check, want)
	}
	if n := r.Answer.Count(); n != want*2/3 {
		t.Errorf("%d answers were timed, want %d: those after the warm-up", n, want*2/3)
	}
}

func TestChurningClientsComeBackAndSlowOnesStopReading(t *testing.T) {
	var mu sync.Mutex
	var auths []string
	url := handSocketIO(t, func(w *wire) {
		a := w.greet()
		mu.Lock()
		auths = append(auths, a)
		mu.Unlock()
		w.text(`42["hello"]`, `42["hello"]`, `42["hello"]`)
		w.untilGone()
	})
	l := clients(t, Options{URL: url, Conns: 9, ChurnEvery: 3, Life: 5 * time.Millisecond, Away: time.Millisecond})
	grow(t, l, 9)
	l.Do(func() { l.Churn(true) })
	eventually(t, l, "twenty have left", func(r *Result) bool { return r.Snapshot.Left >= 20 })
	l.Do(func() { l.Churn(false) })
	eventually(t, l, "all are back, as the server sees it, too", func(r *Result) bool {
		mu.Lock()
		defer mu.Unlock()
		return r.Snapshot.Up == 9 && r.Snapshot.InFlight == 0 && len(auths) >= 29
	})
	mu.Lock()
	slices.Sort(auths)
	if got := slices.Compact(slices.Clone(auths)); len(got) != 9 {
		t.Errorf("%d handshakes of %d users, want 9", len(auths), len(got))
	}
	mu.Unlock()

	var sent sync.WaitGroup
	sent.Add(4)
	slow := handSocketIO(t, func(w *wire) {
		w.greet()
		sent.Done()
		for range 100 {
			w.text(`42["x"]`)
		}
		w.untilGone()
	})
	l = clients(t, Options{URL: slow, Conns: 4, SlowEvery: 2})
	grow(t, l, 4)
	sent.Wait()
	r := eventually(t, l, "those that read have read", func(r *Result) bool { return r.Snapshot.Events >= 200 })
	if r.Snapshot.Up != 4 {
		t.Errorf("up %d, want 4", r.Snapshot.Up)
	}
}

func TestAServerWithTLSIsReached(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		c, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: "+wsAccept+"\r\n\r\n")
		h := &wire{Conn: c, r: rw.Reader}
		h.greet()
		h.text("2") // a ping, answered by an event that is counted
		if _, pong := h.next(); pong == "3" {
			h.text(`42["pinged"]`)
		}
		h.untilGone()
	}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // a client that does not believe it says so
	server.StartTLS()
	defer server.Close()

	l := clients(t, Options{URL: server.URL, Insecure: true, Conns: 20})
	grow(t, l, 20)
	r := eventually(t, l, "all have answered a ping", func(r *Result) bool { return r.Snapshot.Events == 20 })
	if r.Snapshot.Up != 20 || r.Snapshot.Failed != 0 {
		t.Errorf("got %+v, failures %v", r.Snapshot, r.Failures)
	}
	l.Do(func() { l.lost(l.conns[0], "dropped by the test") })
	eventually(t, l, "one has gone", func(r *Result) bool { return r.Snapshot.Closed == 1 && r.Snapshot.Up == 19 })

	suspicious := clients(t, Options{URL: server.URL, Conns: 1})
	grow(t, suspicious, 1)
	r = eventually(t, suspicious, "its certificate is not believed", func(r *Result) bool { return r.Snapshot.Failed == 1 })
	for why := range r.Failures {
		if !strings.Contains(why, "TLS") || !strings.Contains(why, "certificate") {
			t.Errorf("got %q", why)
		}
	}
}

func TestOptionsThatCannotWorkAreRefused(t *testing.T) {
	for _, tt := range []struct {
		o    Options
		want error
	}{
		{Options{URL: "ftp://127.0.0.1:1"}, ErrScheme},
		{Options{URL: "https://127.0.0.1:1"}, nil},
		{Options{URL: "http://192.0.2.1:1"}, ErrRemote},
		{Options{URL: "http://192.0.2.1:1", Remote: true}, nil},
		{Options{URL: "http://[::1]:1/x/"}, nil},
	} {
		if _, err := tt.o.Resolve(); !errors.Is(err, tt.want) {
			t.Errorf("Resolve(%+v) = %v, want %v", tt.o, err, tt.want)
		}
	}
	for _, o := range []Options{{}, {URL: "nothing"}, {URL: "http://127.0.0.1:x"}, {URL: "http://127.0.0.1:1", Auth: "{"}, {URL: "http://127.0.0.1:1", Conns: -1}, {URL: "https://127.0.0.1:1", SlowEvery: 2}} {
		if _, err := o.Resolve(); err == nil {
			t.Errorf("Resolve(%+v) accepts it", o)
		}
	}
}

func TestSourceAddressesAreDifferentAndLoopback(t *testing.T) {
	seen := map[string]bool{}
	for i := range uint32(100_000) {
		a := source(i * 3).Addr()
		if !a.IsLoopback() || a.As4()[3] == 0 || a.As4()[3] == 255 || seen[a.String()] {
			t.Fatalf("source(%d) = %v", i*3, a)
		}
		seen[a.String()] = true
	}
}
