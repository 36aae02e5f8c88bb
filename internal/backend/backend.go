// Package backend finds a Redis or a NATS for a test, wherever one can be had: an address in the
// environment, a binary on the PATH, a container, or a stand-in inside the test process, in that
// order. It is imported by tests only, because it links servers and a container client.
//
// With TETHER_TEST_REQUIRE_REAL=1 a test that would get a stand-in fails instead.
package backend

import (
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// Kind says where a [Server] came from.
type Kind string

const (
	Env       Kind = "env"       // TETHER_TEST_REDIS or TETHER_TEST_NATS: shared, and not ours to stop
	Binary    Kind = "binary"    // a process of its own, on a loopback port of its own, without persistence
	Container Kind = "container" // started through testcontainers-go
	StandIn   Kind = "standin"   // miniredis, or nats-server inside this process
)

// Server is a backend for the length of one test. What it holds does not survive a Stop, except
// with Kind Env. Its methods are for the goroutine that runs the test, because they may fail it.
type Server struct {
	URL  string // redis://host:port or nats://host:port, or what the environment gave
	Addr string // host:port
	Kind Kind

	t    testing.TB
	name string // for messages: "redis-server"

	// What this kind can do; nil where it cannot.
	start, stop   func() error
	pause, resume func() error
	lameDuck      func() error
	reload        func() error
}

// product is what differs between the two servers.
type product struct {
	name     string // the binary's name
	scheme   string
	env      string
	image    string
	port     string // inside the container
	args     func(host, port, dir string) []string
	ready    func(net.Conn) error // a freshly opened connection is to a server that serves
	inside   []string             // arguments of the container's entry point
	standIn  string
	standsIn func(addr string, args []string) (func(), error) // starts a stand-in, returns how to stop it
}

// Redis returns a Redis server. args are added to the command line of redis-server; with args, what
// the environment names is passed over, and where only the stand-in is left, which could not honour
// them, the test is skipped.
func Redis(t testing.TB, args ...string) *Server {
	t.Helper()
	return find(t, redisServer, args)
}

// NATS returns a NATS server. args are added to the command line of nats-server; with args, what the
// environment names is passed over. The stand-in honours them.
func NATS(t testing.TB, args ...string) *Server {
	t.Helper()
	return find(t, natsServer, args)
}

// RedisStandIn returns a miniredis, also where a real Redis could be had.
func RedisStandIn(t testing.TB) *Server {
	t.Helper()
	return standIn(t, redisServer, nil)
}

// NATSStandIn returns a nats-server inside this process, also where another one could be had. It is
// the version in go.mod.
func NATSStandIn(t testing.TB, args ...string) *Server {
	t.Helper()
	return standIn(t, natsServer, args)
}

func find(t testing.TB, p product, args []string) *Server {
	t.Helper()
	if address := os.Getenv(p.env); address != "" && len(args) == 0 {
		return named(t, p, address)
	}
	if path, err := exec.LookPath(p.name); err == nil {
		return binary(t, p, path, args)
	}
	if engineAnswers() {
		return container(t, p, args)
	}
	if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
		t.Fatalf("backend: no real %s: set %s, put it on the PATH, or run a container engine", p.name, p.env)
	}
	if p.name == redisServer.name && len(args) > 0 {
		t.Skipf("needs a real %s, to run with %q", p.name, args)
	}
	return standIn(t, p, args)
}

// named returns the server at an address that the environment gave, a URL or host:port.
func named(t testing.TB, p product, address string) *Server {
	t.Helper()
	if !strings.Contains(address, "://") {
		address = p.scheme + "://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Host == "" {
		t.Fatalf("backend: %s is neither a URL nor host:port", p.env)
	}
	t.Logf("backend: %s at %s, from %s", p.name, u.Host, p.env)
	return &Server{URL: address, Addr: u.Host, Kind: Env, t: t, name: p.name}
}

func binary(t testing.TB, p product, path string, args []string) *Server {
	t.Helper()
	host, port := freePort(t)
	return processAt(t, p, path, host, port, args)
}

func processAt(t testing.TB, p product, path, host, port string, args []string, env ...string) *Server {
	t.Helper()
	addr := net.JoinHostPort(host, port)
	proc := &process{
		path:  path,
		args:  append(p.args(host, port, t.TempDir()), args...),
		env:   env,
		addr:  addr,
		ready: p.ready,
	}
	s := &Server{
		URL: p.scheme + "://" + addr, Addr: addr, Kind: Binary, t: t, name: p.name,
		start: proc.start, stop: proc.stop, pause: proc.pause, resume: proc.resume,
	}
	if p.name == natsServer.name {
		s.lameDuck = func() error { return lameDuck(proc) }
		s.reload = func() error { return reload(proc) }
	}
	s.begin()
	t.Logf("backend: %s at %s, process %d", path, addr, proc.pid())
	return s
}

func standIn(t testing.TB, p product, args []string) *Server {
	t.Helper()
	host, port := freePort(t)
	return standInAt(t, p, host, port, args)
}

func standInAt(t testing.TB, p product, host, port string, args []string) *Server {
	t.Helper()
	addr := net.JoinHostPort(host, port)
	var end func()
	s := &Server{
		URL: p.scheme + "://" + addr, Addr: addr, Kind: StandIn, t: t, name: p.name,
		stop: func() error { end(); return nil },
	}
	s.start = func() (err error) {
		for begin := time.Now(); ; time.Sleep(readyLook) { // the port may be a client's for a moment
			if end, err = p.standsIn(addr, args); err == nil || time.Since(begin) > startTimeout {
				return err
			}
		}
	}
	s.begin()
	t.Logf("backend: %s at %s, standing in for %s", p.standIn, addr, p.name)
	return s
}

// begin starts the server for the first time and arranges for its end.
func (s *Server) begin() {
	s.t.Helper()
	if err := s.start(); err != nil {
		s.t.Fatalf("backend: start %s: %v", s.name, err)
	}
	s.t.Cleanup(func() {
		if err := s.stop(); err != nil {
			s.t.Errorf("backend: stop %s: %v", s.name, err)
		}
	})
}

// Restartable reports whether Stop, Start and Restart are possible.
func (s *Server) Restartable() bool { return s.stop != nil }

// Pausable reports whether Pause and Resume are possible.
func (s *Server) Pausable() bool { return s.pause != nil }

// Stop ends the server without ceremony, as a crash would, and returns when it is gone. Where that is
// not possible it skips the test. Stopping twice is stopping once.
func (s *Server) Stop() { s.t.Helper(); s.do("stop", s.stop) }

// Start starts the server again after Stop, at the same address, and returns when it serves.
func (s *Server) Start() { s.t.Helper(); s.do("start", s.start) }

// Restart is Stop and Start.
func (s *Server) Restart() { s.t.Helper(); s.Stop(); s.Start() }

// Pause freezes the server: its sockets stay open and nothing answers, until Resume. Where that is
// not possible it skips the test.
func (s *Server) Pause() { s.t.Helper(); s.do("pause", s.pause) }

// Resume ends Pause.
func (s *Server) Resume() { s.t.Helper(); s.do("resume", s.resume) }

// LameDuck asks a NATS server to send its clients away, by and by, and to end then. Where that is not
// possible it skips the test.
func (s *Server) LameDuck() { s.t.Helper(); s.do("send away the clients of", s.lameDuck) }

// Reload asks a NATS server to read its configuration again, by and by. Where that is not possible it skips
// the test.
func (s *Server) Reload() { s.t.Helper(); s.do("reload", s.reload) }

func (s *Server) do(what string, f func() error) {
	s.t.Helper()
	if f == nil {
		s.t.Skipf("cannot %s a %s of kind %q", what, s.name, s.Kind)
	}
	if err := f(); err != nil {
		s.t.Fatalf("backend: %s %s: %v", what, s.name, err)
	}
}

// String says what the server is and where, without its password.
func (s *Server) String() string { return fmt.Sprintf("%s (%s) at %s", s.name, s.Kind, s.Addr) }
