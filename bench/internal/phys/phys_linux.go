// Package phys is the physical limit: a server that is nothing but system calls. It accepts
// WebSocket connections, answers the handshakes of Engine.IO and Socket.IO with fixed bytes, and
// writes prebuilt frames with one write or writev each. It has no sessions, rooms, heartbeats,
// queues or limits, trusts its clients, and is of use only to be compared with.
package phys

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"tether/bench/internal/emit"
	"tether/bench/internal/mark"
	"tether/bench/internal/rawsys"
)

const (
	maxUsers = 1 << 17
	maxFDs   = 1 << 20
)

// Server is the physical limit as a server.
type Server struct {
	ln   int
	port int
	epfd int

	// Written by the loop and read by the senders, without a lock: connections come before messages.
	users [maxUsers]atomic.Int32 // the descriptor of a user plus one, 0: none
	count atomic.Int32           // users so far: none has a number of this or above
	conns atomic.Int32

	// Owned by the loop.
	state []uint8 // by descriptor
	buf   []byte

	// Owned by the sender; there is one.
	frame  []byte
	frames [][]byte
	iov    []unix.Iovec
}

const (
	isNew uint8 = iota
	isOpen
)

// Listen listens on a port of 127.0.0.1 that the system chooses.
func Listen() (*Server, error) {
	s := &Server{state: make([]uint8, 1024), buf: make([]byte, 64<<10)}
	var err error
	if s.ln, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0); err != nil {
		return nil, fmt.Errorf("phys: socket: %w", err)
	}
	if err = s.listen(); err != nil {
		unix.Close(s.ln)
		return nil, fmt.Errorf("phys: listen: %w", err)
	}
	return s, nil
}

func (s *Server) listen() error {
	if err := unix.Bind(s.ln, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		return err
	}
	if err := unix.Listen(s.ln, 4096); err != nil {
		return err
	}
	a, err := unix.Getsockname(s.ln)
	if err != nil {
		return err
	}
	s.port = a.(*unix.SockaddrInet4).Port
	if s.epfd, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC); err != nil {
		return err
	}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, s.ln, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(s.ln)}); err != nil {
		unix.Close(s.epfd)
		return err
	}
	return nil
}

// URL is where clients connect.
func (s *Server) URL() string { return "http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.port)) }

// Connections is the number of connections.
func (s *Server) Connections() int { return int(s.conns.Load()) }

// Run serves until ctx is done. Connections are closed by the end of the process.
func (s *Server) Run(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	wake, err := unix.Eventfd(0, unix.EFD_NONBLOCK|unix.EFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("phys: eventfd: %w", err)
	}
	if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)}); err != nil {
		return fmt.Errorf("phys: epoll: %w", err)
	}
	// The descriptor stays open to the end of the process, so that a late wake hits nothing else.
	unhook := context.AfterFunc(ctx, func() { _, _ = unix.Write(wake, binary.NativeEndian.AppendUint64(nil, 1)) })
	defer unhook()
	events := make([]unix.EpollEvent, 256)
	for ctx.Err() == nil {
		n, err := rawsys.Wait(s.epfd, events, -1)
		if err != nil {
			return fmt.Errorf("phys: epoll: %w", err)
		}
		for _, ev := range events[:n] {
			switch int(ev.Fd) {
			case wake:
			case s.ln:
				s.accept()
			default:
				s.read(int(ev.Fd))
			}
		}
	}
	return nil
}

func (s *Server) accept() {
	for range 64 {
		fd, _, err := unix.Accept4(s.ln, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err != nil {
			return
		}
		for fd >= len(s.state) {
			s.state = append(s.state, make([]uint8, len(s.state))...)
		}
		s.state[fd] = isNew
		_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
		if unix.EpollCtl(s.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)}) != nil {
			unix.Close(fd)
			continue
		}
		s.conns.Add(1)
	}
}

// read takes what a client sent. A handshake that comes in pieces is refused: ours does not.
func (s *Server) read(fd int) {
	n, e := rawsys.Read(fd, s.buf)
	if e == unix.EAGAIN {
		return
	}
	if e != 0 || n == 0 || !s.handle(fd, s.buf[:n]) {
		unix.Close(fd)
		s.conns.Add(-1)
	}
}

var (
	keyHeader = []byte("Sec-WebSocket-Key: ")
	lineEnd   = []byte("\r\n")
	authUser  = []byte(`40{"user":"u`)
)

func (s *Server) handle(fd int, b []byte) bool {
	if s.state[fd] == isNew {
		_, rest, ok := bytes.Cut(b, keyHeader)
		key, _, ok2 := bytes.Cut(rest, lineEnd)
		if !ok || !ok2 {
			return false
		}
		sum := sha1.Sum(append(bytes.Clone(key), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...)) // RFC 6455 section 1.3
		out := append(make([]byte, 0, 256), "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
		out = base64.StdEncoding.AppendEncode(out, sum[:])
		out = append(out, "\r\n\r\n"...)
		out = appendText(out, `0{"sid":"p","upgrades":[],"pingInterval":25000,"pingTimeout":20000,"maxPayload":1000000}`)
		s.state[fd] = isOpen
		return writeAll(fd, out) == nil
	}
	return s.frameIn(fd, b)
}

// frameIn handles a client's frame as far as it is CONNECT; everything else is ignored.
func (s *Server) frameIn(fd int, b []byte) bool {
	if len(b) < 6 || b[1]&0x80 == 0 || b[0]&15 == 8 {
		return false
	}
	size := int(b[1] & 0x7f)
	if size > 125 || len(b) < 6+size {
		return true
	}
	p := b[6 : 6+size]
	for i := range p {
		p[i] ^= b[2+i&3]
	}
	if !bytes.HasPrefix(p, authUser) {
		return true
	}
	number, _, _ := bytes.Cut(p[len(authUser):], []byte(`"`))
	user, err := strconv.ParseUint(string(number), 10, 32)
	if err != nil || user >= maxUsers || fd >= maxFDs {
		return false
	}
	s.users[user].Store(int32(fd) + 1)
	if user >= uint64(s.count.Load()) {
		s.count.Store(int32(user) + 1)
	}
	out := appendText(nil, `40{"sid":"p"}`)
	out = appendText(out, `42["/ops/connection-success",{"message":"Successfully connected"}]`)
	return writeAll(fd, out) == nil
}

func appendText(dst []byte, text string) []byte {
	return append(append(dst, 0x81, byte(len(text))), text...)
}

// appendEvent appends the frame that carries payload as the argument of event "m".
func appendEvent(dst, payload []byte) []byte {
	if n := len(payload) + 10; n < 126 {
		dst = append(dst, 0x81, byte(n))
	} else {
		dst = append(dst, 0x81, 126)
		dst = binary.BigEndian.AppendUint16(dst, uint16(n))
	}
	dst = append(dst, `42["m","`...)
	dst = append(dst, payload...)
	return append(dst, `"]`...)
}

// writeAll writes b, and waits for room when the socket has none.
func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, e := rawsys.Write(fd, b)
		switch {
		case e == 0:
			b = b[n:]
		case e == unix.EAGAIN:
			if err := waitWritable(fd); err != nil {
				return err
			}
		case e != unix.EINTR:
			return e
		}
	}
	return nil
}

func waitWritable(fd int) error {
	p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
	n, err := unix.Poll(p, 5000)
	if err == unix.EINTR {
		return nil
	}
	if err == nil && n == 0 {
		return errors.New("phys: a client does not read")
	}
	return err
}

// Deliver writes a message to the user that it is for: for one caller at a time.
func (s *Server) Deliver(payload []byte) error {
	if m, ok := mark.Parse(payload); ok {
		if _, err := s.one(context.Background(), m.User, payload); err != nil {
			return err
		}
	}
	return nil
}

// Sender writes to the sockets: for one caller at a time.
func (s *Server) Sender() emit.Sender {
	return emit.Sender{One: s.one, Burst: s.burst}
}

func (s *Server) one(_ context.Context, user uint32, payload []byte) (int, error) {
	s.frame = appendEvent(s.frame[:0], payload)
	if user == mark.Everyone {
		for i := range s.count.Load() {
			if fd := s.users[i].Load(); fd > 0 {
				if err := writeAll(int(fd)-1, s.frame); err != nil {
					return 0, err
				}
			}
		}
		return 1, nil
	}
	return s.write(user, s.frame)
}

func (s *Server) write(user uint32, frame []byte) (int, error) {
	if user >= maxUsers {
		return 0, nil
	}
	fd := s.users[user].Load()
	if fd == 0 {
		return 0, nil
	}
	return 1, writeAll(int(fd)-1, frame)
}

func (s *Server) burst(_ context.Context, user uint32, payloads [][]byte) (int, error) {
	for len(s.frames) < len(payloads) {
		s.frames = append(s.frames, nil)
		s.iov = append(s.iov, unix.Iovec{})
	}
	total := 0
	for i, p := range payloads {
		s.frames[i] = appendEvent(s.frames[i][:0], p)
		s.iov[i].Base = &s.frames[i][0]
		s.iov[i].SetLen(len(s.frames[i]))
		total += len(s.frames[i])
	}
	if user >= maxUsers || s.users[user].Load() == 0 {
		return 0, nil
	}
	fd := int(s.users[user].Load()) - 1
	n, e := rawsys.Writev(fd, s.iov[:len(payloads)])
	switch {
	case e == 0 && n == total:
		return len(payloads), nil
	case e == unix.EAGAIN:
		n = 0
	case e != 0:
		return 0, e
	}
	for _, f := range s.frames[:len(payloads)] { // what writev left
		skip := min(n, len(f))
		n -= skip
		if err := writeAll(fd, f[skip:]); err != nil {
			return 0, err
		}
	}
	return len(payloads), nil
}
