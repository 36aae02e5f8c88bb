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
	"tether/transport"
)

// Clients that never read cost no more than their queue, in the process and in the kernel, are let go,
// and harm nobody.
func TestClientsThatDoNotReadAreBounded(t *testing.T) {
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
		times := watchTimes(t, p, c.addr)
		stop := make(chan struct{})
		end := r.load([]string{"healthy"}, stop, time.Millisecond)
		times.count(t, 2000) // so many before, and the rest meanwhile
		calm := times.take()
		readers := make([]*client, n)
		each(n, 16, func(i int) {
			readers[i] = newClient(nil, "", c.addr, "quick"+strconv.Itoa(i))
			if err := readers[i].start(webSocket); err != nil {
				t.Error(err)
			}
		})
		times.take()
		feed(t, p.emitter, "quick", n, 1<<20)
		reading := times.take()
		before := c.status("VmRSS")
		kernel := watchKernel(c.addr)
		began := time.Now()
		feed(t, p.emitter, "slow", n, each1)
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
		busy := times.take()
		times.end()
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
		figure(t, "beside slow clients", "99th percentile of events to another client: %v (of %d) while %d clients that do not read are fed as fast as it goes, %v (of %d) while as many that read are: %.1f times; %v while nothing is fed",
			percentile(busy, 99), len(busy), n, percentile(reading, 99), len(reading),
			float64(percentile(busy, 99))/float64(max(percentile(reading, 99), 1)), percentile(calm, 99))
		for _, cl := range readers {
			cl.hangUp(true)
		}
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

// feed emits so many bytes to each of n clients, or until it has been let go.
func feed(t *testing.T, e *hub.Emitter, who string, n, bytes int) {
	payload := strings.Repeat("x", 32<<10)
	each(n, 8, func(i int) {
		for range bytes / len(payload) {
			receipt, err := e.Emit(t.Context(), hub.User(who+strconv.Itoa(i)), "x", payload)
			if err != nil {
				t.Errorf("emit: %v", err)
				return
			}
			if receipt.Nobody() {
				return
			}
		}
	})
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
