package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	prom "github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"tether/broker/memory"
	"tether/cmd/tether/internal/server"
	"tether/hub"
	"tether/internal/backend"
	"tether/internal/client"
	"tether/internal/long"
	"tether/metrics"
	"tether/transport"
)

// The faults of docs/three-in-the-morning.md that no other test injects, as the page and the terminal show them.

// awaitNode waits until the page of p shows a node, the only one, as it should be.
func awaitNode(t *testing.T, p *process, what string, is func(server.NodeView) bool) {
	t.Helper()
	var body string
	for began := time.Now(); time.Since(began) < patience; time.Sleep(20 * time.Millisecond) {
		var view server.ClusterView
		_, _, body = adminDo(t, "GET", p.adminURL()+"/api/cluster", "")
		if err := json.Unmarshal([]byte(body), &view); err != nil {
			t.Fatalf("%v: %s", err, body)
		}
		if len(view.Nodes) == 1 && view.Nodes[0].Status != nil && is(view.Nodes[0]) {
			return
		}
	}
	t.Fatalf("the page does not show %s: %s", what, body)
}

func TestAGapIsSeen(t *testing.T) {
	t.Parallel()
	redis := backend.Redis(t)
	if !redis.Restartable() {
		t.Skip("this Redis cannot be stopped")
	}
	environ := []string{"TETHER_BROKER=" + redis.URL, "TETHER_PREFIX=" + t.Name()}
	p := start(t, append(environ, enough...), "--admin.addr=127.0.0.1:0").ready()
	dialUser(t, client.Options{URL: p.url()}, "42")
	redis.Stop()
	awaitNode(t, p, "that it is not ready", func(n server.NodeView) bool { return n.Status.Reason != "" })
	redis.Start()
	awaitNode(t, p, "the gap", func(n server.NodeView) bool { return n.Status.Reason == "" && n.Status.Gaps > 0 })
	p.waitLog("messages may have been missed")
	out, errs, code := tether(t, environ, "top", "--json")
	if code != exitDone || strings.Contains(out, `"gaps":0`) {
		t.Errorf("tether top: got %d, %s%s", code, out, errs)
	}
}

func TestAnEvictionStormIsSeen(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--admin.addr=127.0.0.1:0", "--client.queue-bytes=4096", "--client.kernel-buffer=4096").ready()
	const clients = 3
	for range clients {
		stuck(t, p, "42", "")
	}
	text := strings.Repeat("x", 100_000)
	awaitNode(t, p, "that clients were too slow", func(n server.NodeView) bool {
		p.post("/emit", testEmitKey, `{"user":"42","event":"x","args":["`+text+`"]}`)
		return n.Status.Slow == clients
	})
	_, _, body := adminDo(t, "GET", p.adminURL()+"/metrics", "")
	if !strings.Contains(body, fmt.Sprintf(`tether_slow_clients_total{cause="queue"} %d`, clients)) {
		t.Errorf("the metrics do not say why:\n%s", body)
	}
}

func TestADrainThatIsStuckIsSeen(t *testing.T) {
	t.Parallel()
	p := start(t, enough, "--admin.addr=127.0.0.1:0", "--drain.window=1h", "--drain.delay=0s").ready()
	c := dialUser(t, client.Options{URL: p.url()}, "42")
	p.signal(syscall.SIGTERM)
	awaitNode(t, p, "a drain with a client left", func(n server.NodeView) bool {
		return n.Draining && n.Status.Connections == 1
	})
	if got := p.get("/readyz"); got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, "draining") {
		t.Errorf("/readyz says %v", got)
	}
	p.signal(syscall.SIGTERM)
	if code := p.exit(); code != exitCutShort {
		t.Errorf("after a second signal: exit code %d", code)
	}
	c.Reason() // it has been cut off
}

func TestAClientWhoseNetworkHasGoneIsOnlineUntilItsHeartbeat(t *testing.T) {
	t.Parallel()
	environ := []string{"TETHER_BROKER=" + backend.Redis(t).URL, "TETHER_PREFIX=" + t.Name()}
	p := start(t, append(environ, enough...), "--client.ping-interval=100ms", "--client.ping-timeout=10s").ready()
	stuck(t, p, "42", "") // it answers no ping either
	if out, errs, code := tether(t, environ, "online", "42"); code != exitDone || !strings.Contains(out, "online") {
		t.Errorf("at first: got %d, %s%s", code, out, errs)
	}
	for began := time.Now(); ; time.Sleep(500 * time.Millisecond) {
		out, errs, code := tether(t, environ, "online", "42")
		if code == exitNobody {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("got %d, %s%s", code, out, errs)
		}
	}
}

// panics are the lines of a log that tell of one.
type panics chan map[string]string

func (p panics) Write(text []byte) (int, error) {
	var line map[string]string
	if json.Unmarshal(text, &line) == nil && line["msg"] == "handler panicked" {
		p <- line
	}
	return len(text), nil
}

// TestAPanicOfAHandlerIsSeen in a service with handlers of its own, which tether serve has none of: in the log, and by a
// real Prometheus with the alert.
func TestAPanicOfAHandlerIsSeen(t *testing.T) {
	t.Parallel()
	b := memory.NewBus().Broker()
	defer b.Close()
	lines := make(panics, 2)
	h, err := hub.New(b, hub.Options{DrainWindow: -1, Logger: slog.New(slog.NewJSONHandler(lines, nil))})
	if err != nil {
		t.Fatal(err)
	}
	h.Of("/").On("/orders", func(context.Context, *hub.Socket, *hub.Message) error {
		var none []error
		return none[len(none)]
	})
	figures, registry := metrics.New(), prom.NewRegistry()
	sockets, err := transport.NewHandler(h, transport.Options{OnWritten: figures.Written})
	if err != nil {
		t.Fatal(err)
	}
	figures.Watch(h, sockets)
	registry.MustRegister(figures)
	mux := http.NewServeMux()
	mux.Handle("/socket.io/", sockets)
	mux.Handle("/metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{EnableOpenMetrics: true}))
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- sockets.Serve(ctx, ln, mux, h, transport.ServeOptions{}) }() // waited for below
	defer func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	c := dial(t, client.Options{URL: "http://" + ln.Addr().String()})
	other := dial(t, client.Options{URL: "http://" + ln.Addr().String()})
	if err := c.Emit(t.Context(), "/orders"); err != nil {
		t.Fatal(err)
	}
	line := <-lines
	if line["event"] != "/orders" || line["connection"] == "" || line["socket"] != c.ID ||
		!strings.Contains(line["panic"], "out of range") || !strings.Contains(line["stack"], "TestAPanicOfAHandlerIsSeen") {
		t.Errorf("the log says %v", line)
	}
	c.Reason() // its connection has ended, and no other
	if _, err := h.Emitter().Emit(t.Context(), hub.SocketID(other.ID), "still there"); err != nil {
		t.Fatal(err)
	}
	if got := next(t, other); got != "still there []" {
		t.Errorf("the other client gets %q", got)
	}
	p := startPrometheus(t, &process{addr: ln.Addr().String()})
	p.until(`socket_io_errors_total{kind="panic"} == 1`, 1)
	again := dial(t, client.Options{URL: "http://" + ln.Addr().String()})
	if err := again.Emit(t.Context(), "/orders"); err != nil {
		t.Fatal(err)
	}
	p.until(`ALERTS{alertname="TetherHandlerPanics",alertstate="firing"}`, 1)
}

// TestThreeInTheMorningNamesWhatThereIs: tests, alerts, metrics, settings and commands.
func TestThreeInTheMorningNamesWhatThereIs(t *testing.T) {
	read := func(path string) string {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	page := read("../../docs/three-in-the-morning.md")
	tests := ""
	for _, pattern := range []string{"*_test.go", "../../transport/*_test.go"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			tests += read(f)
		}
	}
	all := func(pattern string) []string { return regexp.MustCompile(pattern).FindAllString(page, -1) }
	alerts := rules(t)
	for _, name := range all("`Tether[A-Za-z]+`") {
		if alerts[strings.Trim(name, "`")] == "" {
			t.Errorf("there is no alert %s", name)
		}
	}
	for name := range alerts {
		if !strings.Contains(page, "`"+name+"`") {
			t.Errorf("nothing is said of the alert %s", name)
		}
	}
	for where, names := range map[string][]string{
		tests:                               all(`Test[A-Z]\w+`),
		read("../../docs/metrics.md"):       all(`tether_\w+`),
		read("../../docs/configuration.md"): all("`(client|drain|admin)\\.[a-z-]+"),
	} {
		for _, name := range names {
			if !strings.Contains(where, strings.Trim(name, "`")) {
				t.Errorf("there is no %s", name)
			}
		}
	}
	for _, m := range regexp.MustCompile("(?m)(?:`|^)tether ([a-z-]+)").FindAllStringSubmatch(page, -1) {
		if out, err := tetherCommand([]string{m[1], "-h"}, nil).CombinedOutput(); err != nil {
			t.Errorf("there is no command tether %s: %s", m[1], out)
		}
	}
}

// TestTheCommandsForOperatorsWorkWordForWord: those of the pages, with a Redis and a file of keys of the test's, and less
// patience. What starts a node is checked as it would be at the start.
func TestTheCommandsForOperatorsWorkWordForWord(t *testing.T) {
	long.Only(t) // each line of them starts a program
	t.Parallel()
	redis, bin, dir := backend.Redis(t), t.TempDir(), t.TempDir()
	if err := os.Symlink(os.Args[0], filepath.Join(bin, "tether")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "admin.keys"), []byte(adminKey+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := start(t, append([]string{"TETHER_BROKER=" + redis.URL, "TETHER_ADMIN_KEYS=" + adminKey}, enough...)).ready()
	dialUser(t, client.Options{URL: p.url()}, "42")
	here := strings.NewReplacer("redis://localhost:6379", redis.URL, "/etc/tether/", dir+"/", "--for=1m", "--for=1s", "tether serve", "tether check-config")
	for _, page := range []string{"operating", "three-in-the-morning", "tracing"} {
		text, err := os.ReadFile("../../docs/" + page + ".md")
		if err != nil {
			t.Fatal(err)
		}
		ran := 0
		for _, m := range regexp.MustCompile("(?ms)^```(?:sh\n(.*?)|\n\\$ ([^\n]*)\n.*?)^```$").FindAllStringSubmatch(string(text), -1) {
			want, got, out := exitDone, exitUnknown, []byte{}
			if strings.Contains(m[1], "tether follow") {
				want = exitNobody // nothing is emitted meanwhile
			}
			for began := time.Now(); got == exitUnknown && time.Since(began) < patience; { // a busy node may answer too late
				cmd := exec.CommandContext(t.Context(), "sh", "-ec", here.Replace(m[1]+m[2]))
				cmd.Dir = dir
				cmd.Env = append([]string{asProgram + "=1", "PATH=" + bin + ":" + os.Getenv("PATH"), "TETHER_ADMIN_KEYS=" + adminKey}, enough...)
				out, _ = cmd.CombinedOutput()
				got = cmd.ProcessState.ExitCode()
			}
			if got != want || len(out) == 0 {
				t.Errorf("%s.md: got exit code %d, want %d:\n%s\n%s", page, got, want, m[0], out)
			}
			ran++
		}
		if ran == 0 {
			t.Errorf("%s.md has no commands", page)
		}
	}
}
