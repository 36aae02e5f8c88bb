package transport

import (
	"crypto/tls"
	"net"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"tether/engine"
)

// kernelBytes is what the kernel holds for a session's connection, in both directions, as SO_MEMINFO
// has it.
func kernelBytes(t *testing.T, e *echo) (n int) {
	t.Helper()
	// The first is what was received, the fifth is reserved, the sixth is to be sent.
	ask := func(fd uintptr) {
		var info [9]uint32
		size := uint32(unsafe.Sizeof(info))
		if _, _, errno := syscall.Syscall6(syscall.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_MEMINFO,
			uintptr(unsafe.Pointer(&info)), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
			t.Skip("this kernel has no SO_MEMINFO")
		}
		n = int(info[0] + info[5] + info[4])
	}
	s := e.c.(*session)
	switch c := s.carrier.(type) {
	case *epoll:
		ask(uintptr(c.fd))
	case *websocket:
		raw, err := c.Conn.(syscall.Conn).SyscallConn()
		if err == nil {
			err = raw.Control(ask)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func TestWhatTheKernelHoldsForAClientIsBounded(t *testing.T) {
	for size, limit := range map[int]int{0: 256 << 10, 16 << 10: 80 << 10, 512 << 10: 1536 << 10} {
		s := serve(t, Options{KernelBuffer: size, WriteTimeout: wait})
		c := s.websocket()
		e := s.session()
		c.write(textFrame("4half a message, as long as it likes")[:10])
		e.c.Send(termed("x", 8<<20, engine.Terms{}), nil)
		waitFor(t, e, func(s *session) bool { return s.writing && s.queue.empty() })
		most := 0
		for range 100 { // it may take more while the client's side still does
			most = max(most, kernelBytes(t, e))
		}
		t.Logf("figure: %d bytes in the kernel with a buffer of %d", most, size)
		if most > limit || most == 0 {
			t.Errorf("the kernel holds %d bytes with a buffer of %d, want no more than %d", most, size, limit)
		}
	}
}

func TestTheKernelsBuffersAreBoundedUnderTLS(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := newEngine(nil, Options{KernelBuffer: 16 << 10})
	defer h.Close()
	l := h.listener(ln, &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return nil, nil }})
	defer l.Close()
	client, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*tls.Conn).NetConn().(*boundConn).Conn.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	for name, option := range map[string]int{"send": syscall.SO_SNDBUF, "receive": syscall.SO_RCVBUF} {
		err := raw.Control(func(fd uintptr) {
			got, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, option)
			if want := 32 << 10; err != nil || got != want { // Linux takes it twice
				t.Errorf("the buffer to %s has %d bytes, %v; want %d", name, got, err, want)
			}
		})
		if err != nil {
			t.Error(err)
		}
	}
}
