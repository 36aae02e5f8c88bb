package control

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"tether/bench/internal/emit"
)

func serve(t *testing.T, s *Server) Client {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return Client{URL: "http://" + ln.Addr().String()}
}

func TestAServerIsAskedAndToldOverTheControlPort(t *testing.T) {
	var sent atomic.Uint64
	c := serve(t, &Server{
		Sender: emit.Sender{One: func(context.Context, uint32, []byte) (int, error) { sent.Add(1); return 1, nil }},
		Stats:  func() Stats { return Stats{Connections: 3} },
	})
	st, err := c.Stats(t.Context())
	if err != nil || st != (Stats{Connections: 3}) {
		t.Errorf("Stats = %+v, %v", st, err)
	}
	m, err := c.Collect(t.Context())
	if err != nil || m.Heap <= 0 || m.Stack <= 0 || m.Total < m.Heap+m.Stack {
		t.Errorf("Collect = %+v, %v", m, err)
	}
	r, err := c.Emit(t.Context(), emit.Job{Users: 10, Rate: 1000, Size: 60, Time: 50 * time.Millisecond})
	if err != nil || r.Sent.Total() != 50 || sent.Load() != 50 {
		t.Errorf("Emit = %+v, %v; sent %d, want 50", r, err, sent.Load())
	}
	if _, err := c.Emit(t.Context(), emit.Job{}); err == nil || !strings.Contains(err.Error(), "0 users") {
		t.Errorf("a senseless job: %v", err)
	}
}

func TestOneJobRunsAtATimeAndEndsWhenItsCallerHangsUp(t *testing.T) {
	begun := make(chan struct{}, 1)
	s := &Server{
		Sender: emit.Sender{One: func(context.Context, uint32, []byte) (int, error) {
			select {
			case begun <- struct{}{}:
			default:
			}
			return 1, nil
		}},
		Stats: func() Stats { return Stats{} },
	}
	c := serve(t, s)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := c.Emit(ctx, emit.Job{Users: 1, Size: 60, Ahead: 1, Time: time.Hour})
		ended <- err
	}()
	<-begun
	if _, err := c.Emit(t.Context(), emit.Job{Users: 1, Time: 1}); err == nil || !strings.Contains(err.Error(), "another job") {
		t.Errorf("a second job: %v", err)
	}
	if err := c.Received(t.Context(), 1); err != nil { // lets the next message go
		t.Error(err)
	}
	<-begun
	if st, err := c.Stats(t.Context()); err != nil || st.Emitted == 0 {
		t.Errorf("Stats = %+v, %v; want the job's progress", st, err)
	}
	cancel()
	if err := <-ended; err == nil {
		t.Error("the caller hung up and got an answer")
	}
	for { // the job ends on the server a moment later, and then there is room for another
		_, err := c.Emit(t.Context(), emit.Job{Users: 1, Size: 60, Rate: 1000, Time: time.Millisecond})
		if err == nil {
			return
		}
		if !strings.Contains(err.Error(), "another job") {
			t.Fatal(err)
		}
	}
}
