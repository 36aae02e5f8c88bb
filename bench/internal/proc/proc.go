// Package proc starts the processes of a benchmark, ends them, and reads from the operating system
// what they cost. Measuring needs Linux.
package proc

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// ErrPlatform says that the operating system is not one that this package can measure.
var ErrPlatform = errors.New("proc: measuring processes needs Linux")

// Group is the processes that one run starts. They do not outlive it: each is told to end when the
// thread that started it ends, which is this group's own. Close the group when done.
type Group struct {
	start chan func()
	once  sync.Once
	done  chan struct{}
}

// NewGroup starts the thread that owns the processes. Its owner is the group; Close ends it.
func NewGroup() *Group {
	g := &Group{start: make(chan func()), done: make(chan struct{})}
	go func() {
		runtime.LockOSThread() // and never unlocked, so that the thread ends with the goroutine
		defer close(g.done)
		for f := range g.start {
			f()
		}
	}()
	return g
}

// Close ends the group's thread, and with it what is still running. Call it after the last Start.
func (g *Group) Close() {
	g.once.Do(func() { close(g.start) })
	<-g.done
}

// Process is a process that this group started.
type Process struct {
	Name string
	PID  int

	In  io.WriteCloser
	Out io.ReadCloser // must be read to the end before the process is stopped, unless it was discarded

	cmd     *exec.Cmd
	stderr  *tail
	waiting sync.Once
	ended   chan struct{}
	err     error // set before ended is closed
}

// Start starts a process with pipes to its standard input and output. In a terminal it does not get
// the Ctrl-C that its owner gets: the owner ends it.
func (g *Group) Start(name, path string, args, env []string) (*Process, error) {
	cmd := exec.Command(path, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.SysProcAttr = attributes()
	p := &Process{Name: name, cmd: cmd, stderr: &tail{}, ended: make(chan struct{})}
	cmd.Stderr = p.stderr
	var err error
	if p.In, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if p.Out, err = cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	started := make(chan error)
	g.start <- func() { started <- cmd.Start() }
	if err := <-started; err != nil {
		return nil, err
	}
	p.PID = cmd.Process.Pid
	return p, nil
}

// wait reaps the process, once, in a goroutine that ends with it.
func (p *Process) wait() <-chan struct{} {
	p.waiting.Do(func() {
		go func() {
			p.err = p.cmd.Wait()
			close(p.ended)
		}()
	})
	return p.ended
}

// Stop asks the process to end, and makes it end after the grace. Nothing reads its output any more.
func (p *Process) Stop(grace time.Duration) {
	p.In.Close()
	select {
	case <-p.ended:
		return
	default:
	}
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it has ended
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.wait():
	case <-t.C:
		_ = p.cmd.Process.Kill()
		<-p.wait()
	}
}

// Wait closes the standard input of the process, which ends it by our convention, waits for it, and
// stops it after the grace.
func (p *Process) Wait(grace time.Duration) {
	p.In.Close()
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.wait():
	case <-t.C:
		p.Stop(time.Second)
	}
}

// Stderr is the end of what the process wrote to its standard error.
func (p *Process) Stderr() string { return p.stderr.String() }

// tail keeps the last bytes that were written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

func (t *tail) Write(p []byte) (int, error) {
	const keep = 4096
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if len(t.b) > keep {
		t.b = append(t.b[:0], t.b[len(t.b)-keep:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.b)
}

// Memory is the memory of a process in bytes, as the operating system sees it.
type Memory struct {
	Resident  int64 `json:"resident"`
	Anonymous int64 `json:"anonymous"` // of which is not backed by a file: what connections cost is in here
}

// Kernel is memory of the kernel in bytes, of the whole machine.
type Kernel struct {
	TCP  int64 `json:"tcp"`  // buffers of TCP sockets
	Slab int64 `json:"slab"` // sockets, descriptors, and everything else that the kernel allocates in small pieces
}

// Machine is the time of all processors together, in steps of 10 ms.
type Machine struct {
	Busy  time.Duration // what was taken by the hypervisor included
	Total time.Duration
}

// CPU is the processor time of a process.
type CPU struct {
	Total  time.Duration `json:"total"`  // exact
	User   time.Duration `json:"user"`   // in steps of 10 ms
	System time.Duration `json:"system"` // in steps of 10 ms
}

// Sub is what was used since o.
func (c CPU) Sub(o CPU) CPU { return CPU{c.Total - o.Total, c.User - o.User, c.System - o.System} }
