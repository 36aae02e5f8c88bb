package interop

import (
	"bufio"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/broker"
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

// launch starts the process.
func (s *server) launch() {
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
}

// start starts the process, and returns when it is ready. One that ends before is started again, as what supervises it would.
func (s *server) start() {
	s.t.Helper()
	s.launch()
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
		select {
		case <-s.done: // the broker did not answer
			s.launch()
		default:
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

// rolloutBrokers are what the servers of a rollout may have between them: URLs, of which they take one each, in turn.
var rolloutBrokers = map[string]func(t *testing.T) (urls []string){
	"redis": func(t *testing.T) []string { return []string{backend.Redis(t).URL} },
	"redis with the log": func(t *testing.T) []string {
		s := backend.Redis(t)
		if s.Kind == backend.StandIn {
			t.Skip("a stand-in keeps no log")
		}
		return []string{s.URL + "?log=5m"}
	},
	"nats": func(t *testing.T) []string { return []string{backend.NATS(t).URL} },
	"nats cluster": func(t *testing.T) (urls []string) {
		for _, s := range backend.NATSCluster(t, 3, backend.NATSRoutes{}) {
			urls = append(urls, s.URL+"?discover=no")
		}
		return urls
	},
	"nats with the log": func(t *testing.T) []string { return []string{backend.JetStream(t, t.TempDir()).URL + "?log=5m"} },
}

// TestARolloutIsNotNoticed: three servers behind a proxy are told to end, one after the other, and each is started again,
// while numbers are emitted to all clients. Those that asked for recovery keep their IDs, and get each number once, in order.
func TestARolloutIsNotNoticed(t *testing.T) {
	long.Only(t)
	t.Parallel()
	d, err := drivers.get(kinds[0])
	need(t, err)
	binary := build(t, "tether/cmd/tether")
	for _, x := range proxies {
		t.Run(x.Binary, func(t *testing.T) {
			t.Parallel()
			x.Need(t)
			for name, start := range rolloutBrokers {
				t.Run(name, func(t *testing.T) { heardRollout(t, x, d, binary, start(t)) })
			}
		})
	}
}

// heardRollout begins another rollout when the broker was silent in one, or an emit took more than a second, as may be on a
// machine that is busy: that is told, and nothing is promised to clients then.
func heardRollout(t *testing.T, x balancer.Proxy, d *driver, binary string, urls []string) {
	for range 3 {
		var silent string
		if !t.Run("rollout", func(t *testing.T) { silent = rollout(t, x, d, binary, urls) }) || silent == "" {
			return
		}
		t.Logf("the broker was silent: %s", silent)
	}
	t.Error("the broker was silent in each rollout")
}

// rollout is one of them. It returns what says that the broker was silent meanwhile.
func rollout(t *testing.T, x balancer.Proxy, d *driver, binary string, urls []string) (silent string) {
	key := token.GenerateKey()
	prefix := strings.NewReplacer("/", ".", "#", "-").Replace(t.Name()) // as a stream of NATS may be called
	environ := []string{"TETHER_AUTH_KEYS=" + key, "TETHER_EMIT_KEYS=an-emit-key-for-tests", "TETHER_PREFIX=" + prefix,
		fmt.Sprintf("TETHER_RECOVERY_LOG=%t", strings.Contains(urls[0], "log="))}
	var servers []*server
	var addrs []string
	for i, name := range []string{"a", "b", "c"} {
		s := &server{t: t, binary: binary, name: name, addr: backend.FreeAddress(t),
			environ: append([]string{"TETHER_BROKER=" + urls[i%len(urls)]}, environ...)}
		s.start()
		t.Cleanup(func() { s.stop(os.Kill) })
		servers, addrs = append(servers, s), append(addrs, s.addr)
	}
	clients, ids := arrive(t, d, "http://"+x.RoundRobin(t, addrs...), key)
	done, ended := make(chan struct{}), make(chan struct{})
	var total int
	go func() { // ended is waited for
		defer close(ended)
		total, silent = emitNumbers(t, urls[0], prefix, done)
	}()
	t.Cleanup(func() { <-ended })
	for _, s := range servers {
		if code := s.stop(syscall.SIGTERM); code != 0 {
			t.Errorf("%s ended with %d:\n%s", s.name, code, &s.log)
		}
		s.start()
	}
	close(done)
	<-ended
	visits := 0
	var faults []string
	for i, c := range clients {
		n, wrong := c.count(t, ids[i], total)
		visits, faults = visits+n, append(faults, wrong...)
	}
	if visits < len(clients) {
		t.Errorf("%d clients have come back %d times, and each node was away once", len(clients), visits)
	}
	for _, s := range servers {
		if s.stop(os.Kill); strings.Contains(s.log.String(), "messages may have been missed") {
			silent = s.log.String()
		}
	}
	if silent == "" && len(faults) > 0 {
		t.Error(strings.Join(faults, "\n"))
	}
	t.Logf("%d numbers to %d clients, which came back %d times; lost: %q", total, len(clients), visits, faults)
	return silent
}

// arrive connects two clients for each transport.
func arrive(t *testing.T, d *driver, front, key string) (clients []*client, ids []string) {
	k, err := token.NewKey(key)
	if err != nil {
		t.Fatal(err)
	}
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
	return clients, ids
}

// emitNumbers emits 0, 1 and so on to everyone until done is closed. It returns how many, and what says that the broker was
// silent.
func emitNumbers(t *testing.T, url, prefix string, done <-chan struct{}) (n int, silent string) {
	b, err := brokers.Mux().Open(t.Context(), url)
	if err != nil {
		t.Error(err)
		return 0, ""
	}
	defer b.Close()
	e := hub.NewEmitter(b, hub.EmitterOptions{Prefix: prefix})
	for tick := time.Tick(4 * time.Millisecond); ; n++ {
		select {
		case <-done:
			return n, silent
		case <-tick:
		}
		began := time.Now()
		_, err := e.Emit(t.Context(), hub.Everyone, "n", n)
		if took := time.Since(began); took > time.Second {
			silent = fmt.Sprintf("number %d took %v", n, took)
		}
		switch {
		case t.Context().Err() != nil: // the test has failed
			return n, silent
		case errors.Is(err, broker.ErrUnavailable):
			silent = fmt.Sprintf("number %d: %v", n, err)
		case err != nil:
			t.Errorf("number %d: %v", n, err)
		}
	}
}

// count takes the numbers below total, each once and in order. It returns how often the client has come back meanwhile, and
// where it has lost numbers or its ID, which a broker that was silent explains.
func (c *client) count(t *testing.T, id string, total int) (visits int, faults []string) {
	t.Helper()
	for want, isNew := 0, false; want < total; {
		switch l := c.next(t); {
		case l.On == "connect":
			visits++
			if isNew = !l.Recovered || l.SID != id; isNew {
				faults = append(faults, fmt.Sprintf("%s comes back as %s, and was %s; recovered: %t; it has %d of %d numbers", c.name, l.SID, id, l.Recovered, want, total))
			}
			id = l.SID
		case l.On != "" || isNew && l.Event != "n": // it has lost the connection, or not got one, or is greeted
		case l.Event != "n" || len(l.Args) != 2:
			t.Fatalf("%s: got %v, want number %d of %d", c.name, l, want, total)
		default:
			got, _ := l.Args[0].(float64)
			if !isNew && int(got) < want {
				t.Errorf("%s: got %v once more, or late; want number %d", c.name, l, want)
			} else if !isNew && int(got) > want {
				faults = append(faults, fmt.Sprintf("%s, after %d returns: got %v, want number %d of %d", c.name, visits, l, want, total))
			}
			want, isNew = int(got)+1, false
		}
	}
	return visits, faults
}
