package load

import (
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"tether/bench/internal/check"
	"tether/bench/internal/clock"
	"tether/bench/internal/hist"
	"tether/bench/internal/rawsys"
)

// Loop drives the connections of one process from one thread.
type Loop struct {
	o     Options
	epfd  int
	wake  int // eventfd: there is something in todo
	timer int // timerfd: something is due

	mu     sync.Mutex
	todo   []func() // guarded by mu; run by the loop
	closed bool     // guarded by mu; the loop has ended

	// The rest is owned by the loop.

	conns     []*conn // by slot
	byFD      []*conn
	target    int   // connections wanted
	rampStart int64 // when the first of this ramp was due
	rampFirst int   // its slot
	settled   func()
	armed     int64 // what the timer is set to, 0: not
	timers    timers
	stop      bool

	dialing context.Context // of tunnels; ends with Run
	undial  context.CancelFunc
	tunnels sync.WaitGroup

	churning bool
	window   [2]int64
	emission *emission

	now        int64 // when the bytes that are being consumed were read
	buf, wbuf  []byte
	rng        *rand.Rand
	stats      Snapshot
	counts     check.Counts
	inWindow   uint64
	lastUp     int64
	handshake  hist.Hist
	latency    hist.Hist
	answer     hist.Hist
	broadcasts map[broadcastKey]*Broadcast
	failures   map[string]uint64
}

// New makes a loop for resolved options. It connects nothing before [Loop.Grow].
func New(o Options) (*Loop, error) {
	if !o.address.IsValid() {
		return nil, errors.New("load: the options are not resolved")
	}
	l := &Loop{
		o: o, buf: make([]byte, 256<<10), rng: rand.New(rand.NewPCG(uint64(o.Run), uint64(o.First))),
		broadcasts: map[broadcastKey]*Broadcast{}, failures: map[string]uint64{}, settled: func() {},
	}
	l.dialing, l.undial = context.WithCancel(context.Background())
	var err error
	if l.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return nil, fmt.Errorf("load: %w", err)
	}
	if l.wake, err = unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC); err != nil {
		unix.Close(l.epfd)
		return nil, fmt.Errorf("load: %w", err)
	}
	if l.timer, err = unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC); err != nil {
		unix.Close(l.epfd)
		unix.Close(l.wake)
		return nil, fmt.Errorf("load: %w", err)
	}
	for _, fd := range []int{l.wake, l.timer} {
		if err = unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}); err != nil {
			l.release()
			return nil, fmt.Errorf("load: %w", err)
		}
	}
	return l, nil
}

func (l *Loop) release() {
	unix.Close(l.epfd)
	unix.Close(l.wake)
	unix.Close(l.timer)
}

// Do runs f on the loop, and reports false when the loop has ended and f will not run.
func (l *Loop) Do(f func()) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.todo = append(l.todo, f)
	l.poke() // the lock keeps the descriptor from being closed meanwhile; the call does not block
	return true
}

func (l *Loop) poke() {
	one := binary.NativeEndian.AppendUint64(nil, 1)
	_, _ = unix.Write(l.wake, one) // fails only when it is already awake
}

// Run drives the connections until ctx is done. It closes all of them before it returns.
func (l *Loop) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	clock.Sharpen()
	unhook := context.AfterFunc(ctx, func() { l.Do(func() { l.stop = true }) })
	defer unhook()

	events := make([]unix.EpollEvent, 512)
	for !l.stop {
		l.advance(clock.Now())
		n, err := rawsys.Wait(l.epfd, events, -1)
		if err != nil {
			return fmt.Errorf("load: epoll: %w", err)
		}
		for _, ev := range events[:n] {
			l.event(int(ev.Fd), ev.Events)
		}
	}
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	for _, c := range l.conns {
		l.dismiss(c)
	}
	l.undial()
	l.tunnels.Wait()
	l.release()
	return nil
}

func (l *Loop) event(fd int, events uint32) {
	switch fd {
	case l.wake:
		var b [8]byte
		_, _ = unix.Read(fd, b[:])
		l.mu.Lock()
		todo := l.todo
		l.todo = nil
		l.mu.Unlock()
		for _, f := range todo {
			f()
		}
		return
	case l.timer:
		var b [8]byte
		_, _ = unix.Read(fd, b[:])
		l.armed = 0
		return
	}
	if fd >= len(l.byFD) || l.byFD[fd] == nil {
		return
	}
	c := l.byFD[fd]
	switch {
	case c.state == connecting:
		l.connected(c)
	case c.state == up && c.slow:
		if events&(unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) != 0 {
			l.lost(c, "slow: closed by the server")
		}
	default:
		if events&unix.EPOLLOUT != 0 {
			l.flush(c)
		}
		if c.fd >= 0 && events&^uint32(unix.EPOLLOUT) != 0 {
			l.readable(c)
		}
	}
}

// advance does what is due, and sets the timer to what is due next.
func (l *Loop) advance(now int64) {
	next := l.ramp(now)
	for len(l.timers) > 0 && l.timers[0].at <= now {
		l.expire(heap.Pop(&l.timers).(timer), now)
	}
	if len(l.timers) > 0 {
		next = earlier(next, l.timers[0].at)
	}
	if l.emission != nil {
		next = earlier(next, l.emit(now))
	}
	if next == 0 || next == l.armed {
		return
	}
	l.armed = next
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(max(next, 1))}
	if err := unix.TimerfdSettime(l.timer, unix.TFD_TIMER_ABSTIME, &spec, nil); err != nil {
		l.armed = 0 // cannot happen with a valid time; the next event tries again
	}
}

func earlier(a, b int64) int64 {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// Grow opens connections until there are n, and calls settled, on the loop, when the last handshake
// has succeeded or failed.
func (l *Loop) Grow(n int, settled func()) {
	l.target, l.settled = min(n, l.o.Conns), settled
	l.rampStart, l.rampFirst = clock.Now(), len(l.conns)
	if l.target <= len(l.conns) && l.stats.InFlight == 0 {
		l.finish()
	}
}

func (l *Loop) finish() {
	f := l.settled
	l.settled = func() {}
	f()
}

func (l *Loop) ramp(now int64) (next int64) {
	for len(l.conns) < l.target && l.stats.InFlight < l.o.InFlight {
		due := now
		if l.o.Rate > 0 {
			due = l.rampStart + int64(float64(len(l.conns)-l.rampFirst)*1e9/l.o.Rate)
			if due > now {
				return due
			}
		}
		slot := len(l.conns)
		user := l.o.user(slot)
		c := &conn{
			slot: slot, user: user, fd: -1, check: check.NewReceiver(l.o.Run, user),
			slow:  l.o.SlowEvery > 0 && slot%l.o.SlowEvery == 0,
			churn: l.o.ChurnEvery > 0 && slot%l.o.ChurnEvery == 0,
		}
		l.conns = append(l.conns, c)
		l.open(c, due)
	}
	return 0
}

// open begins the handshake of a connection that was due at the given time.
func (l *Loop) open(c *conn, due int64) {
	var from netip.AddrPort
	if a := l.o.address.Addr(); a.Is4() && a.IsLoopback() {
		from = source(l.o.Source + uint32(c.slot/perSource))
	}
	c.epoch++
	c.due = due
	l.stats.Opened++
	l.stats.InFlight++
	c.state = connecting
	fd, err := -1, error(nil)
	if l.o.tls != nil {
		fd, err = l.tunnel(c, from)
	} else {
		fd, err = connect(l.o.address, from, c.slow)
	}
	if err != nil {
		l.lost(c, err.Error())
		return
	}
	c.fd = fd
	for fd >= len(l.byFD) {
		l.byFD = append(l.byFD, make([]*conn, 1024)...)
	}
	l.byFD[fd] = c
	ev := unix.EpollEvent{Events: unix.EPOLLOUT, Fd: int32(fd)}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &ev); err != nil {
		l.lost(c, err.Error())
		return
	}
	heap.Push(&l.timers, timer{due + int64(l.o.Timeout), c, c.epoch, timeOut})
}
