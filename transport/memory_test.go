package transport

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"tether/broker"
	"tether/broker/memory"
	"tether/engine"
	"tether/hub"
)

// idleServer is set in a child process, to a carrier and what is behind it. The process serves until its
// standard input ends, and prints its resident memory for every line.
const idleServer = "TETHER_TRANSPORT_IDLE"

func TestIdleServer(t *testing.T) {
	kind := os.Getenv(idleServer)
	if kind == "" {
		t.Skip("only a child process of BenchmarkIdleConnection runs it")
	}
	o := Options{PingInterval: time.Hour, Epoll: strings.HasPrefix(kind, "epoll")}
	h := newEngine(func(engine.Conn, *http.Request) (engine.Receiver, error) { return deaf{}, nil }, o)
	if strings.HasSuffix(kind, "hub") {
		h = newHandler(registering(t), o)
	}
	defer h.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := NewServer("", h)
	go srv.Serve(Listener(l))
	defer srv.Close()
	fmt.Printf("at %s\n", l.Addr())
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		for range 3 {
			runtime.GC()
		}
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		fmt.Printf("mem %d %d %d\n", residentBytes(t), m.HeapAlloc, m.StackInuse)
	}
}

// registering is a hub that registers every client as a user of its own, and runs until the test ends.
func registering(t testing.TB) *hub.Hub {
	h := running(t, memory.NewBus().Broker())
	h.Of("/").OnConnect(func(ctx context.Context, s *hub.Socket) error { return s.Register(ctx, "user "+s.ID()) })
	return h
}

// running is a hub that runs until the test ends, and then closes b.
func running(t testing.TB, b broker.Broker) *hub.Hub {
	started := make(chan struct{})
	h, err := hub.New(b, hub.Options{DrainWindow: -1, ForgetHandshake: true,
		OnStart: func(context.Context, *hub.Hub) error { close(started); return nil }})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() { ended <- h.Run(ctx) }() // the cleanup waits for it
	<-started
	t.Cleanup(func() {
		cancel()
		<-ended
		b.Close()
	})
	return h
}

type deaf struct{}

func (deaf) Text([]byte) error     { return nil }
func (deaf) Binary([]byte) error   { return nil }
func (deaf) Busy() <-chan struct{} { return nil }
func (deaf) Closed(engine.Reason)  {}

func residentBytes(t testing.TB) int {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skip("no /proc here")
	}
	_, rest, _ := strings.Cut(string(b), "VmRSS:")
	kb, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// BenchmarkIdleConnection reports the memory that an idle WebSocket connection costs the process of
// the server, which is another one than that of the clients: bare, and as a registered user of a hub.
func BenchmarkIdleConnection(b *testing.B) {
	for _, kind := range []string{"portable bare", "epoll bare", "portable hub", "epoll hub"} {
		b.Run(kind, func(b *testing.B) { benchmarkIdle(b, kind) })
	}
}

func benchmarkIdle(b *testing.B, kind string) {
	const clients = 15_000
	for range b.N {
		cmd := exec.Command(os.Args[0], "-test.run=^TestIdleServer$")
		cmd.Env = append(os.Environ(), idleServer+"="+kind)
		in, _ := cmd.StdinPipe()
		out, _ := cmd.StdoutPipe()
		if err := cmd.Start(); err != nil {
			b.Fatal(err)
		}
		lines := bufio.NewReader(out)
		word := func(want string) []string {
			for {
				line, err := lines.ReadString('\n')
				if err != nil {
					b.Fatal(err)
				}
				if f := strings.Fields(line); len(f) > 0 && f[0] == want {
					return f[1:]
				}
			}
		}
		addr := word("at")[0]
		measure := func() (m [3]float64) {
			io.WriteString(in, "\n")
			for i, f := range word("mem") {
				m[i], _ = strconv.ParseFloat(f, 64)
			}
			return m
		}
		hub := strings.HasSuffix(kind, "hub")
		idleClients(b, addr, 100, hub)() // what the first ones cost the process once
		before := measure()
		stop := idleClients(b, addr, clients, hub)
		after := measure()
		for i, unit := range []string{"bytes/conn", "heap/conn", "stack/conn"} {
			b.ReportMetric((after[i]-before[i])/clients, unit)
		}
		stop()
		in.Close()
		io.Copy(io.Discard, lines)
		cmd.Wait()
	}
	b.ReportMetric(0, "ns/op")
}

// idleClients connects n clients that have sent one message, and waited for the answer of a hub, and
// returns what disconnects them.
func idleClients(b *testing.B, addr string, n int, hub bool) func() {
	conns := make([]net.Conn, n)
	request := []byte(upgradeRequest("EIO=4&transport=websocket", "User-Agent: Mozilla/5.0 (X11; Linux x86_64)", "Origin: http://test"))
	buf := make([]byte, 4096)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatalf("client %d: %v", i, err)
		}
		c.Write(request)
		until := func(word string) {
			for got := 0; ; {
				n, err := c.Read(buf[got:])
				if err != nil {
					b.Fatal(err)
				}
				if got += n; bytes.Contains(buf[:got], []byte(word)) {
					break
				}
			}
		}
		until(`"maxPayload"`)
		c.Write(textFrame("40"))
		if hub {
			until(`40{"sid"`)
		}
		c.Write(textFrame(`42["some longer event","with an argument or two"]`))
		conns[i] = c
	}
	return func() {
		for _, c := range conns {
			c.Close()
		}
	}
}
