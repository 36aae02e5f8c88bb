package load

import (
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"

	"tether/bench/internal/check"
)

type state uint8

const (
	away       state = iota // not connected
	connecting              // the TCP connection is being made
	upgrading               // the HTTP request has been sent
	opening                 // switched to WebSocket; the Engine.IO handshake has not come
	joining                 // CONNECT has been sent
	waiting                 // CONNECT was answered; the event that makes it ready has not come
	up
	gone // ended, and does not come back
)

// conn is one client. It belongs to the loop.
type conn struct {
	fd    int
	state state
	slow  bool   // stops reading once it is up
	churn bool   // leaves and comes back
	was   bool   // has been up
	epoch uint32 // counts its handshakes

	slot int
	user uint32
	due  int64 // when the handshake should have begun

	in  []byte // what was read and is not a whole frame yet
	out []byte // what could not be written
	msg []byte // the fragments of a message

	check check.Receiver
	seq   uint64 // of the last event that it emitted
}

// The key is a constant, and so is what the server must answer, RFC 6455 section 1.3.
const (
	wsKey    = "dGhlIHNhbXBsZSBub25jZQ=="
	wsAccept = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
)

// connect begins a TCP connection.
func connect(to, from netip.AddrPort, slow bool) (int, error) {
	family := unix.AF_INET
	if to.Addr().Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := prepare(fd, from, slow); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if err := unix.Connect(fd, sockaddr(to)); err != nil && err != unix.EINPROGRESS {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

func prepare(fd int, from netip.AddrPort, slow bool) error {
	if slow {
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4096); err != nil {
			return err
		}
	}
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1); err != nil {
		return err
	}
	if !from.IsValid() {
		return nil
	}
	return bind(fd, from)
}

func bind(fd int, from netip.AddrPort) error {
	// Without this the port is chosen at bind, where it must be unique for all destinations.
	if err := unix.SetsockoptInt(fd, unix.SOL_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1); err != nil {
		return err
	}
	return unix.Bind(fd, sockaddr(from))
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is6() {
		return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

// perSource is how many connections share a source address, well below the ports that Linux gives
// away by itself.
const perSource = perSourceAddress

// source is the i-th source address, of 15 million in 127.1.0.0 to 127.250.249.250.
func source(i uint32) netip.AddrPort {
	a := netip.AddrFrom4([4]byte{127, byte(1 + i/62_500%250), byte(i / 250 % 250), byte(1 + i%250)})
	return netip.AddrPortFrom(a, 0)
}

func reasonOf(e syscall.Errno) string {
	if e == 0 {
		return "closed by the server"
	}
	return e.Error()
}
