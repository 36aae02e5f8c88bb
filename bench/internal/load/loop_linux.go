package load

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"tether/bench/internal/check"
	"tether/bench/internal/clock"
	"tether/bench/internal/hist"
	"tether/bench/internal/mark"
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

type broadcastKey struct {
	publisher uint16
	seq       uint64
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
	l.release()
	return nil
}

// dismiss closes a connection at the end of all.
func (l *Loop) dismiss(c *conn) {
	if c.fd < 0 {
		return
	}
	if l.o.Polite && c.state == up && !c.slow {
		l.goodbye(c)
	} else {
		// A reset leaves no TIME_WAIT behind, so that the next repetition finds its ports.
		_ = unix.SetsockoptLinger(c.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	}
	unix.Close(c.fd)
	c.fd = -1
}

func (l *Loop) goodbye(c *conn) {
	l.send(c, opText, []byte("41"))
	if c.fd >= 0 {
		l.send(c, opClose, []byte{0x03, 0xe8}) // 1000
	}
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
	fd, err := connect(l.o.address, from, c.slow)
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

func (l *Loop) connected(c *conn) {
	code, err := unix.GetsockoptInt(c.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	if err != nil || code != 0 {
		l.lost(c, syscall.Errno(code).Error())
		return
	}
	c.state = upgrading
	l.wbuf = fmt.Appendf(l.wbuf[:0], "GET %s?EIO=4&transport=websocket HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"+
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n\r\n", l.o.path, l.o.host, wsKey)
	l.write(c, l.wbuf)
	if c.fd >= 0 {
		l.listen(c)
	}
}

// listen asks for the events that c can use now.
func (l *Loop) listen(c *conn) {
	ev := unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(c.fd)}
	if c.slow && c.state == up {
		ev.Events = unix.EPOLLRDHUP
	}
	if len(c.out) > 0 {
		ev.Events |= unix.EPOLLOUT
	}
	if err := unix.EpollCtl(l.epfd, unix.EPOLL_CTL_MOD, c.fd, &ev); err != nil {
		l.lost(c, err.Error())
	}
}

func (l *Loop) send(c *conn, op byte, payload []byte) {
	l.wbuf = appendFrame(l.wbuf[:0], op, payload, l.rng.Uint32())
	l.write(c, l.wbuf)
}

func (l *Loop) write(c *conn, b []byte) {
	if len(c.out) > 0 {
		c.out = append(c.out, b...)
		return
	}
	n, e := rawsys.Write(c.fd, b)
	if e != 0 && e != unix.EAGAIN {
		l.lost(c, reasonOf(e))
		return
	}
	if e == unix.EAGAIN {
		n = 0
	}
	if n < len(b) {
		c.out = append(c.out, b[n:]...)
		l.listen(c)
	}
}

func (l *Loop) flush(c *conn) {
	b := c.out
	if len(b) == 0 {
		return
	}
	c.out = nil
	l.write(c, b)
	if c.fd >= 0 && len(c.out) == 0 {
		l.listen(c)
	}
}

func (l *Loop) readable(c *conn) {
	n, e := rawsys.Read(c.fd, l.buf)
	if e == unix.EAGAIN || e == unix.EINTR {
		return
	}
	if e != 0 || n == 0 {
		l.lost(c, reasonOf(e))
		return
	}
	l.now = clock.Now()
	l.stats.Bytes += uint64(n)
	data := l.buf[:n]
	if len(c.in) > 0 {
		c.in = append(c.in, data...)
		data = c.in
	}
	rest, why := l.consume(c, data)
	if why != "" {
		l.lost(c, why)
	}
	if c.fd < 0 || len(rest) == 0 {
		c.in = nil
		return
	}
	c.in = append(c.in[:0], rest...)
}

// consume takes whole frames from data and returns what is left. why is not empty when the
// connection cannot go on.
func (l *Loop) consume(c *conn, data []byte) (rest []byte, why string) {
	if c.state == upgrading {
		n, why := status(data)
		if n == 0 {
			return data, why
		}
		c.state = opening
		data = data[n:]
	}
	for len(data) > 0 && c.fd >= 0 {
		f, n, err := parseFrame(data)
		if err != nil {
			return nil, err.Error()
		}
		if n == 0 {
			return data, ""
		}
		data = data[n:]
		if why := l.frame(c, f); why != "" {
			return nil, why
		}
	}
	return data, ""
}

func (l *Loop) frame(c *conn, f frame) (why string) {
	switch f.op {
	case opClose:
		code := 1005
		if len(f.payload) >= 2 {
			code = int(binary.BigEndian.Uint16(f.payload))
		}
		return fmt.Sprintf("websocket close %d", code)
	case opPing:
		l.send(c, opPong, f.payload)
		return ""
	case opPong:
		return ""
	case opText:
		if f.fin {
			return l.text(c, f.payload)
		}
	}
	switch { // a binary message is only counted, so a fragmented one need not be kept as such
	case !f.fin || f.op == opContinuation:
		c.msg = append(c.msg, f.payload...)
		if len(c.msg) > maxPayload {
			return errTooLarge.Error()
		}
		if f.fin {
			msg := c.msg
			c.msg = nil
			return l.text(c, msg)
		}
	}
	return ""
}

// text takes one Engine.IO packet.
func (l *Loop) text(c *conn, b []byte) (why string) {
	if len(b) > 8 && c.state == up && string(b[:8]) == `42["m","` { // nearly all
		l.stats.Events++
		if m, ok := mark.Parse(b[8:]); ok {
			l.marked(c, m)
		}
		return ""
	}
	switch {
	case len(b) == 0:
		return "empty packet"
	case b[0] == '2':
		l.stats.Pings++
		l.send(c, opText, []byte("3"))
	case b[0] == '1':
		return "Engine.IO close"
	case b[0] == '0':
		if c.state != opening {
			return "second Engine.IO handshake"
		}
		c.state = joining
		l.send(c, opText, append([]byte("40"), l.o.auth(c.user)...))
	case b[0] == '4' && len(b) > 1:
		return l.packet(c, b[1:])
	}
	return ""
}

// packet takes one Socket.IO packet.
func (l *Loop) packet(c *conn, b []byte) (why string) {
	switch b[0] {
	case '0':
		if c.state != joining {
			return "second CONNECT"
		}
		c.state = waiting
		if l.o.Ready == "" {
			l.up(c)
		}
	case '4':
		if len(b) > 80 {
			b = b[:80]
		}
		return "refused: " + string(b[1:])
	case '1':
		return "disconnected by the server"
	case '2', '5':
		l.stats.Events++
		id, array := event(b[1:])
		if array == nil {
			return ""
		}
		if id >= 0 {
			l.send(c, opText, fmt.Appendf(nil, "43%d[]", id))
		}
		if c.state == waiting && called(array, l.o.Ready) {
			l.up(c)
		}
		if m, ok := mark.Parse(firstString(array)); ok {
			l.marked(c, m)
		}
	case '3', '6':
		l.answered(c, b[1:])
	}
	return ""
}

func (l *Loop) up(c *conn) {
	c.state, c.was = up, true
	l.stats.Up++
	l.handshake.Add(time.Duration(l.now - c.due))
	l.lastUp = l.now
	l.handshakeEnded()
	if c.slow {
		l.listen(c)
	}
	if c.churn && l.churning {
		l.plan(c, l.o.Life, leave)
	}
}

func (l *Loop) handshakeEnded() {
	l.stats.InFlight--
	if l.stats.InFlight == 0 && len(l.conns) >= l.target {
		l.finish()
	}
}

func (l *Loop) marked(c *conn, m mark.Mark) {
	l.stats.Received++
	if l.now >= l.window[0] && l.now < l.window[1] {
		l.inWindow++
	}
	verdict := c.check.Take(m, &l.counts)
	if m.Warm || verdict == check.Foreign || c.slow {
		return
	}
	l.latency.Add(time.Duration(l.now - m.At))
	if m.User != mark.Everyone {
		return
	}
	key := broadcastKey{m.Publisher, m.Seq}
	b := l.broadcasts[key]
	if b == nil {
		b = &Broadcast{Publisher: m.Publisher, Seq: m.Seq, At: m.At}
		l.broadcasts[key] = b
	}
	b.Last = l.now
	b.Receivers++
}

// lost ends a connection that failed, or that the other side closed.
func (l *Loop) lost(c *conn, why string) {
	was := c.state
	if was == away || was == gone {
		return
	}
	l.closeFD(c)
	l.failures[why]++
	c.state = gone
	if c.churn {
		c.state = away
		l.plan(c, l.o.Away, comeBack)
	}
	if was == up {
		l.stats.Up--
		l.stats.Closed++
		return
	}
	l.stats.Failed++
	l.handshakeEnded()
}

func (l *Loop) closeFD(c *conn) {
	if c.fd >= 0 {
		l.byFD[c.fd] = nil
		unix.Close(c.fd)
	}
	c.fd, c.in, c.out, c.msg = -1, nil, nil, nil
}

// result is what was seen so far, a copy; sent is what the publishers say they sent, nil when that is
// not known: then nothing can be lost.
func (l *Loop) result(sent []check.Sent) *Result {
	r := &Result{
		Snapshot: l.snapshot(), Check: l.counts, Window: l.inWindow, Handshake: l.handshake.Clone(), Latency: l.latency.Clone(),
		Answer: l.answer.Clone(), Failures: maps.Clone(l.failures), LastUp: l.lastUp,
	}
	for _, c := range l.conns {
		if !c.was {
			continue
		}
		if e := l.emission; e != nil && e.Back {
			sent = []check.Sent{{Publisher: e.Publisher, First: c.user, Users: []uint64{c.seq}}}
		}
		if sent != nil {
			c.check.Settle(sent, !c.slow && !c.churn, &r.Check)
		}
	}
	for _, b := range l.broadcasts {
		r.Broadcasts = append(r.Broadcasts, *b)
	}
	return r
}

func (l *Loop) snapshot() Snapshot {
	s := l.stats
	s.At = clock.Now()
	return s
}

var ackSeparator = []byte("[")

// ackID is the number before the array of an ACK packet in the main namespace, -1 when there is none.
func ackID(b []byte) int64 {
	head, _, ok := bytes.Cut(b, ackSeparator)
	if !ok || len(head) == 0 || len(head) > 18 {
		return -1
	}
	var n int64
	for _, d := range head {
		if d < '0' || d > '9' {
			return -1
		}
		n = n*10 + int64(d-'0')
	}
	return n
}
