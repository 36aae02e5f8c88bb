package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/internal/backend"
	"tether/internal/client"
)

// proxy is one of the proxies of deploy, how it is started, and how it says that it is asked too much.
type proxy struct {
	binary string
	file   string // in deploy; the ending tells them apart
	listen string // what the file says, and what takes its place
	check  func(config string) []string
	serve  func(config, dir string) []string
}

func nginx(file string) proxy {
	return proxy{
		binary: "nginx", file: file, listen: "listen 3000;",
		check: func(config string) []string { return []string{"-t", "-e", "stderr", "-c", config} },
		serve: func(config, dir string) []string {
			return []string{"-e", "stderr", "-c", config, "-p", dir, "-g", "daemon off;"}
		},
	}
}

func haproxy(file string) proxy {
	return proxy{
		binary: "haproxy", file: file, listen: "bind :3000",
		check: func(config string) []string { return []string{"-c", "-f", config} },
		serve: func(config, _ string) []string { return []string{"-db", "-f", config} },
	}
}

// start runs the proxy before two nodes and returns its address.
func (x proxy) start(t *testing.T, a, b *process) string {
	t.Helper()
	binary, err := exec.LookPath(x.binary)
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatalf("%s is not installed, and TETHER_TEST_REQUIRE_REAL=1", x.binary)
		}
		t.Skipf("%s is not installed: the configuration deploy/%s is not tested", x.binary, x.file)
	}
	text, err := os.ReadFile(filepath.Join("../../deploy", x.file))
	if err != nil {
		t.Fatal(err)
	}
	for range 5 { // another process may take the port that was free
		free, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := free.Addr().String()
		free.Close()
		dir := t.TempDir()
		config := filepath.Join(dir, x.file)
		edit := strings.NewReplacer(
			x.listen, strings.NewReplacer(":3000", addr, "3000", addr).Replace(x.listen),
			"node-a:3000", a.addr, "node-b:3000", b.addr, "/tmp/nginx.pid", filepath.Join(dir, "nginx.pid"))
		if err := os.WriteFile(config, []byte(edit.Replace(string(text))), 0o644); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(binary, x.check(config)...).CombinedOutput(); err != nil {
			t.Fatalf("%s does not like deploy/%s: %v\n%s", x.binary, x.file, err, out)
		}
		if x.run(t, exec.Command(binary, x.serve(config, dir)...), addr) {
			return addr
		}
	}
	t.Fatalf("%s does not listen", x.binary)
	return ""
}

// run reports whether the process came to listen; the test's cleanup ends it.
func (x proxy) run(t *testing.T, cmd *exec.Cmd, addr string) bool {
	t.Helper()
	out := &strings.Builder{}
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() { // ends with the process, which the cleanup waits for
		defer close(ended)
		_ = cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-ended:
		case <-time.After(patience):
			_ = cmd.Process.Kill()
			<-ended
		}
		if t.Failed() {
			t.Logf("%s said:\n%s", x.binary, out)
		}
	})
	deadline := time.After(patience)
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return true
		}
		select {
		case <-ended:
			return false
		case <-deadline:
			return false
		case <-time.After(10 * time.Millisecond): // there is nothing to wait on but the port
		}
	}
}

// connections is how many the node has.
func connections(t *testing.T, p *process) int {
	t.Helper()
	var stats struct{ Connections int }
	got := p.request(http.MethodGet, "/stats", "Bearer "+testEmitKey, "")
	if err := json.Unmarshal([]byte(got.body), &stats); err != nil {
		t.Fatalf("stats: %v, %v", got, err)
	}
	return stats.Connections
}

// twoNodes share a Redis and drain slowly enough to watch.
func twoNodes(t *testing.T, args ...string) (a, b *process) {
	t.Helper()
	environ := append([]string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}, enough...)
	args = append(args, "--drain.delay=5s", "--drain.window=300ms")
	a, b = start(t, environ, append(args, "--node=a")...), start(t, environ, append(args, "--node=b")...)
	return a.ready(), b.ready()
}

// reaches checks that an event emitted on either node arrives.
func reaches(t *testing.T, c *client.Client, user string, nodes ...*process) {
	t.Helper()
	for i, node := range nodes {
		body := fmt.Sprintf(`{"user":%q,"event":"from","args":[%d]}`, user, i)
		if got := node.post("/emit", testEmitKey, body); got != (answer{http.StatusOK, `{"nodes":1}`}) {
			t.Errorf("emit to %s: got %v", user, got)
		}
		if got, want := next(t, c), fmt.Sprintf("from [%d]", i); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestProxiesWithStickySessions(t *testing.T) {
	for _, x := range []proxy{nginx("nginx.sticky.conf"), haproxy("haproxy.sticky.cfg")} {
		t.Run(x.binary, func(t *testing.T) {
			t.Parallel()
			a, b := twoNodes(t)
			addr := x.start(t, a, b)
			var all []*client.Client
			for i := range 8 {
				for _, way := range []string{client.WebSocket, client.Polling, client.Upgrade} {
					for _, cookies := range []bool{true, false} {
						o := client.Options{
							URL: "http://" + addr, Transport: way, Cookies: cookies, From: fmt.Sprintf("127.0.1.%d", 1+len(all)),
							Header: http.Header{"Origin": {"http://" + addr}}, // the node has to see the same host
						}
						user := fmt.Sprintf("%s-%v-%d", way, cookies, i)
						c := dialUser(t, o, user)
						reaches(t, c, user, a, b)
						if way == client.Upgrade && c.Transport() != client.WebSocket {
							t.Errorf("%s is on %s", user, c.Transport())
						}
						all = append(all, c)
					}
				}
			}
			onA, onB := connections(t, a), connections(t, b)
			if onA+onB != len(all) || onA == 0 || onB == 0 {
				t.Errorf("%d clients: a has %d, b has %d", len(all), onA, onB)
			}
			onlySocketIO(t, addr)
			drainOne(t, addr, a, b, true)
		})
	}
}

func TestProxiesWithoutStickySessions(t *testing.T) {
	for _, x := range []proxy{nginx("nginx.plain.conf"), haproxy("haproxy.plain.cfg")} {
		t.Run(x.binary, func(t *testing.T) {
			t.Parallel()
			a, b := twoNodes(t, "--client.transports=websocket")
			addr := x.start(t, a, b)
			const clients = 20
			for i := range clients {
				user := fmt.Sprint(i)
				reaches(t, dialUser(t, client.Options{URL: "http://" + addr}, user), user, a, b)
			}
			// All come from one address, and are spread all the same.
			if onA, onB := connections(t, a), connections(t, b); onA+onB != clients || min(onA, onB) < clients/4 {
				t.Errorf("a has %d, b has %d", onA, onB)
			}
			if _, err := tryDial(t, client.Options{URL: "http://" + addr, Transport: client.Polling}); err == nil {
				t.Error("polling is served")
			}
			onlySocketIO(t, addr)
			drainOne(t, addr, a, b, false)
		})
	}
}

// onlySocketIO checks that what is for the inside cannot be had from outside.
func onlySocketIO(t *testing.T, addr string) {
	t.Helper()
	outside := &process{t: t, addr: addr}
	for _, path := range []string{"/emit", "/emit/batch", "/disconnect", "/stats", "/readyz", "/socket.iox", "/"} {
		if got := outside.post(path, testEmitKey, `{"user":"42","event":"x"}`); got.status != http.StatusNotFound {
			t.Errorf("%s from outside: got %v", path, got)
		}
	}
}

// drainOne ends node a while clients are there: who is on it keeps what it has until it is told, and
// whoever comes is served by b.
func drainOne(t *testing.T, addr string, a, b *process, polling bool) {
	t.Helper()
	stayers := map[string]*client.Client{}
	for i := range 6 {
		o := client.Options{URL: "http://" + addr, Cookies: true, From: fmt.Sprintf("127.0.0.%d", 31+i)}
		if polling {
			o.Transport = client.Polling
		}
		user := fmt.Sprintf("stays-%d", i)
		stayers[user] = dialUser(t, o, user)
	}
	a.signal(syscall.SIGTERM)
	a.until("/readyz", http.StatusServiceUnavailable)
	for until := time.Now().Add(1500 * time.Millisecond); time.Now().Before(until); { // also once the proxy has noticed
		for user, c := range stayers {
			reaches(t, c, user, b)
		}
	}
	if code := a.exit(); code != exitDone {
		t.Errorf("a ended with %d", code)
	}
	for i := range 6 {
		o := client.Options{URL: "http://" + addr, Cookies: true, From: fmt.Sprintf("127.0.0.%d", 51+i)}
		if polling {
			o.Transport = []string{client.Polling, client.Upgrade}[i%2]
		}
		user := fmt.Sprintf("comes-%d", i)
		reaches(t, dialUser(t, o, user), user, b)
	}
}
