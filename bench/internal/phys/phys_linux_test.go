package phys_test

import (
	"context"
	"io"
	"testing"
	"time"

	"tether/bench/internal/check"
	"tether/bench/internal/emit"
	"tether/bench/internal/load"
	"tether/bench/internal/phys"
)

// fleet connects clients that run in this process.
func fleet(t *testing.T, o load.Options, perProcess int) *load.Fleet {
	t.Helper()
	f, err := load.NewFleet(o, perProcess, func() (load.Process, error) {
		commands, in := io.Pipe()
		out, replies := io.Pipe()
		done := make(chan struct{})
		go func() { // ended by Close, which waits for it
			defer close(done)
			if err := load.Work(context.Background(), commands, replies); err != nil {
				t.Errorf("Work: %v", err)
			}
			replies.Close()
		}()
		return load.Process{In: in, Out: out, End: func() { <-done }}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}

func serve(t *testing.T) *phys.Server {
	t.Helper()
	s, err := phys.Listen()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return s
}

func TestEveryMessageOfThePhysicalLimitArrives(t *testing.T) {
	const conns = 60
	jobs := map[string]emit.Job{
		"targeted":  {Users: conns, Rate: 4000},
		"broadcast": {Users: conns, Rate: 100, Everyone: true},
		"bursts":    {Users: conns, Rate: 400, Burst: 16},
		"flat out":  {Users: conns},
	}
	for name, j := range jobs {
		t.Run(name, func(t *testing.T) {
			s := serve(t)
			f := fleet(t, load.Options{URL: s.URL(), Conns: conns, Run: 5}, 25)
			if err := f.Grow(t.Context(), conns); err != nil {
				t.Fatal(err)
			}
			j.Run, j.Size, j.Warm, j.Time = 5, 256, 150*time.Millisecond, 250*time.Millisecond
			r, err := emit.NewRunner(j, s.Sender())
			if err != nil {
				t.Fatal(err)
			}
			res := r.Run(t.Context())
			want := res.Sent.Total() + conns*res.Sent.Everyone
			var got *load.Result
			for end := time.Now().Add(time.Minute); time.Now().Before(end); {
				if got, err = f.Result(t.Context(), []check.Sent{res.Sent}); err != nil {
					t.Fatal(err)
				}
				if got.Check.Received >= want {
					break
				}
			}
			if got.Check != (check.Counts{Received: want, Expected: want}) || want == 0 {
				t.Errorf("got %+v, want %d received; errors %v", got.Check, want, res.Errors)
			}
			if got.Snapshot.Up != conns || got.Handshake.Count() != conns || got.Snapshot.Failed > 0 {
				t.Errorf("up %d, handshakes %d, failed %d: %v", got.Snapshot.Up, got.Handshake.Count(), got.Snapshot.Failed, got.Failures)
			}
			if n := got.Latency.Count(); n == 0 || n >= want {
				t.Errorf("%d of %d were timed, want fewer but some", n, want)
			}
			if j.Everyone {
				for _, b := range got.Broadcasts {
					if b.Receivers != conns || b.Last < b.At {
						t.Errorf("broadcast %+v, want %d receivers", b, conns)
					}
				}
			}
			if s.Connections() != conns {
				t.Errorf("Connections = %d, want %d", s.Connections(), conns)
			}
		})
	}
}
