package backend

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"
)

// process is a server binary that can be started again and again at one address. Its methods are
// called by one goroutine at a time.
type process struct {
	path  string
	args  []string
	env   []string // besides that of this process
	addr  string
	ready func(net.Conn) error

	cmd    *exec.Cmd     // nil while stopped
	exited chan struct{} // closed by the goroutine that waits for cmd
	output *tail
}

// start starts the process and returns when it serves. A server that cannot bind, because a client's
// outgoing connection happens to use the port, is tried again.
func (p *process) start() error {
	if p.cmd != nil {
		return nil
	}
	deadline := time.Now().Add(startTimeout)
	for {
		err := p.try(deadline)
		if err == nil || time.Now().After(deadline) || errors.As(err, new(*exec.Error)) {
			return err
		}
	}
}

func (p *process) try(deadline time.Time) error {
	cmd := exec.Command(p.path, p.args...)
	if p.env != nil {
		cmd.Env = append(os.Environ(), p.env...)
	}
	out := &tail{}
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = dieWithParent()
	if err := cmd.Start(); err != nil {
		return err
	}
	p.cmd, p.exited, p.output = cmd, make(chan struct{}), out
	// Owned by stop, which waits for exited.
	go func(exited chan struct{}) {
		defer close(exited)
		_ = cmd.Wait() // always "signal: killed"
	}(p.exited)
	err := p.serves(deadline)
	if err != nil {
		err = fmt.Errorf("%w; it said: %s", err, out)
		return errors.Join(err, p.stop())
	}
	return nil
}

// serves waits until the server answers, or the process has ended.
func (p *process) serves(deadline time.Time) error {
	for {
		err := p.probe()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		select {
		case <-p.exited:
			return errors.New("it ended by itself")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

func (p *process) probe() error {
	c, err := net.DialTimeout("tcp", p.addr, time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		return err
	}
	return p.ready(c)
}

func (p *process) stop() error {
	if p.cmd == nil {
		return nil
	}
	_ = p.cmd.Process.Kill() // fails only if it has ended already
	<-p.exited
	p.cmd = nil
	return nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// FreeAddress returns a loopback address that nobody listens at, and that no other test is given until t has
// ended. It lies below the range from which outgoing connections commonly get their ports: a server that is down
// for a while would otherwise find its own port taken by a client that tries to reach it.
func FreeAddress(t testing.TB) string {
	t.Helper()
	for range 1000 {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(12_000+rand.IntN(20_000)))
		claim, err := net.ListenPacket("udp", addr) // tests of other processes look here too
		if err != nil {
			continue
		}
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			t.Cleanup(func() { claim.Close() })
			return addr
		}
		claim.Close()
	}
	t.Fatal("backend: no free port found")
	return ""
}

// freePort is FreeAddress, apart.
func freePort(t testing.TB) (host, port string) {
	t.Helper()
	host, port, _ = net.SplitHostPort(FreeAddress(t))
	return host, port
}

// tail keeps the last few kilobytes that a server wrote.
type tail struct {
	mu  sync.Mutex
	buf []byte // guarded by mu
}

func (o *tail) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, p...)
	if over := len(o.buf) - 4096; over > 0 {
		o.buf = append(o.buf[:0], o.buf[over:]...)
	}
	return len(p), nil
}

func (o *tail) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.buf) == 0 {
		return "nothing"
	}
	return string(o.buf)
}
