//go:build linux

package transport

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"tether/engine"
)

// The benchmarks of bursts and broadcasts report the CPU time, user and system, that a delivery of 256 bytes costs
// the process of the server; the clients are another process. raw is a loop of plain writes of the
// same frames to as many loopback connections: the least that it can cost. Compare the two of one run.

// sink is set in a child process to an address and a number of connections: it connects, by a
// WebSocket handshake or without one, and discards what comes until its standard input ends.
const sink = "TETHER_TRANSPORT_SINK"

func TestSink(t *testing.T) {
	f := strings.Fields(os.Getenv(sink))
	if len(f) != 3 {
		t.Skip("only a child process of the benchmarks runs it")
	}
	n, _ := strconv.Atoi(f[1])
	var wg sync.WaitGroup
	var conns []net.Conn
	for range n {
		c, err := net.Dial("tcp", f[0])
		if err != nil {
			t.Fatal(err)
		}
		if f[2] == "websocket" {
			c.Write([]byte(upgradeRequest("EIO=4&transport=websocket")))
			br := bufio.NewReader(c)
			http.ReadResponse(br, nil)
		}
		conns = append(conns, c)
		wg.Go(func() {
			buf := make([]byte, 16<<10)
			for {
				if _, err := c.Read(buf); err != nil {
					return
				}
			}
		})
	}
	bufio.NewReader(os.Stdin).ReadByte()
	for _, c := range conns {
		c.Close()
	}
	wg.Wait()
}

func startSink(b *testing.B, addr string, n int, kind string) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestSink$")
	cmd.Env = append(os.Environ(), sink+"="+addr+" "+strconv.Itoa(n)+" "+kind)
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { in.Close(); cmd.Wait() })
}

// sessions are n sessions whose clients are another process.
func sessions(b *testing.B, n int) []*session {
	var all []*session
	got := make(chan *session)
	s := serveWith(b, func(c engine.Conn, _ *http.Request) (engine.Receiver, error) {
		got <- c.(*session)
		return deaf{}, nil
	}, Options{QueueBytes: 64 << 20, PingInterval: time.Hour})
	startSink(b, s.addr, n, "websocket")
	for range n {
		all = append(all, receive(b, got))
	}
	for _, s := range all {
		for !s.idle() {
			runtime.Gosched()
		}
	}
	return all
}

// idle reports whether the session is connected and all was written.
func (s *session) idle() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.carrier != nil && s.queue.empty() && !s.writing
}

// plain are the descriptors of n connections whose clients are another process.
func plain(b *testing.B, n int) []int {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	startSink(b, l.Addr().String(), n, "plain")
	var fds []int
	for range n {
		c, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		c.(*net.TCPConn).SetWriteBuffer(kernelSize)
		raw, err := c.(*net.TCPConn).SyscallConn()
		if err != nil {
			b.Fatal(err)
		}
		raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) })
		b.Cleanup(func() { c.Close() })
	}
	return fds
}

func writeFull(fd int, p []byte) {
	for len(p) > 0 {
		n, err := syscall.Write(fd, p)
		if err == syscall.EAGAIN {
			pause(100 * time.Microsecond)
			continue
		}
		p = p[max(n, 0):]
	}
}

// pause costs little CPU time and is exact.
func pause(d time.Duration) {
	ts := syscall.NsecToTimespec(int64(d))
	syscall.Nanosleep(&ts, nil)
}

// cpu is what this process has used.
func cpu() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// measure runs send at a pace, waits until all was written, and reports the CPU time per delivery
// without that of the pace itself.
func measure(b *testing.B, each int, pace time.Duration, send func(), done func() bool) {
	b.ReportAllocs()
	before := cpu()
	for b.Loop() {
		send()
		pause(pace)
	}
	for !done() {
		pause(time.Millisecond)
	}
	used := cpu() - before
	before = cpu()
	const pauses = 300
	for range pauses {
		pause(pace)
	}
	used -= (cpu() - before) * time.Duration(b.N) / pauses
	b.ReportMetric(float64(used)/float64(b.N*each)/1e3, "cpu-µs/delivery")
}

func benchmarkWrites(b *testing.B, clients, burst int, pace time.Duration) {
	p := engine.NewPacket(engine.Terms{}, append([]byte("42"), make([]byte, 254)...))
	b.Run("raw", func(b *testing.B) {
		fds := plain(b, clients)
		all := bytes.Repeat(p.Frames(), burst)
		measure(b, burst*clients, pace, func() {
			for _, fd := range fds {
				writeFull(fd, all)
			}
		}, func() bool { return true })
	})
	b.Run("session", func(b *testing.B) {
		all := sessions(b, clients)
		measure(b, burst*clients, pace, func() {
			for _, s := range all {
				for range burst {
					s.Send(p, nil)
				}
			}
		}, func() bool {
			for _, s := range all {
				if !s.idle() {
					return false
				}
			}
			return true
		})
	})
}

// BenchmarkTargeted reports the median time of one Send that is alone, 20,000 a second at most. Its
// write is part of it, so that time is CPU time.
func BenchmarkTargeted(b *testing.B) {
	p := engine.NewPacket(engine.Terms{}, append([]byte("42"), make([]byte, 254)...))
	median := func(b *testing.B, send func()) {
		b.ReportAllocs()
		var took []time.Duration
		for b.Loop() {
			start := time.Now()
			send()
			took = append(took, time.Since(start))
			pause(50 * time.Microsecond)
		}
		slices.Sort(took)
		b.ReportMetric(float64(took[len(took)/2])/1e3, "µs/send")
	}
	b.Run("raw", func(b *testing.B) {
		fd := plain(b, 1)[0]
		median(b, func() { writeFull(fd, p.Frames()) })
	})
	b.Run("session", func(b *testing.B) {
		s := sessions(b, 1)[0]
		median(b, func() { s.Send(p, nil) })
	})
}

func BenchmarkBurstOf16(b *testing.B) { benchmarkWrites(b, 1, 16, 200*time.Microsecond) }

func BenchmarkBroadcast(b *testing.B) { benchmarkWrites(b, 2000, 1, 50*time.Millisecond) }
