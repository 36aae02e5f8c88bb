package soak

import (
	"fmt"
	"net"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/backend"
	"tether/internal/long"
	"tether/transport"
)

// Clients that never read cost no more than their queue, in the process and in the kernel, are let go,
// and harm nobody.
func TestClientsThatDoNotReadAreBounded(t *testing.T) {
	long.Beside(t)
	on(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		n, each1 := scaled(50, 1000), scaled(4<<20, 10<<20)
		r := newRig(t, brokerURL, addr, 1, 5*time.Second, hub.Options{}, transport.Options{})
		c := startChild(t, r.book, "child", brokerURL)
		healthy := newClient(r.book, "child", c.addr, "healthy")
		if err := healthy.start(webSocket); err != nil {
			t.Fatal(err)
		}
		slow := r.stuck(c.addr, n)
		if t.Failed() {
			return
		}
		p := r.publishers()[1]
		stop := make(chan struct{})
		end := r.load([]string{"healthy"}, stop, time.Millisecond)
		must(t, "events to another client", func() bool { return healthy.got.Load() >= 1000 }) // and the rest meanwhile
		before := c.status("VmRSS")
		kernel := watchKernel(c.addr)
		began := time.Now()
		feed(t, p.emitter, n, each1)
		fed := time.Since(began)
		inKernel := kernel()
		gone, in := within(wait, func() bool {
			for i := range n {
				if receipt, err := p.emitter.Emit(t.Context(), hub.User("slow"+strconv.Itoa(i)), "y"); err != nil || !receipt.Nobody() {
					return false
				}
			}
			return true
		})
		if !in {
			t.Error("clients that do not read are still there")
		}
		grown := c.status("VmHWM") - before
		close(stop)
		slowest, _ := end()
		limit := int64(n)*(1<<20+32<<10) + 128<<20 // queues, and the runtime's own room
		if grown > limit {
			t.Errorf("the node has grown by %d MiB, %d are allowed", grown>>20, limit>>20)
		}
		if inKernel > 256<<10 {
			t.Errorf("the kernel held %d KiB for a client, 256 are allowed", inKernel>>10)
		}
		figure(t, "slow clients", "%d clients that do not read, %d MiB for each, fed in %v: the node has grown by %.1f MiB at most, the kernel held at most %d KiB for one, they were gone %v later; the others: %v, slowest emit %v",
			n, each1>>20, fed.Round(time.Millisecond), float64(grown)/(1<<20), inKernel>>10, gone.Round(time.Millisecond), r.settle(), slowest.Round(time.Millisecond))
		for _, conn := range slow {
			conn.Close()
		}
	})
}

// stuck connects clients that read until they are connected, and then no more.
func (r *rig) stuck(addr string, n int) []net.Conn {
	conns := make([]net.Conn, n)
	each(n, 16, func(i int) {
		cl := newClient(nil, "", addr, "slow"+strconv.Itoa(i))
		if err := cl.dial(""); err != nil {
			r.t.Error(err)
			return
		}
		cl.conn.(*net.TCPConn).SetReadBuffer(4096)
		cl.write(1, []byte(`40{"user":"slow`+strconv.Itoa(i)+`"}`))
		for !cl.connected.Load() {
			_, payload, err := cl.next()
			if err != nil {
				r.t.Error(err)
				return
			}
			cl.connected.Store(strings.HasPrefix(string(payload), "40"))
		}
		conns[i] = cl.conn
	})
	return conns
}

// feed emits so many bytes to each of n slow clients, or until it has been let go, as fast as it goes: to
// all in turn, so that their queues are full at the same time.
func feed(t *testing.T, e *hub.Emitter, n, bytes int) {
	payload := strings.Repeat("x", 32<<10)
	gone := make([]bool, n)
	for range bytes / len(payload) {
		each(n, 8, func(i int) {
			if gone[i] {
				return
			}
			receipt, err := e.Emit(t.Context(), hub.User("slow"+strconv.Itoa(i)), "x", payload)
			if err != nil {
				t.Errorf("emit: %v", err)
			}
			gone[i] = receipt.Nobody()
		})
	}
}

// Others do not notice clients that do not read: their events take no longer than beside as many that
// read the same events at the same pace, whether those that do not are closed or lose the oldest.
//
// Other users of the machine are noticed, too. Rounds alternate, and there are more of them while it looks
// as if it made a difference: what the node does to others it does in every round.
func TestOthersDoNotNoticeClientsThatDoNotRead(t *testing.T) {
	if soakFor == 0 {
		t.Skip("it compares times, which other processes change: make soak runs it")
	}
	const most = 2 // times the 99th percentile
	on(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		for name, env := range map[string]string{"portable": epollEnv + "=", "epoll": epollEnv + "=1"} {
			t.Run(name, func(t *testing.T) {
				b := newBeside(t, brokerURL, env)
				var reading, closing, dropping []time.Duration
				over := func() bool {
					slowest := max(percentile(closing, 99), percentile(dropping, 99))
					return slowest > most*percentile(reading, 99)
				}
				for round := 0; round < 2 || round < 12 && over(); round++ {
					reading = b.measure(reading, "quick", b.emitter)
					closing = b.beside(closing, b.emitter)
					dropping = b.beside(dropping, b.emitter.Overflow(hub.DropOldest))
				}
				if over() {
					t.Errorf("others take more than %d times as long", most)
				}
				figure(t, "beside slow clients", "50th and 99th percentile of events to another client: beside %d that read %v and %v; beside as many that do not, and are closed, %v and %v; that do not, and lose the oldest, %v and %v (of %d, %d, %d)",
					b.n, percentile(reading, 50), percentile(reading, 99), percentile(closing, 50), percentile(closing, 99), percentile(dropping, 50), percentile(dropping, 99),
					len(reading), len(closing), len(dropping))
				b.end()
			})
		}
	})
}

// beside is a node in a process of its own with n clients that read, and one whose events are timed.
type beside struct {
	t       *testing.T
	rig     *rig
	addr    string
	n       int
	emitter *hub.Emitter
	readers []*client
	times   *times
}

func newBeside(t *testing.T, brokerURL, env string) *beside {
	r := newRig(t, brokerURL, "", 0, 5*time.Second, hub.Options{}, transport.Options{})
	b := &beside{t: t, rig: r, addr: startChild(t, r.book, "child", brokerURL, env).addr, n: scaled(40, 200)}
	b.emitter = r.publishers()[0].emitter
	b.readers = make([]*client, b.n)
	each(b.n, 16, func(i int) {
		b.readers[i] = newClient(nil, "", b.addr, "quick"+strconv.Itoa(i))
		if err := b.readers[i].start(webSocket); err != nil {
			t.Error(err)
		}
	})
	b.times = watchTimes(t, publisher{"timed", b.emitter}, b.addr)
	b.times.count(t, 200)
	return b
}

// measure feeds clients and adds to sorted how long the events of the other one take meanwhile.
func (b *beside) measure(sorted []time.Duration, who string, e *hub.Emitter) []time.Duration {
	b.times.take()
	b.pace(who, e)
	sorted = append(sorted, b.times.take()...)
	slices.Sort(sorted)
	return sorted
}

// beside is measure with clients that do not read.
func (b *beside) beside(sorted []time.Duration, e *hub.Emitter) []time.Duration {
	slow := b.rig.stuck(b.addr, b.n)
	if b.t.Failed() {
		b.t.FailNow()
	}
	sorted = b.measure(sorted, "slow", e)
	for _, conn := range slow {
		conn.Close()
	}
	must(b.t, "clients that do not read are gone", func() bool {
		for i := range b.n {
			if receipt, err := b.emitter.Emit(b.t.Context(), hub.User("slow"+strconv.Itoa(i)), "y"); err != nil || !receipt.Nobody() {
				return false
			}
		}
		return true
	})
	return sorted
}

// pace emits 1.5 MiB to each of the clients in turn, 2,000 events a second: all of those that do not read
// have a full queue at about the same time.
func (b *beside) pace(who string, e *hub.Emitter) {
	const (
		perClient = 48
		interval  = time.Second / 2000
		workers   = 4
	)
	payload := strings.Repeat("x", 32<<10)
	began := time.Now()
	each(workers, workers, func(w int) {
		for i := w; i < b.n*perClient; i += workers {
			<-time.After(time.Until(began.Add(time.Duration(i) * interval)))
			if _, err := e.Emit(b.t.Context(), hub.User(who+strconv.Itoa(i%b.n)), "x", payload); err != nil {
				b.t.Errorf("emit: %v", err)
				return
			}
		}
	})
}

func (b *beside) end() {
	b.times.end()
	for _, c := range b.readers {
		c.hangUp(true)
	}
}

// times are how long events take from their emitter to a client, one every two milliseconds.
type times struct {
	client *client
	stop   chan struct{}
	ended  sync.WaitGroup

	mu   sync.Mutex
	took []time.Duration // guarded by mu
}

func watchTimes(t *testing.T, p publisher, addr string) *times {
	t.Helper()
	w := &times{client: newClient(nil, "", addr, "timed"), stop: make(chan struct{})}
	w.client.onTime = func(sent time.Time) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.took = append(w.took, time.Since(sent))
	}
	if err := w.client.start(webSocket); err != nil {
		t.Fatal(err)
	}
	w.ended.Go(func() {
		ticker := time.NewTicker(2 * time.Millisecond)
		defer ticker.Stop()
		for {
			select {
			case <-w.stop:
				return
			case <-ticker.C:
			}
			if _, err := p.emitter.Emit(t.Context(), hub.User("timed"), "t", time.Now().UnixNano()); err != nil {
				t.Errorf("emit: %v", err)
				return
			}
		}
	})
	return w
}

// count waits until there are n.
func (w *times) count(t *testing.T, n int) {
	t.Helper()
	must(t, "timed events", func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		return len(w.took) >= n
	})
}

// take returns those since the last call, in order of size.
func (w *times) take() []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	took := w.took
	w.took = nil
	slices.Sort(took)
	return took
}

func (w *times) end() {
	close(w.stop)
	w.ended.Wait()
	w.client.hangUp(true)
	<-w.client.done
}

func percentile(sorted []time.Duration, p int) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*p/100, len(sorted)-1)].Round(time.Microsecond)
}

var sendMemory = regexp.MustCompile(`skmem:\(r\d+,rb\d+,t(\d+),tb\d+,f\d+,w(\d+)`)

// watchKernel looks, until the function that it returns is called, at what the kernel holds to be sent
// for each connection of a server, and returns the most; 0 where ss is not installed.
func watchKernel(addr string) (most func() int64) {
	_, port, _ := net.SplitHostPort(addr)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	var max int64
	wg.Go(func() {
		for {
			out, err := exec.Command("ss", "-tnmH", fmt.Sprintf("sport = :%s", port)).Output()
			if err != nil {
				return
			}
			for _, m := range sendMemory.FindAllSubmatch(out, -1) {
				for _, digits := range m[1:] {
					if n, _ := strconv.ParseInt(string(digits), 10, 64); n > max {
						max = n
					}
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return func() int64 { close(stop); wg.Wait(); return max }
}
