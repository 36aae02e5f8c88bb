package transport

import (
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller tells the connections of a handler when they may be read from and written to. It is one
// goroutine over an epoll instance, which itself is watched by the runtime as a file is: while
// nothing happens no thread waits. It starts with the first connection and ends with stop.
//
// A connection is added once, edge-triggered, and is not looked at again: closing its descriptor
// removes it. An event is a hint to try, so one that is late, and reaches the next connection with the
// same descriptor, does no harm.
type poller struct {
	mu    sync.Mutex
	file  *os.File // guarded by mu: the epoll instance; nil before the first connection
	fd    int      // guarded by mu: of file
	conns []*epoll // guarded by mu: by descriptor

	done sync.WaitGroup

	events [256]unix.EpollEvent // owned by the goroutine, as ready
	ready  [256]*epoll
}

// add tells c of events from now on.
func (p *poller) add(c *epoll) error {
	p.mu.Lock()
	if p.file == nil {
		if err := p.startLocked(); err != nil {
			p.mu.Unlock()
			return err
		}
	}
	for int(c.fd) >= len(p.conns) {
		p.conns = append(p.conns, nil)
	}
	p.conns[c.fd] = c
	fd := p.fd
	p.mu.Unlock()
	err := unix.EpollCtl(fd, unix.EPOLL_CTL_ADD, int(c.fd), &unix.EpollEvent{
		Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLRDHUP | unix.EPOLLET,
		Fd:     c.fd,
	})
	if err != nil {
		p.remove(c)
	}
	return err
}

// remove forgets c. It is called before its descriptor is closed, and may be another's.
func (p *poller) remove(c *epoll) {
	p.mu.Lock()
	p.conns[c.fd] = nil
	p.mu.Unlock()
}

func (p *poller) startLocked() error {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		unix.Close(fd)
		return err
	}
	f := os.NewFile(uintptr(fd), "epoll")
	if err := f.SetReadDeadline(time.Time{}); err != nil { // the runtime does not watch it
		f.Close()
		return err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return err
	}
	p.file, p.fd = f, fd
	p.done.Add(1)
	go p.run(raw) // stop waits for it
	return nil
}

// run waits for events until the file is closed.
func (p *poller) run(raw syscall.RawConn) {
	defer p.done.Done()
	raw.Read(func(fd uintptr) bool {
		for {
			n, err := unix.EpollWait(int(fd), p.events[:], 0)
			if err == unix.EINTR {
				continue
			}
			if n <= 0 {
				return false
			}
			p.tell(n)
		}
	})
}

// tell tells connections of the first n events.
func (p *poller) tell(n int) {
	p.mu.Lock()
	for i, e := range p.events[:n] {
		p.ready[i] = p.conns[e.Fd]
	}
	p.mu.Unlock()
	for i, c := range p.ready[:n] {
		if c != nil && c.event(p.events[i].Events) {
			runtime.Gosched() // for the workers, lest there be one for each connection
		}
	}
	clear(p.ready[:n])
}

// stop ends the goroutine. All connections must have been removed.
func (p *poller) stop() {
	p.mu.Lock()
	f := p.file
	p.mu.Unlock()
	if f == nil {
		return
	}
	f.Close()
	p.done.Wait()
}
