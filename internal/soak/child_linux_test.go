package soak

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/drivers"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/ledger"
	"tether/internal/long"
	"tether/transport"
)

// A node in a process of its own, which can be frozen and killed: this test binary, told by its
// environment to be one. It writes one JSON object a line and ends with its standard input.

const (
	childEnv  = "TETHER_SOAK_NODE"   // the URL of its broker
	listenEnv = "TETHER_SOAK_LISTEN" // where it listens. Default: a loopback port
	epollEnv  = "TETHER_SOAK_EPOLL"  // if set, it uses that carrier
	townEnv   = "TETHER_SOAK_TOWN"   // if set, it is a node of a town, with this name
	logEnv    = "TETHER_SOAK_LOG"    // if set, its clients come back, also when it is killed, and are in the room all
)

// report is a line of a child's.
type report struct {
	Addr string     `json:",omitempty"`
	Tag  string     `json:",omitempty"` // beside Addr
	Gap  *time.Time `json:",omitempty"` // where it begins
	To   *time.Time `json:",omitempty"`

	Change *change `json:",omitempty"` // of a town
}

func TestMain(m *testing.M) {
	if os.Getenv(crowdEnv) != "" {
		if err := serveCrowd(os.Getenv(crowdEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	if os.Getenv(childEnv) != "" {
		if err := serveChild(os.Getenv(childEnv)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	long.Parallel(4)
	os.Exit(m.Run())
}

func serveChild(brokerURL string) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() { // until the process ends
		io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	b, err := long.Again(broker.ErrUnavailable, func() (broker.Broker, error) { return drivers.Mux().Open(ctx, brokerURL) })
	if err != nil {
		return err
	}
	defer b.Close()
	var mu sync.Mutex
	say := func(r report) {
		mu.Lock()
		defer mu.Unlock()
		json.NewEncoder(os.Stdout).Encode(r)
	}
	o := hub.Options{
		Node: os.Getenv(townEnv), DrainWindow: -1, Logger: slog.New(slog.DiscardHandler),
		OnGap: func(g broker.Gap) { say(report{Gap: &g.From, To: &g.To}) },
	}
	if os.Getenv(logEnv) != "" {
		o.Recovery = hub.Recovery{On: true, Log: true}
	}
	h, err := hub.New(b, o)
	if err != nil {
		return err
	}
	register(h)
	if os.Getenv(townEnv) != "" {
		if err := settleTown(h, func(c change) { say(report{Change: &c}) }); err != nil {
			return err
		}
	}
	if o.Recovery.On {
		joinAll(h)
	}
	handler, err := transport.NewHandler(h, transport.Options{Epoll: os.Getenv(epollEnv) != "", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	server := transport.NewServer("", handler)
	server.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	l, err := net.Listen("tcp", cmp.Or(os.Getenv(listenEnv), "127.0.0.1:0"))
	if err != nil {
		return err
	}
	go server.Serve(transport.Listener(l)) // until Close
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }()
	for h.Ready() != nil {
		select {
		case err := <-ended:
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
	say(report{Addr: l.Addr().String(), Tag: h.Emitter().Cluster().Tag()})
	err = <-ended
	server.Close()
	handler.Close()
	return err
}

type child struct {
	cmd  *exec.Cmd
	in   io.Closer
	addr string
	tag  string
	done chan struct{} // closed when it has said its last
}

func startChild(t *testing.T, book *ledger.Ledger, name, brokerURL string, env ...string) *child {
	t.Helper()
	return runChild(t, gapsOf(book, name), childCommand(t, brokerURL, env...), func(io.Writer) {})
}

func childCommand(t testing.TB, brokerURL string, env ...string) *exec.Cmd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(append(os.Environ(), childEnv+"="+brokerURL), env...)
	return cmd
}

// gapsOf notes the gaps of a node in the book.
func gapsOf(book *ledger.Ledger, name string) func(report) {
	return func(r report) {
		if r.Gap != nil {
			book.Gap(name, broker.Gap{From: *r.Gap, To: *r.To})
		}
	}
}

// runChild starts a node by a command of the caller's; prepare is called when it runs, and hear with what it says.
func runChild(t testing.TB, hear func(report), cmd *exec.Cmd, prepare func(stdin io.Writer)) *child {
	t.Helper()
	c := &child{cmd: cmd, done: make(chan struct{})}
	c.cmd.Stderr = os.Stderr
	in, err := c.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	c.in = in
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	prepare(in)
	begun := make(chan report, 1)
	go func() { // the cleanup waits for it
		defer close(c.done)
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var r report
			if json.Unmarshal(lines.Bytes(), &r) != nil {
				continue
			}
			if r.Addr != "" {
				begun <- r
			}
			hear(r)
		}
	}()
	t.Cleanup(func() {
		c.cmd.Process.Signal(syscall.SIGCONT)
		c.in.Close()
		select {
		case <-c.done:
		case <-time.After(wait):
			c.cmd.Process.Kill()
			<-c.done
		}
		c.cmd.Wait()
	})
	select {
	case r := <-begun:
		c.addr, c.tag = r.Addr, r.Tag
	case <-c.done:
		t.Fatal("a node has ended before it began")
	case <-time.After(wait):
		t.Fatal("a node does not begin")
	}
	return c
}

// status is a line of /proc/PID/status, in bytes.
func (c *child) status(name string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.cmd.Process.Pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// A node is killed, or frozen: within six seconds emits count nobody there. One that wakes again
// delivers nothing stale, and its losses lie inside gaps.
func TestANodeThatIsKilledOrFrozenIsNotCounted(t *testing.T) {
	long.Alone(t)
	waiting(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		r := newRig(t, brokerURL, addr, 1, 3*time.Second, hub.Options{}, transport.Options{})
		p := r.publishers()[1]
		killed, frozen := startChild(t, r.book, "killed", brokerURL), startChild(t, r.book, "frozen", brokerURL)
		var doomed []*client
		for _, c := range []struct {
			name, addr string
		}{{"killed", killed.addr}, {"frozen", frozen.addr}} {
			for i := range 20 {
				cl := newClient(r.book, c.name, c.addr, c.name+strconv.Itoa(i))
				if err := cl.start(webSocket); err != nil {
					t.Fatal(err)
				}
				if c.name == "killed" {
					doomed = append(doomed, cl)
				}
			}
		}
		// Each user is asked again as soon as there is an answer: what was taken in the instant of the freeze
		// is answered at once, and does not wait for requests that have to wait until nobody answers.
		nobody := func(name string) (time.Duration, bool) {
			began := time.Now()
			var counted atomic.Int64
			each(20, 20, func(i int) {
				for {
					receipt, err := r.emit(p, room(name+strconv.Itoa(i)))
					if err == nil && receipt.Nobody() || name == "frozen" && r.uncounted(receipt, err) {
						return
					}
					if time.Since(began) > long.Limit(ghostTime) {
						counted.Add(1)
						return
					}
				}
			})
			return time.Since(began), counted.Load() == 0
		}
		names := users(20)
		r.populate(names)
		stop := make(chan struct{})
		end := r.load(names, stop, time.Millisecond)
		for _, c := range doomed {
			c.left() // before an emit can know it, and they themselves may come to know it later
		}
		killed.cmd.Process.Kill()
		took, in := nobody("killed")
		if !in {
			t.Errorf("users of a killed node are counted after %v", took)
		}
		frozen.cmd.Process.Signal(syscall.SIGSTOP)
		stopped := time.Now()
		slept, in := nobody("frozen")
		if !in {
			t.Errorf("users of a frozen node are counted after %v", slept)
		}
		// Others are told by then; it wakes when it has to have noticed itself.
		for i := 0; time.Since(stopped) < 7*time.Second; i++ {
			r.emit(p, room("frozen"+strconv.Itoa(i%20)))
			<-time.After(50 * time.Millisecond)
		}
		frozen.cmd.Process.Signal(syscall.SIGCONT)
		woken, in := within(long.Limit(10*time.Second), func() bool { return r.book.Gaps("frozen") > 0 })
		close(stop)
		slowest, _ := end()
		if !in {
			t.Errorf("a node that was frozen has reported no gap %v after it woke", woken)
		}
		figure(t, "ghosts", "nobody is counted after %v, after %v; meanwhile the slowest emit to somebody else took %v",
			took.Round(time.Millisecond), slept.Round(time.Millisecond), slowest.Round(time.Millisecond))
		figure(t, "freeze", "%v", r.settle())
	})
}
