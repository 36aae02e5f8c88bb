// Package balancer runs the proxies of deploy for tests, each before the nodes of a test. It is imported by tests only.
package balancer

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"tether/internal/backend"
)

// Proxy is a file of deploy, and how the program that it is for is started.
type Proxy struct {
	Binary string
	File   string // in deploy

	listen string // what the file says, and what takes its place
	check  func(config string) []string
	serve  func(config, dir string) []string
}

// Nginx is nginx with a file of deploy.
func Nginx(file string) Proxy {
	return Proxy{
		Binary: "nginx", File: file, listen: "listen 3000;",
		check: func(config string) []string { return []string{"-t", "-e", "stderr", "-c", config} },
		serve: func(config, dir string) []string {
			return []string{"-e", "stderr", "-c", config, "-p", dir, "-g", "daemon off;"}
		},
	}
}

// HAProxy is HAProxy with a file of deploy.
func HAProxy(file string) Proxy {
	return Proxy{
		Binary: "haproxy", File: file, listen: "bind :3000",
		check: func(config string) []string { return []string{"-c", "-f", config} },
		serve: func(config, _ string) []string { return []string{"-db", "-f", config} },
	}
}

// patience is how long a proxy may take until it listens, or has ended, on a machine that is busy.
const patience = 30 * time.Second

// Start runs the proxy before nodes, two or more, until the test ends, and returns its address. Where it is not installed
// the test is skipped, or fails where TETHER_TEST_REQUIRE_REAL is 1.
func (x Proxy) Start(t testing.TB, nodes ...string) string {
	t.Helper()
	return x.start(t, nodes, nil)
}

// RoundRobin is Start with the requests going to one node after the other.
func (x Proxy) RoundRobin(t testing.TB, nodes ...string) string {
	t.Helper()
	return x.start(t, nodes, []string{"        least_conn;\n", "", "balance leastconn", "balance roundrobin"})
}

// Need skips the test, or fails it, where the proxy is not installed, as Start does.
func (x Proxy) Need(t testing.TB) (path string) {
	t.Helper()
	path, err := exec.LookPath(x.Binary)
	if err != nil {
		if os.Getenv("TETHER_TEST_REQUIRE_REAL") == "1" {
			t.Fatalf("%s is not installed, and TETHER_TEST_REQUIRE_REAL=1", x.Binary)
		}
		t.Skipf("%s is not installed: the configuration deploy/%s is not tested", x.Binary, x.File)
	}
	return path
}

func (x Proxy) start(t testing.TB, nodes, edits []string) string {
	t.Helper()
	binary := x.Need(t)
	text, err := os.ReadFile(filepath.Join("../../deploy", x.File))
	if err != nil {
		t.Fatal(err)
	}
	plain := strings.NewReplacer(edits...).Replace(string(text))
	if len(edits) > 0 && plain == string(text) {
		t.Fatalf("deploy/%s does not say how the load is balanced", x.File)
	}
	addr, dir := backend.FreeAddress(t), t.TempDir()
	config := filepath.Join(dir, x.File)
	edit := strings.NewReplacer(
		x.listen, strings.NewReplacer(":3000", addr, "3000", addr).Replace(x.listen), "/tmp/nginx.pid", filepath.Join(dir, "nginx.pid"))
	if err := os.WriteFile(config, []byte(edit.Replace(before(plain, nodes))), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(binary, x.check(config)...).CombinedOutput(); err != nil {
		t.Fatalf("%s does not like deploy/%s: %v\n%s", x.Binary, x.File, err, out)
	}
	x.run(t, exec.Command(binary, x.serve(config, dir)...), addr)
	return addr
}

// before puts nodes in the place of node-a and node-b. Those behind the second have lines like that one's.
func before(config string, nodes []string) string {
	var b strings.Builder
	for line := range strings.Lines(config) {
		b.WriteString(strings.NewReplacer("node-a:3000", nodes[0], "node-b:3000", nodes[1]).Replace(line))
		if !strings.Contains(line, "node-b:3000") {
			continue
		}
		for i, node := range nodes[2:] {
			name := string(rune('c' + i))
			b.WriteString(strings.NewReplacer("node-b:3000", node, "server b ", "server "+name+" ", "cookie b ", "cookie "+name+" ").Replace(line))
		}
	}
	return b.String()
}

// run returns when the process listens; the test's cleanup ends it.
func (x Proxy) run(t testing.TB, cmd *exec.Cmd, addr string) {
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
			t.Logf("%s said:\n%s", x.Binary, out)
		}
	})
	deadline := time.After(patience)
	for {
		if conn, err := net.Dial("tcp", addr); err == nil {
			conn.Close()
			return
		}
		select {
		case <-ended:
			t.Fatalf("%s has ended by itself", x.Binary)
		case <-deadline:
			t.Fatalf("%s does not listen", x.Binary)
		case <-time.After(10 * time.Millisecond): // there is nothing to wait on but the port
		}
	}
}
