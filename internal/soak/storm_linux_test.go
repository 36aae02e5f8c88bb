package soak

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"tether/hub"
	"tether/internal/backend"
	"tether/internal/long"
	"tether/transport"
)

// A crowd is a process of clients: this test binary, told by its environment whom to connect to. For
// each line that it reads, "connect" or "drop", it does so with all of them and writes what came of it.
// It ends with its standard input.

const crowdEnv = "TETHER_SOAK_CROWD" // addresses, the number of the first client, how many

const crowdSize = 5000 // clients in a process

type crowdReport struct {
	Failed int
	Error  string `json:",omitempty"` // the first
	Took   time.Duration
}

func serveCrowd(what string) error {
	words := strings.Fields(what)
	addrs := strings.Split(words[0], ",")
	from, err := strconv.Atoi(words[1])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(words[2])
	if err != nil {
		return err
	}
	clients := make([]*client, n)
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var r crowdReport
		var mu sync.Mutex
		began := time.Now()
		switch lines.Text() {
		case "connect": // all at once: no more than 1,024 have not been answered
			each(n, 1024, func(i int) {
				clients[i] = newClient(nil, "", addrs[i%len(addrs)], "u"+strconv.Itoa(from+i))
				if err := clients[i].start(webSocket); err != nil {
					mu.Lock()
					defer mu.Unlock()
					r.Failed++
					r.Error = err.Error()
				}
			})
		case "drop":
			for _, c := range clients {
				c.conn.Close()
			}
			for _, c := range clients {
				<-c.done
			}
		}
		r.Took = time.Since(began)
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	}
	return lines.Err()
}

// crowd is such a process, seen from the test.
type crowd struct {
	in  io.WriteCloser
	out *json.Decoder
}

func startCrowd(t *testing.T, addrs []string, from, n int) *crowd {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(exe)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %d", crowdEnv, strings.Join(addrs, ","), from, n))
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait() })
	return &crowd{in, json.NewDecoder(out)}
}

func (c *crowd) tell(t *testing.T, what string) {
	t.Helper()
	if _, err := fmt.Fprintln(c.in, what); err != nil {
		t.Fatal(err)
	}
}

func (c *crowd) heard(t *testing.T) (r crowdReport) {
	t.Helper()
	if err := c.out.Decode(&r); err != nil {
		t.Fatal(err)
	}
	if r.Failed > 0 {
		t.Errorf("%d clients could not connect: %s", r.Failed, r.Error)
	}
	return r
}

// Ten thousand clients lose their connection at once and come back at once. The broker is asked to
// subscribe in batches, one call of a node at a time. It is slow, so that there are batches also where the
// clients are.
func TestAReconnectStorm(t *testing.T) {
	long.Beside(t)
	on(t, func(t *testing.T, brokerURL, addr string, s *backend.Server) {
		n := scaled(2*crowdSize, 2*crowdSize)
		r := newRig(t, brokerURL, addr, 2, 2*time.Second, hub.Options{}, transport.Options{})
		addrs := []string{r.nodes[0].addr, r.nodes[1].addr}
		var crowds []*crowd
		for from := 0; from < n; from += crowdSize {
			crowds = append(crowds, startCrowd(t, addrs, from, min(crowdSize, n-from)))
		}
		all := func(what string) time.Duration {
			began := time.Now()
			for _, c := range crowds {
				c.tell(t, what)
			}
			for _, c := range crowds {
				c.heard(t)
			}
			return time.Since(began)
		}
		calls := func() (calls, subjects, most int64) {
			for _, node := range r.nodes {
				calls, subjects = calls+node.calls.calls.Load(), subjects+node.calls.subjects.Load()
				most = max(most, node.calls.most.Load())
			}
			return calls, subjects, most
		}
		first := all("connect")
		if t.Failed() {
			return
		}
		all("drop")
		for _, node := range r.nodes {
			node.calls.slow.Store(int64(250 * time.Millisecond))
		}
		before, subjects, _ := calls()
		again := all("connect")
		if t.Failed() {
			return
		}
		after, subscribed, most := calls()
		after, subscribed = after-before, subscribed-subjects
		if again > 30*time.Second+10*slack {
			t.Errorf("%d clients took %v to come back", n, again)
		}
		if after > int64(n)/4 || most > 1 {
			t.Errorf("%d broker calls for %d clients, %d at the same time", after, n, most)
		}
		p := r.publishers()[2]
		var missed atomic.Int64
		each(500, 4, func(i int) {
			receipt, err := p.emitter.Emit(t.Context(), hub.User("u"+strconv.Itoa(i*n/500)), "n")
			if err != nil || receipt.Nobody() {
				missed.Add(1)
			}
		})
		if missed.Load() > 0 {
			t.Errorf("%d of 500 users cannot be reached", missed.Load())
		}
		figure(t, "storm", "%d clients connected in %v, and after all had lost their connection again in %v (%.0f a second), with %d calls that subscribed %d subjects, %.0f calls a second, one of a node at a time",
			n, first.Round(time.Millisecond), again.Round(time.Millisecond), float64(n)/again.Seconds(), after, subscribed, float64(after)/again.Seconds())
	})
}
