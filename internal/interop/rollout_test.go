package interop

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	brokers "tether/broker/drivers"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/balancer"
	"tether/internal/long"
	"tether/token"
)

// server is a process of "tether serve", which ends and comes back at the same address.
type server struct {
	t                  *testing.T
	binary, name, addr string
	environ            []string

	cmd  *exec.Cmd
	log  strings.Builder // of the process; whole when done is closed
	done chan struct{}   // closed when the process has ended
}

// start starts the process, and returns when it is ready.
func (s *server) start() {
	s.t.Helper()
	s.cmd = exec.Command(s.binary, "serve", "--addr="+s.addr, "--node="+s.name, "--recovery.on", "--log.level=warn")
	s.cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME")}, s.environ...)
	out, err := s.cmd.StderrPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	done := make(chan struct{})
	s.done = done
	go func() { // until the process ends; stop waits
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			fmt.Fprintln(&s.log, lines.Text())
		}
		_ = s.cmd.Wait() // stop looks at the state
	}()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) { // there is nothing to wait on but the answer
		res, err := http.Get("http://" + s.addr + "/readyz")
		if err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return
			}
		}
		if time.Now().After(deadline) {
			s.stop(os.Kill)
			s.t.Fatalf("%s is not ready: %v\n%s", s.name, err, &s.log)
		}
	}
}

// stop returns the exit code.
func (s *server) stop(signal os.Signal) int {
	s.cmd.Process.Signal(signal)
	select {
	case <-s.done:
	case <-time.After(2 * patience):
		s.t.Errorf("%s does not end", s.name)
		s.cmd.Process.Kill()
		<-s.done
	}
	return s.cmd.ProcessState.ExitCode()
}

// TestARolloutIsNotNoticed: three servers behind a proxy are told to end, one after the other, and each is started again,
// while numbers are emitted to all clients. Those that asked for recovery keep their IDs, and get each number once, in order.
func TestARolloutIsNotNoticed(t *testing.T) {
	long.Only(t)
	t.Parallel()
	for _, x := range proxies {
		t.Run(x.Binary, func(t *testing.T) {
			d, err := drivers.get(kinds[0])
			need(t, err)
			x.Need(t)
			rollout(t, x, d)
		})
	}
}

func rollout(t *testing.T, x balancer.Proxy, d *driver) {
	key := token.GenerateKey()
	k, err := token.NewKey(key)
	if err != nil {
		t.Fatal(err)
	}
	redis, binary := backend.Redis(t).URL, build(t, "tether/cmd/tether")
	environ := []string{"TETHER_BROKER=" + redis, "TETHER_AUTH_KEYS=" + key, "TETHER_EMIT_KEYS=an-emit-key-for-tests", "TETHER_PREFIX=" + t.Name()}
	var servers []*server
	var addrs []string
	for _, name := range []string{"a", "b", "c"} {
		s := &server{t: t, binary: binary, name: name, addr: backend.FreeAddress(t), environ: environ}
		s.start()
		t.Cleanup(func() { s.stop(os.Kill) })
		servers, addrs = append(servers, s), append(addrs, s.addr)
	}
	front := "http://" + x.RoundRobin(t, addrs...)
	var clients []*client
	var ids []string
	for i := range 2 * len(allTransports) {
		w := way{kind: kinds[0], d: d, transports: allTransports[i%len(allTransports)]}
		sealed, err := token.NewKeyring(k).SealUser(fmt.Sprint(i), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		c := d.dial(t, front, "", w.options(map[string]any{"auth": map[string]any{"token": sealed, "recovery": true}}))
		ids = append(ids, c.on(t, "connect").SID)
		c.missed(t, "/ops/connection-success", map[string]any{"message": "Successfully connected"})
		select { // as most have when a rollout begins; one whose upgrade has to wait stays on polling
		case <-c.upgraded:
		case <-time.After(2 * time.Second):
		}
		clients = append(clients, c)
	}
	done := make(chan struct{})
	total := make(chan int, 1)
	go func() { total <- emitNumbers(t, redis, t.Name(), done) }() // received below
	for _, s := range servers {
		if code := s.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("%s ended with %d:\n%s", s.name, code, &s.log)
		}
		s.start()
	}
	close(done)
	last := <-total
	visits := 0
	for i, c := range clients {
		visits += c.count(t, ids[i], last)
	}
	if visits < len(clients) {
		t.Errorf("%d clients have come back %d times, and each node was away once", len(clients), visits)
	}
	t.Logf("%d numbers to %d clients, which came back %d times: each once, in order", last, len(clients), visits)
}

// emitNumbers emits 0, 1 and so on to everyone until done is closed, and returns how many.
func emitNumbers(t *testing.T, url, prefix string, done <-chan struct{}) (n int) {
	b, err := brokers.Mux().Open(t.Context(), url)
	if err != nil {
		t.Error(err)
		return 0
	}
	defer b.Close()
	e := hub.NewEmitter(b, hub.EmitterOptions{Prefix: prefix})
	for tick := time.Tick(4 * time.Millisecond); ; n++ {
		select {
		case <-done:
			return n
		case <-tick:
		}
		if _, err := e.Emit(t.Context(), hub.Everyone, "n", n); err != nil {
			t.Errorf("number %d: %v", n, err)
		}
	}
}

// count takes the numbers below total, each once and in order, and returns how often the client has come back meanwhile,
// with the ID that it has.
func (c *client) count(t *testing.T, id string, total int) (visits int) {
	t.Helper()
	for want := 0; want < total; {
		switch l := c.next(t); {
		case l.On == "connect" && (!l.Recovered || l.SID != id):
			t.Fatalf("%s comes back as %s, and was %s; recovered: %t; it has %d of %d numbers", c.name, l.SID, id, l.Recovered, want, total)
		case l.On == "connect":
			visits++
		case l.On != "": // it has lost the connection, or not got one
		case l.Event != "n" || len(l.Args) != 2 || l.Args[0] != float64(want):
			t.Fatalf("%s: got %v, want number %d of %d", c.name, l, want, total)
		default:
			want++
		}
	}
	return visits
}
