// Package control is how the harness talks to a server under test: HTTP on a loopback port of its
// own. A server in another language speaks the same:
//
//	GET  /stats     Stats
//	POST /gc        collects garbage and answers with Memory
//	POST /emit      emit.Job; answers with emit.Result when the job is done; hanging up stops it
//	POST /received  {"n":N}: the receivers of the running job have N messages
//
// Servers in Go also have their profiles under /debug/pprof/.
package control

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/pprof"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync"
	"time"

	"tether/bench/internal/emit"
)

// Stats is what a server says of itself.
type Stats struct {
	Connections int    `json:"connections"`
	Users       int    `json:"users,omitempty"` // registered
	Messages    uint64 `json:"messages"`        // that the broker delivered to this node
	Closed      uint64 `json:"closed"`          // connections that have ended
	Emitted     uint64 `json:"emitted"`         // by the running job
}

// Memory is how a server's own runtime divides its memory, in bytes, after collecting garbage.
type Memory struct {
	Heap  int64 `json:"heap"`  // live objects
	Stack int64 `json:"stack"` // of goroutines
	Total int64 `json:"total"` // everything that the runtime has from the operating system and uses
}

// Server is the control side of a server under test.
type Server struct {
	Sender emit.Sender  // the zero value: it does not emit
	Stats  func() Stats // required

	mu     sync.Mutex
	runner *emit.Runner // guarded by mu; the job that runs
}

// Serve answers on ln until ctx is done, and waits for what is being answered.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /stats", func(w http.ResponseWriter, r *http.Request) { answer(w, s.stats()) })
	mux.HandleFunc("POST /gc", func(w http.ResponseWriter, r *http.Request) { answer(w, Collect()) })
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("POST /emit", s.emit)
	mux.HandleFunc("POST /received", s.received)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, BaseContext: func(net.Listener) context.Context { return ctx }}
	stopped := make(chan error, 1)
	unhook := context.AfterFunc(ctx, func() {
		grace, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		stopped <- srv.Shutdown(grace)
	})
	err := srv.Serve(ln)
	if unhook() {
		return fmt.Errorf("control: %w", err)
	}
	<-stopped // an error says that a job did not end in time; it ends with the process
	return nil
}

func (s *Server) stats() Stats {
	st := s.Stats()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.runner != nil {
		st.Emitted = s.runner.Emitted()
	}
	return st
}

func (s *Server) emit(w http.ResponseWriter, r *http.Request) {
	var j emit.Job
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20)).Decode(&j); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	runner, err := emit.NewRunner(j, s.Sender)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	busy := s.runner != nil
	if !busy {
		s.runner = runner
	}
	s.mu.Unlock()
	if busy {
		http.Error(w, "another job is running", http.StatusConflict)
		return
	}
	res := runner.Run(r.Context())
	s.mu.Lock()
	s.runner = nil
	s.mu.Unlock()
	answer(w, res)
}

func (s *Server) received(w http.ResponseWriter, r *http.Request) {
	var body struct {
		N uint64 `json:"n"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<10)).Decode(&body); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.mu.Lock()
	runner := s.runner
	s.mu.Unlock()
	if runner != nil {
		runner.Received(body.N)
	}
	w.WriteHeader(http.StatusNoContent)
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v) // an error means that the client hung up
}

// Collect collects garbage, gives back what is free, and reads what the Go runtime holds.
func Collect() Memory {
	runtime.GC()
	runtime.GC() // finalizers and pools need two
	debug.FreeOSMemory()
	samples := []metrics.Sample{
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/stacks:bytes"},
		{Name: "/memory/classes/total:bytes"},
		{Name: "/memory/classes/heap/released:bytes"},
	}
	metrics.Read(samples)
	v := func(i int) int64 { return int64(samples[i].Value.Uint64()) }
	return Memory{Heap: v(0), Stack: v(1), Total: v(2) - v(3)}
}

// Client speaks to a Server.
type Client struct{ URL string }

// Stats asks for the server's own numbers.
func (c Client) Stats(ctx context.Context) (Stats, error) {
	var s Stats
	return s, c.call(ctx, http.MethodGet, "/stats", nil, &s)
}

// Collect makes the server collect its garbage.
func (c Client) Collect(ctx context.Context) (Memory, error) {
	var m Memory
	return m, c.call(ctx, http.MethodPost, "/gc", struct{}{}, &m)
}

// Emit runs a job and waits for it.
func (c Client) Emit(ctx context.Context, j emit.Job) (*emit.Result, error) {
	var r emit.Result
	return &r, c.call(ctx, http.MethodPost, "/emit", j, &r)
}

// Received tells how many messages have arrived.
func (c Client) Received(ctx context.Context, n uint64) error {
	return c.call(ctx, http.MethodPost, "/received", map[string]uint64{"n": n}, nil)
}

// Profile fetches a profile of a server in Go: "profile?seconds=3", "heap?gc=1".
func (c Client) Profile(ctx context.Context, which string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.URL+"/debug/pprof/"+which, nil)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, fmt.Errorf("control: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("control: profile: %s", resp.Status)
	}
	return io.ReadAll(resp.Body)
}

func (c Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("control: %s: %w", path, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, c.URL+path, body)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("control: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 300))
		return fmt.Errorf("control: %s: %s: %s", path, resp.Status, bytes.TrimSpace(text))
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("control: %s: %w", path, err)
	}
	return nil
}

// Announcement is the line of JSON that a server under test prints when it is ready.
type Announcement struct {
	URL     string `json:"url,omitempty"` // of the Socket.IO server
	Control string `json:"control"`       // of the control port
}

// ErrNotReady says that the server ended, or printed something else.
var ErrNotReady = errors.New("control: the server did not become ready")
